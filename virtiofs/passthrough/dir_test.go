package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// TestReaddirGoesOn: where names are of one length, a directory is read from its
// beginning to its end without going back, in whatever pages and with attributes by
// turns. Where they are not, what did not fit comes next all the same.
func TestReaddirGoesOn(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(dir, "even"), 0o755))
	check(t, os.MkdirAll(filepath.Join(dir, "uneven"), 0o755))
	const files = 400
	for i := range files {
		check(t, os.WriteFile(fmt.Sprintf("%s/even/file%04d", dir, i), nil, 0o644))
		check(t, os.WriteFile(fmt.Sprintf("%s/uneven/%d%s", dir, i, strings.Repeat("x", i*37%250)), nil, 0o644))
	}
	f := shareDir(t, dir, 10000, Options{})
	c := fstest.Dial(t, virtiofs.NewServer(f, virtiofs.Options{}))
	if _, e := c.Init(fstest.AllFlags); e != 0 {
		t.Fatal(e)
	}
	for _, name := range []string{"even", "uneven"} {
		d, e := c.Lookup(fuse.RootID, name)
		if e != 0 {
			t.Fatal(e)
		}
		for _, room := range []uint32{600, 4096, 32 << 10} {
			for _, how := range []string{"plain", "plus", "by turns"} {
				what := fmt.Sprintf("%s, %d bytes, %s", name, room, how)
				entries, back := readAll(t, f, c, d.Node, room, how)
				if entries != files+2 {
					t.Errorf("%s: %d entries", what, entries)
				}
				if name == "even" && back > 1 { // "." and ".." are shorter
					t.Errorf("%s: went back %d times", what, back)
				}
			}
		}
	}
}

// readAll reads a directory, and says how often it came past what it could tell.
func readAll(t *testing.T, f *FS, c *fstest.Conn, d virtiofs.NodeID, room uint32, how string) (entries, back int) {
	t.Helper()
	fh, e := c.Opendir(d)
	if e != 0 {
		t.Fatal(e)
	}
	h, e := f.handles.pin(virtiofs.File{Node: d, Handle: virtiofs.Handle(fh)}, true)
	if e != 0 {
		t.Fatal(e)
	}
	seen := map[string]bool{}
	for cookie, plus := uint64(0), how == "plus"; ; plus = plus != (how == "by turns") {
		part, e := c.Readdir(d, fh, cookie, room, plus)
		if e != 0 {
			t.Fatal(e)
		}
		if h.pos == noPosition {
			back++
		}
		if len(part) == 0 {
			break
		}
		for _, x := range part {
			if seen[x.Name] {
				t.Fatalf("%s twice", x.Name)
			}
			seen[x.Name] = true
			cookie = x.Next
		}
	}
	f.handles.unpin(h)
	if e := c.Release(d, fh, true); e != 0 {
		t.Fatal(e)
	}
	return len(seen), back
}
