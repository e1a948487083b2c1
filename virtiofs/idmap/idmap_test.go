package idmap

import (
	"strconv"
	"strings"
	"testing"
)

// id is one translation of a table: both ways, or forbidden.
type id struct {
	guest, host uint32
	forbidden   bool
}

func TestParse(t *testing.T) {
	for name, x := range map[string]struct {
		rules           []string
		toHost, toGuest []id
	}{
		"nothing": {nil, []id{{0, 0, false}, {maxID, maxID, false}}, []id{{5, 5, false}}},
		"map": {[]string{"map:0:1000:10", "map:100:0:2"},
			[]id{{0, 1000, false}, {9, 1009, false}, {10, 10, false}, {99, 99, false}, {100, 0, false}, {101, 1, false}, {102, 102, false}},
			[]id{{0, 1000, false}, {9, 1009, false}, {1010, 1010, false}, {999, 999, false}, {100, 0, false}, {101, 1, false}, {2, 2, false}}},
		"guest":                 {[]string{"guest:5:50:2"}, []id{{5, 50, false}, {6, 51, false}, {7, 7, false}}, []id{{50, 50, false}, {5, 5, false}}},
		"host":                  {[]string{"host:50:5:2"}, []id{{5, 5, false}, {50, 50, false}}, []id{{5, 50, false}, {6, 51, false}, {52, 52, false}}},
		"both of one way":       {[]string{"guest:5:50:2", "host:50:7:2"}, []id{{5, 50, false}, {6, 51, false}}, []id{{7, 50, false}, {8, 51, false}}},
		"squash-guest":          {[]string{"squash-guest:1:1000:65535"}, []id{{0, 0, false}, {1, 1000, false}, {65535, 1000, false}, {65536, 65536, false}}, []id{{1000, 1000, false}}},
		"squash-host":           {[]string{"squash-host:1000:0:3"}, []id{{0, 0, false}, {1000, 1000, false}}, []id{{0, 1000, false}, {0, 1002, false}, {1003, 1003, false}}},
		"forbid-guest":          {[]string{"forbid-guest:0:1", "forbid-guest:10:2"}, []id{{0, 0, true}, {1, 1, false}, {10, 10, true}, {11, 11, true}, {12, 12, false}}, []id{{0, 0, false}}},
		"squash to the last id": {[]string{"squash-guest:0:4294967294:4294967295"}, []id{{0, maxID, false}, {maxID, maxID, false}}, nil},
		"all ids":               {[]string{"map:0:0:4294967295"}, []id{{0, 0, false}, {maxID, maxID, false}}, []id{{maxID, maxID, false}}},
	} {
		m, err := Parse(x.rules...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, i := range x.toHost {
			if host, ok := m.ToHost(i.guest); ok == i.forbidden || ok && host != i.host {
				t.Errorf("%s: guest %d is host %d, ok %v; want %d", name, i.guest, host, ok, i.host)
			}
		}
		for _, i := range x.toGuest {
			if guest := m.ToGuest(i.host); guest != i.guest {
				t.Errorf("%s: host %d is guest %d, want %d", name, i.host, guest, i.guest)
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	for rules, why := range map[string]string{
		"":                                    "there is no",
		"swap:1:2:3":                          "there is no",
		"map":                                 "numbers",
		"map:1:2":                             "numbers",
		"map:1:2:3:4":                         "numbers",
		"forbid-guest:1":                      "numbers",
		"forbid-guest:1:2:3":                  "numbers",
		"map:a:2:3":                           "not a number",
		"map:-1:2:3":                          "not a number",
		"map:1: 2:3":                          "not a number",
		"map:4294967296:0:1":                  "not a number",
		"map:1:2:0":                           "the count is 0",
		"forbid-guest:1:0":                    "the count is 0",
		"map:4294967295:0:1":                  "beyond the largest",
		"map:4294967294:0:2":                  "beyond the largest",
		"map:0:4294967294:2":                  "beyond the largest",
		"squash-guest:0:4294967295:1":         "beyond the largest",
		"squash-guest:2:0:4294967294":         "beyond the largest",
		"forbid-guest:1:4294967295":           "beyond the largest",
		"map:0:1000:10 and map:9:5000:1":      "guest ids 9 to 9",
		"map:9:5000:1 and map:0:1000:10":      "guest ids 9 to 9",
		"map:0:1000:10 and map:100:1009:1":    "host ids 1009 to 1009",
		"map:0:1000:10 and forbid-guest:5:20": "guest ids 5 to 9",
		"map:0:1000:10 and host:1000:3:1":     "host ids 1000 to 1000",
		"guest:5:1:1 and squash-guest:0:9:10": "guest ids 5 to 5",
		"map:5:5:1 and map:10:10:1 and guest:6:100:5": "guest ids 10 to 10",
		"forbid-guest:7:1 and forbid-guest:7:1":       "guest ids 7 to 7",
		"squash-host:0:0:10 and squash-host:9:5:10":   "host ids 9 to 9",
	} {
		list := strings.Split(rules, " and ")
		_, err := Parse(list...)
		if err == nil {
			t.Errorf("%q: no error", rules)
			continue
		}
		for _, part := range []string{why, strconv.Quote(list[len(list)-1]), "squash-guest:GUEST:HOST:COUNT"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: %v; want %s in it", rules, err, part)
			}
		}
	}
}

// TestSquash: all of a guest is one owner, who is the guest's root.
func TestSquash(t *testing.T) {
	m := Squash(1000)
	for _, id := range []uint32{0, 1, 1000, maxID} {
		if host, ok := m.ToHost(id); host != 1000 || !ok {
			t.Errorf("guest %d is host %d", id, host)
		}
		if guest := m.ToGuest(id); guest != 0 {
			t.Errorf("host %d is guest %d", id, guest)
		}
	}
}

// TestNil: no map is no translation.
func TestNil(t *testing.T) {
	var m *Map
	if host, ok := m.ToHost(7); host != 7 || !ok || m.ToGuest(7) != 7 {
		t.Error("ids differ")
	}
}

func TestAlloc(t *testing.T) {
	m, err := Parse("map:0:1000:10", "forbid-guest:50:10", "squash-guest:60:1:5")
	if err != nil {
		t.Fatal(err)
	}
	var sum uint32
	if n := testing.AllocsPerRun(100, func() {
		host, _ := m.ToHost(61)
		sum += host + m.ToGuest(1005)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse: no rules panic, what a map rule translates comes back, and ids
// that are beyond the last are never made.
func FuzzParse(f *testing.F) {
	f.Add("map:0:1000:10 forbid-guest:20:5 squash-host:0:0:1000", uint32(3))
	f.Add("guest:5:50:2 host:50:7:2", uint32(6))
	f.Add("map:0:0:4294967295", uint32(maxID))
	f.Add("squash-guest:0:4294967294:4294967295", uint32(1))
	f.Add("map:1:2:18446744073709551615", uint32(1))
	f.Fuzz(func(t *testing.T, rules string, id uint32) {
		list := strings.Fields(rules)
		m, err := Parse(list...)
		if err != nil {
			return
		}
		host, _ := m.ToHost(id)
		if guest := m.ToGuest(id); id <= maxID && (host > maxID || guest > maxID) {
			t.Fatalf("%q: %d becomes %d and %d", rules, id, host, guest)
		}
		if strings.Count(rules, "map:") == len(list) && find(m.toHost, id) != nil && m.ToGuest(host) != id {
			t.Fatalf("%q: %d becomes %d and comes back as %d", rules, id, host, m.ToGuest(host))
		}
	})
}
