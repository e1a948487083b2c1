package xattrmap

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// client is what becomes of a guest's name, server of a host's; "" is hidden.
type client struct {
	name, host string
	e          unix.Errno
}

type server struct{ name, guest string }

func TestRules(t *testing.T) {
	long := "user." + strings.Repeat("n", NameMax-len("user."))
	for rules, x := range map[string]struct {
		client []client
		server []server
	}{
		":ok:all:::": {
			[]client{{"user.a", "user.a", 0}, {long, long, 0}, {long + "n", "", unix.ERANGE}},
			[]server{{"user.a", "user.a"}}},
		":prefix:all::user.virtiofs.::bad:all:::": {
			[]client{{"trusted.a", "user.virtiofs.trusted.a", 0}, {"user.virtiofs.a", "user.virtiofs.user.virtiofs.a", 0},
				{long, "", unix.ERANGE}},
			[]server{{"user.virtiofs.trusted.a", "trusted.a"}, {"user.a", ""}, {"user.virtiofs.", ""}, {"user.virtiofs", ""}}},
		":map::user.virtiofs.:": {
			[]client{{"trusted.a", "user.virtiofs.trusted.a", 0}},
			[]server{{"user.virtiofs.trusted.a", "trusted.a"}, {"user.a", ""}}},
		"/map/trusted./user.virtiofs./": {
			[]client{{"trusted.a", "user.virtiofs.trusted.a", 0}, {"user.a", "user.a", 0}, {"user.virtiofs.trusted.a", "", unix.EPERM},
				{"user.virtiofs.a", "", unix.EPERM}, {"trusted", "trusted", 0}},
			[]server{{"user.virtiofs.trusted.a", "trusted.a"}, {"user.a", "user.a"}, {"trusted.a", ""}, {"user.virtiofs.a", ""}}},
		" /bad/all/security./security./ \n\t /ok/all/// ": {
			[]client{{"security.a", "", unix.EPERM}, {"user.a", "user.a", 0}},
			[]server{{"security.a", ""}, {"user.a", "user.a"}}},
		":unsupported:all:security.:security.: :ok:client:user.:: :bad:client::: :ok:server:::": {
			[]client{{"security.a", "", unix.EOPNOTSUPP}, {"user.a", "user.a", 0}, {"trusted.a", "", unix.EPERM}},
			[]server{{"security.a", ""}, {"trusted.a", "trusted.a"}}},
		// One direction each.
		":prefix:client:trusted.:user.v.: :prefix:server::user.v.: :ok:all:::": {
			[]client{{"trusted.a", "user.v.trusted.a", 0}},
			[]server{{"user.v.trusted.a", "trusted.a"}, {"user.v.b", "b"}, {"trusted.a", "trusted.a"}}},
		// The names behind a prefix are not reached directly, guarded by a rule or not.
		":prefix:all:trusted.:user.v.: :ok:all:::": {
			[]client{{"user.v.trusted.a", "", unix.EPERM}, {"user.v.a", "user.v.a", 0}},
			[]server{{"user.v.trusted.a", "trusted.a"}}},
		":ok:all:user.v.:: :prefix:all:trusted.:user.v.: :ok:all:::": {
			[]client{{"user.v.trusted.a", "", unix.EPERM}}, nil},
		// Two prefixes of which one is in the other: what two names would become, neither does.
		":prefix:all:trusted.:user.v.: :prefix:all::user.v.: :bad:all:::": {
			[]client{{"trusted.a", "user.v.trusted.a", 0}, {"user.a", "user.v.user.a", 0}}, nil},
		":prefix:all:a.:p.q.: :prefix:all:q.:p.: :ok:all:::": {
			[]client{{"a.x", "", unix.EPERM}, {"q.a.x", "", unix.EPERM}, {"q.b", "p.q.b", 0}}, nil},
	} {
		m, err := Parse(rules)
		if err != nil {
			t.Errorf("%s: %v", rules, err)
			continue
		}
		var buf Name
		for _, c := range x.client {
			host, e := m.Host([]byte(c.name), &buf)
			if e != c.e || string(host) != c.host {
				t.Errorf("%s: guest's %q is %q, %v; want %q, %v", rules, c.name, host, e, c.host, c.e)
			}
			if e == 0 && (buf[len(host)] != 0 || &buf[0] != &host[0]) {
				t.Errorf("%s: guest's %q is not a C string in the buffer", rules, c.name)
			}
		}
		for _, s := range x.server {
			if guest, shown := m.Client([]byte(s.name)); string(guest) != s.guest && shown || shown != (s.guest != "") {
				t.Errorf("%s: host's %q is %q, shown %v; want %q", rules, s.name, guest, shown, s.guest)
			}
		}
	}
}

