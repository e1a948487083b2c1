package linuxtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cachePolicy is a policy's promise as a guest can see it.
type cachePolicy struct {
	name, options string
	// repeated is what each of many repetitions of an action asks the host for; the
	// other actions ask at most a few times.
	repeated string
	// Of what the host changes behind the guest's back: seen by the very next look,
	// or after the second that the policy's timeouts are. The rest is not seen.
	atOnce, later string
}

// The actions whose requests are counted, and the changes that the host makes:
//
//	names     attributes of a file that is there       data     other bytes, same size
//	missing   attributes of a file that is not         size     more bytes
//	open      opening and closing a file               gone     a name removed
//	data      reading a file                           missing  a name made that was looked for in vain
//	list      listing a directory                      list     a name made in a directory that was listed
//	link      reading a symbolic link
//	write     small writes through one open file
var cachePolicies = []cachePolicy{
	{"never", "cache=never", "names missing open data list write", "data size gone missing list", ""},
	{"metadata", "cache=metadata", "open data write", "data", ""},
	{"auto", "cache=auto", "missing open list write", "data missing list", "size gone"},
	{"always", "cache=always", "open write", "", ""},
	{"immutable", "cache=immutable,ro", "", "", ""},
	{"writeback", "cache=auto,writeback", "missing open list", "missing list", "gone"},
}

const cacheRepeats, cacheFew = 50, 20

// countedBy is the opcodes that an action's requests have. GETATTR is not among them:
// Linux asks for the times anew after reads and writes, whatever the policy.
var countedBy = map[string][]string{
	"names": {"LOOKUP"}, "missing": {"LOOKUP"}, "open": {"OPEN"}, "data": {"READ"},
	"list": {"READDIR", "READDIRPLUS"}, "link": {"READLINK"}, "write": {"WRITE"},
}

// TestCachePolicies watches each policy from inside a guest: it counts the requests
// that repeated actions cause, and changes files on the host while the guest looks.
func TestCachePolicies(t *testing.T) {
	withGuests(t, func(c *crew) {
		dirs, flags := sharesOfPolicies(t)
		g := c.start(flags...)
		for _, p := range cachePolicies {
			c.step(p.name+" actions", func(t *testing.T) { p.act(t, g) })
		}
		c.step("changes on the host", func(t *testing.T) { changeOnHost(t, g, dirs) })
		c.step("overridden timeouts", func(t *testing.T) { overridden(t, g, dirs["short"]) })
		c.step("appending while the host appends", func(t *testing.T) { appendTogether(t, g, dirs["watch-never"], "/watch-never") })
		c.step("write-back of part of a page", func(t *testing.T) { partOfPage(t, g, dirs["watch-writeback"]) })
		var requests map[string]map[string]int
		c.step("report", func(t *testing.T) {
			g.end(t)
			requests = g.figures(t).Requests
		})
		for _, p := range cachePolicies {
			c.step(p.name+" requests", func(t *testing.T) {
				p.check(t, requests[g.tags["/count-"+p.name]], requests[g.tags["/missing-"+p.name]])
			})
		}
	})
}

// sharesOfPolicies makes three directories for each policy, and the flags that share
// them: to count what actions cost, to look for names that are missing, and to watch
// the host's changes.
func sharesOfPolicies(t *testing.T) (dirs map[string]string, flags []string) {
	t.Helper()
	dirs = make(map[string]string)
	add := func(name, options string) {
		dir := scratch(t)
		must(t, host{}, "mkdir", filepath.Join(dir, "dir"))
		for file, data := range map[string]string{"file": "here", "data": "before", "size": "short", "gone": "", "dir/one": ""} {
			must(t, host{}, "write", filepath.Join(dir, file), data)
		}
		if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		dirs[name] = dir
		flags = append(flags, "-v", dir+":/"+name+","+options)
	}
	for _, p := range cachePolicies {
		add("count-"+p.name, p.options)
		add("missing-"+p.name, p.options)
		add("watch-"+p.name, p.options)
	}
	add("short", "cache=metadata,entry-timeout=3s,attr-timeout=3,negative-timeout=3s")
	return dirs, flags
}

