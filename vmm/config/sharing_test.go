package config

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestShareOptions(t *testing.T) {
	three := Duration(3 * time.Second)
	window, none := uint64(256<<20), uint64(0)
	for _, c := range []struct {
		options string
		change  func(*Share)
	}{
		{"", func(*Share) {}},
		{",rw,rw", func(s *Share) { s.ReadOnly = false }},
		{",cache=none", func(s *Share) { s.Cache = "never" }},
		{",cache=metadata,cache=metadata", func(s *Share) { s.Cache = "metadata" }},
		{",cache=immutable", func(s *Share) { s.Cache, s.ReadOnly = "immutable", true }},
		{",cache=immutable,ro", func(s *Share) { s.Cache, s.ReadOnly = "immutable", true }},
		{",entry-timeout=3", func(s *Share) { s.EntryTimeout = &three }},
		{",attr-timeout=3s,negative-timeout=0", func(s *Share) { s.AttrTimeout, s.NegativeTimeout = &three, new(Duration) }},
		{",writeback", func(s *Share) { s.Writeback = true }},
		{",no-writeback", func(*Share) {}},
		{",locks=host", func(s *Share) { s.Locks = LocksHost }},
		{",inode-handles=never", func(s *Share) { s.InodeHandles = HandlesNever }},
		{",owner=squash", func(s *Share) { s.Owner = OwnerSquash }},
		{",uid-map=map:0:1000:1,uid-map=map:1:5000:10", func(s *Share) { s.UIDMap = []string{"map:0:1000:1", "map:1:5000:10"} }},
		{",gid-map=forbid-guest:7:1", func(s *Share) { s.GIDMap = []string{"forbid-guest:7:1"} }},
		{",xattr-map=:map::user.virtiofs.:", func(s *Share) { s.XattrMap = ":map::user.virtiofs.:" }},
		{`,xattr-map=\,map\,\,user.\,`, func(s *Share) { s.XattrMap = ",map,,user.," }},
		{",dax=always,dax-window=256M", func(s *Share) { s.DAX, s.DAXWindow = DAXAlways, &window }},
		{",dax=never", func(s *Share) { s.DAX = DAXNever }},
		{",dax-window=0", func(s *Share) { s.DAXWindow = &none }},
		{",dax-min-size=4K,dax-fault=zero", func(s *Share) { s.DAXMinSize, s.DAXFault = 4096, DAXFaultZero }},
		{",dax-fault=stop", func(s *Share) { s.DAXFault = DAXFaultStop }},
		{",posix-acl,security-label,devices,no-submounts", func(s *Share) {
			s.ACL, s.SecurityLabel, s.Devices, s.Submounts = true, true, true, false
		}},
	} {
		want := Share{Tag: "t", Dir: "/srv", Sharing: DefaultSharing()}
		c.change(&want)
		got, err := ParseShare("t=/srv" + c.options)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %+v, %v, want %+v", c.options, got, err, want)
		}
	}
}

// TestShareOptionsRefuse: the message names the option and what it may be.
func TestShareOptionsRefuse(t *testing.T) {
	for _, c := range []struct{ options, why string }{
		{"cache=sometimes", `option "cache=sometimes": cache policy "sometimes": want never (or none), metadata, auto, always or immutable`},
		{"cache", `option "cache" has no value: write cache=never|metadata|auto|always|immutable`},
		{"cache=never,cache=always", "it says both cache=never and cache=always: choose one"},
		{"ro,rw", "it says both ro and rw: choose one"},
		{"writeback,no-writeback", "it says both writeback and no-writeback: choose one"},
		{"locks=remote", `choose guest, host`},
		{"inode-handles=mandatory", "choose auto, always, never"},
		{"owner=me", "choose guest, squash"},
		{"entry-timeout=soon", `option "entry-timeout=soon": "soon" is not a duration`},
		{"attr-timeout=-1s", "choose 0 to 2147483647 seconds"},
		{"negative-timeout=1193047h", "choose 0 to 2147483647 seconds"},
		{"uid-map=map:0:0:1,uid-map=map:0:5:1", `option "uid-map=map:0:5:1"`},
		{"gid-map=some:0:0:1", `option "gid-map=some:0:0:1"`},
		{"xattr-map=:wrong:", `option "xattr-map=:wrong:"`},
		{"dax=sometimes", "choose always, inode, never"},
		{"dax-fault=panic", "choose sigbus, zero, stop"},
		{"dax-window=1M", `"1M" is no size of a window: choose 0 or a power of two from 2M to 16G`},
		{"dax-window=3M", `"3M" is no size of a window`},
		{"dax-window=32G", `"32G" is no size of a window`},
		{"dax-window=big", `option "dax-window=big": "big" is not a size`},
		{"dax-min-size=1.5K", `option "dax-min-size=1.5K": "1.5K" has a fraction`},
		{"posix-acl=yes", `unknown option "posix-acl=yes"`},
		{"turbo", `unknown option "turbo": known are ro|rw, cache=never|metadata|auto|always|immutable`},
	} {
		got, err := ParseShare("t=/srv," + c.options)
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%q is %+v, %v, want an error with %q", c.options, got, err, c.why)
		}
	}
}

// TestSharingContradictions: what is right word by word and cannot work together.
func TestSharingContradictions(t *testing.T) {
	dir := t.TempDir()
	for options, why := range map[string]string{
		"cache=immutable,rw":                   "cache=immutable contradicts rw",
		"writeback,ro":                         "writeback contradicts ro",
		"writeback,cache=never":                "writeback contradicts cache=never",
		"writeback,cache=metadata":             "writeback contradicts cache=metadata",
		"owner=squash,uid-map=map:0:1000:1":    "owner=squash contradicts uid-map and gid-map",
		"posix-acl,owner=squash":               "posix-acl contradicts owner=squash",
		"posix-acl,gid-map=map:0:1000:1":       "posix-acl contradicts owner=squash, uid-map and gid-map",
		"dax=never,dax-window=2M":              "dax=never contradicts dax-window=2M",
		"dax=always,dax-window=0":              "dax=always contradicts dax-window=0",
		"dax=never,dax-window=0":               "",
		"dax=always,writeback":                 "writeback contradicts dax=always",
		"dax=inode,writeback":                  "",
		"writeback,cache=always,locks=host":    "",
		"posix-acl,cache=never,security-label": "",
	} {
		m := valid(t)
		s, err := ParseShare("data=" + dir + "," + options)
		if err != nil {
			t.Fatal(err)
		}
		m.Shares = []Share{s}
		err = m.Validate()
		if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), `share "data": `+why)) {
			t.Errorf("%s: %v, want %q", options, err, why)
		}
	}
}

// TestReadmeHasShareOptions: the README's table and the code have the same options.
func TestReadmeHasShareOptions(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ShareOptions() {
		row := "| `" + strings.ReplaceAll(o.Form, "|", `\|`) + "` |"
		if !strings.Contains(string(readme), row) {
			t.Errorf("README.md has no row %s", row)
		}
	}
}

func TestSharingAsJSON(t *testing.T) {
	s, err := ParseShare("t=/srv,attr-timeout=90,cache=always")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(b), `"cache":"always","attr_timeout":"1m30s"`) {
		t.Errorf("%s, %v", b, err)
	}
}
