package passthrough

import (
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// TestChmodAnyway: the mode is changed where the system call for it is not known, or
// not allowed.
func TestChmodAnyway(t *testing.T) {
	for _, e := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		f := share(t, 1, 100)
		id, _ := lookup(t, f, fuse.RootID, "f0")
		without(t, unix.SYS_FCHMODAT2, e, func() {
			var a fuse.Attr
			in := fuse.SetattrIn{Valid: fuse.FattrMode, Mode: 0o4751}
			if err := f.Setattr(id, &in, &a); err != 0 || a.Mode != unix.S_IFREG|0o4751 {
				t.Errorf("%v: mode %o, %v", e, a.Mode, err)
			}
		})
	}
}

// TestOpenAnyway: a file is opened where its handle is of no use any more.
func TestOpenAnyway(t *testing.T) {
	withHandles(t, func(t *testing.T, o Options) {
		for _, e := range []unix.Errno{unix.EPERM, unix.ESTALE, unix.ENOSYS} {
			f := shareWith(t, 1, 100, o)
			id, _ := lookup(t, f, fuse.RootID, "f0")
			if _, err := getattr(f, id); err != 0 { // its node is open from now on
				t.Fatal(err)
			}
			without(t, unix.SYS_OPEN_BY_HANDLE_AT, e, func() {
				h, _, err := f.Open(id, virtiofs.OpenFlags{})
				if err != 0 {
					t.Errorf("%v: %v", e, err)
					return
				}
				file := virtiofs.File{Node: id, Handle: h}
				if end, err := f.Lseek(file, 0, unix.SEEK_END); err != 0 || end != 4 {
					t.Errorf("%v: %d bytes, %v", e, end, err)
				}
				if err := f.Release(file); err != 0 {
					t.Error(err)
				}
			})
		}
	})
}
