package virtiofs_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/passthrough"
)

// TestMappingByUser: a machine that is not root's maps what its user may open, and
// what the guest has open for writing though the mode forbids that by now, as git
// does; it takes set-id bits that the kernel would take at a write, and leaves alone
// what it cannot take them from.
func TestMappingByUser(t *testing.T) {
	value := string(fstest.U32(0x02000001, 1, 0, 0, 0)) // VFS_CAP_REVISION_2 with CAP_CHOWN
	dir, inside := asUser(t, "^TestMappingByUser$", func(dir string) {
		for _, name := range []string{"foreign", "foreign-suid", "caps"} {
			write(t, filepath.Join(dir, name), "data")
			must(t, os.Chmod(filepath.Join(dir, name), 0o666))
		}
		must(t, unix.Chmod(filepath.Join(dir, "foreign-suid"), 0o4666))
		must(t, unix.Setxattr(filepath.Join(dir, "caps"), "security.capability", []byte(value), 0))
		write(t, filepath.Join(dir, "readable"), "data")
		write(t, filepath.Join(dir, "secret"), "data")
		must(t, os.Chmod(filepath.Join(dir, "secret"), 0o600))
	})
	if !inside {
		return
	}
	m := mapShare(t, passthrough.Options{}, virtiofs.Options{})
	m.UID = 1000
	_, f := m.file("mine", []byte("data"))
	must(t, unix.Chmod(filepath.Join(m.dir, "mine"), 0o6755))
	ok(t, "SETUPMAPPING", m.SetupMapping(f, 0, page, mapBoth, 0))
	if st := lstat(t, filepath.Join(m.dir, "mine")); st.Mode&0o7777 != 0o755 {
		t.Errorf("mode %o", st.Mode&0o7777)
	}
	for _, x := range []struct {
		name        string
		read, write unix.Errno
	}{
		{"foreign", 0, 0}, {"foreign-suid", 0, unix.EPERM}, {"caps", 0, unix.EPERM},
		{"readable", 0, unix.EACCES}, {"secret", unix.EACCES, unix.EACCES},
	} {
		must(t, os.Rename(filepath.Join(dir, x.name), filepath.Join(m.dir, x.name)))
		f := m.look(x.name)
		want(t, x.name+" for reading", m.SetupMapping(f, 0, page, mapRead, 0), x.read)
		want(t, x.name+" for writing", m.SetupMapping(f, 0, page, mapBoth, 0), x.write)
	}

	for name, x := range map[string]struct {
		flags       uint32
		mode        uint32
		read, write unix.Errno
	}{
		"read-only":      {unix.O_RDWR, 0o444, 0, 0},
		"nothing":        {unix.O_RDWR, 0o000, 0, 0},
		"read, nothing":  {unix.O_RDONLY, 0o000, 0, unix.EACCES},
		"write, nothing": {unix.O_WRONLY, 0o000, unix.EACCES, unix.EACCES},
	} {
		g, fh, e := m.Create(root, name, x.flags, x.mode)
		ok(t, "CREATE", e)
		want(t, name+" for writing", m.SetupMapping(g.Node, 0, page, mapBoth, 0), x.write)
		want(t, name+" for reading", m.SetupMapping(g.Node, 0, page, mapRead, 0), x.read)
		ok(t, "RELEASE", m.Release(g.Node, fh, false))
		if x.mode == 0 {
			want(t, name+" released", m.SetupMapping(g.Node, 0, page, mapRead, 0), unix.EACCES)
		}
	}
	// The one that will do is found among others.
	g, _, e := m.Create(root, "two", unix.O_WRONLY, 0o600)
	ok(t, "CREATE", e)
	_, e = m.Open(g.Node, unix.O_RDWR)
	ok(t, "OPEN", e)
	must(t, unix.Chmod(filepath.Join(m.dir, "two"), 0))
	ok(t, "SETUPMAPPING", m.SetupMapping(g.Node, 0, page, mapBoth, 0))
}
