package main

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// known is what the two servers do differently, and why that is right. The
// conversations leave these out; here they are held to be as they are written.
var known = []struct {
	what        string
	here, there string
	why         string
	ask         func(t *talk) [2]string
}{
	{"LOOKUP of two components", "EINVAL", "mode 100644", "a name is one component, or the guest gets out of the share",
		func(t *talk) [2]string {
			d := t.dirFor("d", 0o755)
			t.make(fuse.Mknod, place{d, "f"}, u32(unix.S_IFREG|0o644, 0, 0, 0), str("f"))
			return t.modes(fuse.Lookup, t.root, str("d/f"))
		}},
	{"CREATE of a name that is a dangling link", "EEXIST", "success", "no link of the host's is followed",
		func(t *talk) [2]string {
			t.make(fuse.Symlink, place{t.root, "l"}, str("l"), str("target"))
			return t.errors(fuse.Create, t.root, fuse.EntryOutSize+fuse.OpenOutSize, both(u32(unix.O_RDWR|unix.O_CREAT, 0o644, 0, 0), str("l")))
		}},
	{"STATX of a link", "success", "ENOENT", "as above",
		func(t *talk) [2]string {
			t.make(fuse.Symlink, place{t.root, "l"}, str("l"), str("nowhere"))
			return t.errors(fuse.Statx, t.nodes[1], fuse.StatxOutSize, both(u32(0, 0), u64(0), u32(0, unix.STATX_BASIC_STATS)))
		}},
	{"MKDIR in a set-group-id directory", "gid 50", "gid 7", "the host's kernel says whose a new file is, not a chown(2) after it",
		func(t *talk) [2]string {
			d := t.dirFor("d", 0o755)
			for _, root := range t.roots {
				t.check(unix.Chown(filepath.Join(root, "d"), 0, 50))
				t.check(unix.Chmod(filepath.Join(root, "d"), 0o2777))
			}
			t.uid, t.gid = 1000, 7
			return t.entries(fuse.Mkdir, d, func(e fstest.Entry) string { return fmt.Sprintf("gid %d", e.Attr.GID) }, u32(0o755, 0), str("e"))
		}},
	{"MKNOD with set-id bits", "mode 104755", "mode 100755", "as above",
		func(t *talk) [2]string {
			return t.modes(fuse.Mknod, t.root, u32(unix.S_IFREG|0o4755, 0, 0, 0), str("f"))
		}},
	{"FALLOCATE of a set-user-id file by a user", "mode 100755", "mode 104755", "who may not keep the bits changed the file",
		func(t *talk) [2]string {
			f := t.fileFor("f", 0o4755)
			t.uid, t.gid = 1000, 1000
			_, _ = t.on(fuse.Fallocate, f, 0, u64(0, 10), u32(0, 0))
			return t.modes(fuse.Lookup, t.root, str("f"))
		}},
	{"SETATTR of mode and owner at once", "mode 104755", "mode 100755", "the mode is what is asked for",
		func(t *talk) [2]string {
			f := t.fileFor("f", 0o644)
			_, _ = t.exchange(fuse.Setattr, f.node, fuse.AttrOutSize, both(u32(fuse.FattrMode|fuse.FattrUID, 0),
				u64(0, 0, 0, 0, 0, 0), u32(0, 0, 0, 0o4755, 0, 5, 0, 0)))
			return t.modes(fuse.Lookup, t.root, str("f"))
		}},
}

// checkKnown asks for every known difference in directories of their own.
func checkKnown() (wrong int, err error) {
	for _, k := range known {
		e := in(0, func(t *talk) {
			got := k.ask(t)
			if want := [2]string{k.here, k.there}; got != want || t.unknown != nil {
				fmt.Printf("%s: %q, known is %q %v\n", k.what, got, want, t.unknown)
				wrong++
			}
		})
		if e != nil {
			return wrong, e
		}
	}
	return wrong, nil
}

// dirFor makes a directory in the root, on both sides.
func (t *talk) dirFor(name string, mode uint32) *node {
	t.make(fuse.Mkdir, place{t.root, name}, u32(mode, 0), str(name))
	return t.nodes[len(t.nodes)-1]
}

// fileFor makes a file in the root and opens it, on both sides.
func (t *talk) fileFor(name string, mode uint32) *file {
	body, err := t.call(fuse.Create, t.root, fuse.EntryOutSize+fuse.OpenOutSize, both(u32(unix.O_RDWR|unix.O_CREAT, 0o644, 0, 0), str(name)))
	t.check(err)
	t.keep(t.entry(fuse.Create, place{t.root, name}, entries(body)), false, unix.O_RDWR, body, fuse.EntryOutSize)
	for _, root := range t.roots {
		t.check(unix.Chmod(filepath.Join(root, name), mode))
	}
	return t.files[len(t.files)-1]
}

func (t *talk) check(err error) {
	if err != nil {
		t.report("%v", err)
	}
}

// errors is the error each side answers with.
func (t *talk) errors(op fuse.Opcode, n *node, room int, args func(s int) []byte) (names [2]string) {
	e, _ := t.exchange(op, n, room, args)
	for s := range e {
		names[s] = errName(e[s])
	}
	return names
}

// entries is what show makes of each side's entry, or the error.
func (t *talk) entries(op fuse.Opcode, n *node, show func(fstest.Entry) string, args ...[]byte) (shown [2]string) {
	e, body := t.exchange(op, n, fuse.EntryOutSize, both(args...))
	for s := range e {
		if shown[s] = errName(e[s]); e[s] == 0 {
			shown[s] = show(fstest.ParseEntry(body[s]))
		}
	}
	return shown
}

func (t *talk) modes(op fuse.Opcode, n *node, args ...[]byte) [2]string {
	return t.entries(op, n, func(e fstest.Entry) string { return fmt.Sprintf("mode %o", e.Attr.Mode) }, args...)
}