// act does each action many times.
func (p *cachePolicy) act(t *testing.T, g *guest) {
	n, dir := fmt.Sprint(cacheRepeats), "/count-"+p.name
	must(t, g, "times", n, "stat", dir+"/file")
	if got := must(t, g, "times", n, "read", dir+"/file"); got != "here" {
		t.Errorf("the file holds %q", got)
	}
	if got := must(t, g, "times", n, "list", dir+"/dir"); got != "one" {
		t.Errorf("the directory holds %q", got)
	}
	if got := must(t, g, "times", n, "readlink", dir+"/link"); got != "file" {
		t.Errorf("the link says %q", got)
	}
	fails(t, unix.ENOENT, g, "times", n, "stat", "/missing-"+p.name+"/missing")
	if strings.HasSuffix(p.options, ",ro") {
		fails(t, unix.EROFS, g, "write", dir+"/new", "data")
		return
	}
	must(t, g, "appends", dir+"/written", "0123456789", n)
	if got := must(t, g, "read", dir+"/written"); got != strings.Repeat("0123456789", cacheRepeats) {
		t.Errorf("what was written reads as %q", got)
	}
}

// check compares the requests with what the policy promises.
func (p *cachePolicy) check(t *testing.T, requests, missing map[string]int) {
	t.Logf("%v; names that are missing: %v", requests, missing)
	if len(requests) == 0 || len(missing) == 0 {
		t.Fatal("the report counts no requests")
	}
	for action, opcodes := range countedBy {
		from := requests
		if action == "missing" {
			from = missing
		}
		n := 0
		for _, opcode := range opcodes {
			n += from[opcode]
		}
		switch {
		case strings.Contains(p.repeated, action) && n < cacheRepeats:
			t.Errorf("%s: %d requests (%v) for %d repetitions: something was cached", action, n, opcodes, cacheRepeats)
		case action == "link" && p.name != "immutable": // a policy may cache them or not
		case !strings.Contains(p.repeated, action) && n > cacheFew:
			t.Errorf("%s: %d requests (%v) for %d repetitions: nothing was cached", action, n, opcodes, cacheRepeats)
		}
	}
	if p.name == "immutable" {
		for _, opcode := range []string{"OPEN", "RELEASE", "OPENDIR", "RELEASEDIR", "FLUSH"} {
			if n := requests[opcode]; n > 1 { // the one that is told that none is needed
				t.Errorf("%d %s requests", n, opcode)
			}
		}
	}
}

// look is what a guest sees of the changes in a directory: "new" or "old" for each.
func look(t *testing.T, g *guest, dir string) map[string]string {
	t.Helper()
	fresh := func(is bool) string {
		if is {
			return "new"
		}
		return "old"
	}
	exists := func(name string) bool {
		_, err := g.do("stat", dir+"/"+name)
		if err != nil && err != unix.ENOENT {
			t.Fatal(err)
		}
		return err == nil
	}
	return map[string]string{
		"data":    fresh(must(t, g, "read", dir+"/data") == "after!"),
		"size":    fresh(stat(t, g, dir+"/size").Size == uint64(len("shorter"))),
		"gone":    fresh(!exists("gone")),
		"missing": fresh(exists("missing")),
		"list":    fresh(strings.Contains(must(t, g, "list", dir+"/dir"), "two")),
	}
}

// change makes the changes.
func change(t *testing.T, dir string) {
	t.Helper()
	here := func(name string) string { return filepath.Join(dir, name) }
	must(t, host{}, "patch", here("data"), "after!")
	must(t, host{}, "write", here("size"), "shorter")
	must(t, host{}, "unlink", here("gone"))
	must(t, host{}, "write", here("missing"), "")
	must(t, host{}, "write", here("dir/two"), "")
}