// TestNil: no rules change nothing but what is too long for any system call.
func TestNil(t *testing.T) {
	var m *Map
	var buf Name
	if host, e := m.Host([]byte("user.a"), &buf); e != 0 || string(host) != "user.a" || buf[6] != 0 {
		t.Errorf("%q, %v", host, e)
	}
	if guest, shown := m.Client([]byte("user.a")); !shown || string(guest) != "user.a" {
		t.Errorf("%q, %v", guest, shown)
	}
}

func TestErrors(t *testing.T) {
	for rules, why := range map[string]string{
		"":                                  "decides about all",
		"  ":                                "decides about all",
		":":                                 "does not end",
		":ok:all::":                         "does not end",
		":ok:all:":                          "does not end",
		"::ok:all::::":                      "no type \"\"",
		":okay:all::: :ok:all:::":           "no type \"okay\"",
		":ok:guest::: :ok:all:::":           "no scope \"guest\"",
		":ok:client:::":                     "decides about all",
		":ok:server:::":                     "decides about all",
		":prefix:all::user.v.:":             "decides about all",
		":ok:all:user.:user.:":              "decides about all",
		":map:trusted.:user.v.: :ok:all:::": "has to be the last",
		":map:a.:b.: :map:c.:d.:":           "has to be the last",
		":map:trusted.::":                   "needs a prefix",
		":map:a:":                           "does not end",
		":ok:all:" + strings.Repeat("k", 256) + ":: :ok:all:::": "longer than 255",
		strings.Repeat(":ok:all:a:a:", 257):                     "more than 256",
	} {
		_, err := Parse(rules)
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), ":ok:all:::") && !strings.Contains(err.Error(), ":map:KEY:PREPEND:") {
			t.Errorf("%q: %v; want %q", rules, err, why)
		}
	}
}

func TestAlloc(t *testing.T) {
	m, err := Parse(":map:security.:user.virtiofs.:")
	if err != nil {
		t.Fatal(err)
	}
	var buf Name
	name, host := []byte("security.selinux"), []byte("user.virtiofs.security.selinux")
	if n := testing.AllocsPerRun(100, func() {
		_, _ = m.Host(name, &buf)
		_, _ = m.Client(host)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse: no rules panic, and no two names of a guest are one of the host's.
func FuzzParse(f *testing.F) {
	for _, rules := range []string{":ok:all:::", ":map::user.virtiofs.:", "/map/trusted./user.virtiofs./",
		":prefix:all:a.:p.q.: :prefix:all:q.:p.: :ok:all:::", ":prefix:server::user.v.: :bad:all:::"} {
		f.Add(rules, []byte("trusted.a"), []byte("user.virtiofs.trusted.a"))
	}
	f.Fuzz(func(t *testing.T, rules string, a, b []byte) {
		m, err := Parse(rules)
		if err != nil {
			return
		}
		var first, second Name
		x, e1 := m.Host(a, &first)
		y, e2 := m.Host(b, &second)
		if e1 == 0 && e2 == 0 && bytes.Equal(x, y) && !bytes.Equal(a, b) {
			t.Fatalf("%q: %q and %q are both %q", rules, a, b, x)
		}
		if guest, shown := m.Client(b); shown && !bytes.HasSuffix(b, guest) {
			t.Fatalf("%q: %q is listed as %q", rules, b, guest)
		}
	})
}
