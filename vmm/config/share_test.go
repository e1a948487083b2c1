package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestShareGrammars(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	here := func(name string) string { return filepath.Join(wd, name) }
	for _, c := range []struct {
		parse func(string) (Share, error)
		in    string
		want  Share
	}{
		{ParseRoot, "/", Share{Tag: RootTag, Dir: "/", ReadOnly: true}},
		{ParseRoot, "/srv/", Share{Tag: RootTag, Dir: "/srv", ReadOnly: true}},
		{ParseRoot, "root,rw", Share{Tag: RootTag, Dir: here("root")}},
		{ParseRoot, "/srv,ro", Share{Tag: RootTag, Dir: "/srv", ReadOnly: true}},
		{ParseRoot, "/srv,rw,rw", Share{Tag: RootTag, Dir: "/srv"}},
		{ParseRoot, `/a\,b:c=d,rw`, Share{Tag: RootTag, Dir: "/a,b:c=d"}},
		{ParseRoot, `/a\\,rw`, Share{Tag: RootTag, Dir: `/a\`}},
		{ParseVolume, "/src:/dst", Share{Dir: "/src", Guest: "/dst"}},
		{ParseVolume, ".:/dst,ro", Share{Dir: wd, Guest: "/dst", ReadOnly: true}},
		{ParseVolume, "/a,b:/c,rw", Share{Dir: "/a,b", Guest: "/c"}},
		{ParseVolume, `/a\:b:/c\:d\,e`, Share{Dir: "/a:b", Guest: "/c:d,e"}},
		{ParseVolume, "/src:dst", Share{Dir: "/src", Guest: "dst"}}, // Validate's to refuse
		{ParseShare, "data=/srv", Share{Tag: "data", Dir: "/srv"}},
		{ParseShare, "data=/srv,ro", Share{Tag: "data", Dir: "/srv", ReadOnly: true}},
		{ParseShare, "a,b:c=/d=e:f", Share{Tag: "a,b:c", Dir: "/d=e:f"}},
		{ParseShare, `a\=b=/c`, Share{Tag: "a=b", Dir: "/c"}},
		{ParseShare, "=/srv", Share{Dir: "/srv"}}, // Validate's to refuse
	} {
		c.want.Sharing = DefaultSharing()
		got, err := c.parse(c.in)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q is %+v, %v, want %+v", c.in, got, err, c.want)
		}
	}
}

func TestShareGrammarsRefuse(t *testing.T) {
	for _, c := range []struct {
		parse   func(string) (Share, error)
		in, why string
	}{
		{ParseRoot, "", "no host directory"},
		{ParseRoot, ",rw", "no host directory"},
		{ParseRoot, "/,overlay", `unknown option "overlay": known are ro|rw, cache=never`},
		{ParseRoot, "/,", `unknown option ""`},
		{ParseRoot, "/,ro,rw", "both ro and rw"},
		{ParseRoot, `/srv\`, "ends in a backslash"},
		{ParseVolume, "/src", "no colon"},
		{ParseVolume, "", "no colon"},
		{ParseVolume, ":/dst", "no host directory"},
		{ParseVolume, "/src:/dst:ro", "/src:/dst,ro"},
		{ParseVolume, "/src:/dst,RO", "unknown option"},
		{ParseVolume, `/src\`, "ends in a backslash"},
		{ParseVolume, `/src:/dst\`, "ends in a backslash"},
		{ParseShare, "/srv", "no equals sign"},
		{ParseShare, "data=", "no host directory"},
		{ParseShare, "data=/srv,cache", "write cache=never"},
		{ParseShare, `data=/srv\`, "ends in a backslash"},
	} {
		got, err := c.parse(c.in)
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%q is %+v, %v, want an error with %q", c.in, got, err, c.why)
		}
	}
}