// changeOnHost makes the changes in a share of each policy and looks at them at once
// and when the second that timeouts of auto are has passed.
func changeOnHost(t *testing.T, g *guest, dirs map[string]string) {
	for _, p := range cachePolicies {
		dir := "/watch-" + p.name
		for what, seen := range look(t, g, dir) {
			if seen != "old" {
				t.Errorf("%s: %s is %s before it changed", p.name, what, seen)
			}
		}
		change(t, dirs["watch-"+p.name])
		for what, seen := range look(t, g, dir) {
			if strings.Contains(p.atOnce, what) && seen != "new" {
				t.Errorf("%s: %s of the host is not seen at once", p.name, what)
			}
		}
	}
	time.Sleep(1500 * time.Millisecond)
	for _, p := range cachePolicies {
		for what, seen := range look(t, g, "/watch-"+p.name) {
			want := "old"
			if strings.Contains(p.atOnce+" "+p.later, what) {
				want = "new"
			}
			if seen != want && !(p.name == "writeback" && want == "old") {
				t.Errorf("%s: %s is %s after a second, want %s", p.name, what, seen, want)
			}
		}
	}
}

// overridden looks at a share of policy metadata whose timeouts are three seconds: the
// host's changes to names and attributes are not seen before, and are seen after.
func overridden(t *testing.T, g *guest, dir string) {
	const timeout = 3 * time.Second
	from := time.Now()
	look(t, g, "/short")
	change(t, dir)
	early := look(t, g, "/short")
	if took := time.Since(from); took > timeout {
		t.Logf("too slow to see what is cached: %v", took)
	} else {
		for _, what := range []string{"size", "gone", "missing"} {
			if early[what] != "old" {
				t.Errorf("%s is %s after %v", what, early[what], took)
			}
		}
	}
	time.Sleep(timeout + 500*time.Millisecond)
	for what, seen := range look(t, g, "/short") {
		if seen != "new" && what != "list" {
			t.Errorf("%s is %s after the timeout", what, seen)
		}
	}
}

// appendTogether appends from the guest and the host by turns: nobody's bytes are lost.
func appendTogether(t *testing.T, g *guest, dir, mounted string) {
	f := must(t, g, "open", mounted+"/log", fmt.Sprint(unix.O_CREAT|unix.O_APPEND|unix.O_WRONLY))
	must(t, g, "fwrite", f, "g1 ")
	must(t, host{}, "append", filepath.Join(dir, "log"), "h1 ")
	must(t, g, "fwrite", f, "g2 ")
	must(t, host{}, "append", filepath.Join(dir, "log"), "h2")
	must(t, g, "close", f)
	for _, p := range []struct {
		party
		path string
	}{{host{}, filepath.Join(dir, "log")}, {g, mounted + "/log"}} {
		if got := must(t, p, "read", p.path); got != "g1 h1 g2 h2" {
			t.Errorf("the log holds %q", got)
		}
	}
}

// partOfPage writes a few bytes into a file through a descriptor that may not read: a
// guest that writes back whole pages has to read the rest of the page first.
func partOfPage(t *testing.T, g *guest, dir string) {
	file := filepath.Join(dir, "page")
	must(t, host{}, "write", file, strings.Repeat("h", 6000))
	must(t, g, "patch", "/watch-writeback/page", "guest")
	must(t, g, "append", "/watch-writeback/page", "end")
	if size := stat(t, g, "/watch-writeback/page").Size; size != 6003 {
		t.Errorf("the guest says %d bytes before it writes back", size)
	}
	must(t, g, "sync", "/watch-writeback/page")
	if got, want := must(t, host{}, "read", file), "guest"+strings.Repeat("h", 5995)+"end"; got != want {
		t.Errorf("the host reads %d bytes: %.20q...", len(got), got)
	}
}

// TestCachePoliciesOldKernel mounts every policy in a 6.1 guest, which knows fewer of
// the protocol's features, and uses it.
func TestCachePoliciesOldKernel(t *testing.T) {
	withGuests(t, func(c *crew) {
		dirs, flags := sharesOfPolicies(t)
		g := c.start(append(flags, "-k", oldKernel(t))...)
		for _, p := range cachePolicies {
			c.step(p.name, func(t *testing.T) { p.act(t, g) })
		}
		c.step("write-back of part of a page", func(t *testing.T) { partOfPage(t, g, dirs["watch-writeback"]) })
		c.step("data of the host at once", func(t *testing.T) {
			for _, name := range []string{"never", "metadata", "auto"} {
				look(t, g, "/watch-"+name)
				change(t, dirs["watch-"+name])
				if look(t, g, "/watch-"+name)["data"] != "new" {
					t.Errorf("%s: the host's data are not seen", name)
				}
			}
		})
	})
}
