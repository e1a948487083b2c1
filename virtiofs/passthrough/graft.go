package passthrough

import (
	"fmt"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// graft is a Graft with its permanent node.
type graft struct {
	name string
	node *inode
}

// graftMode is what a graft's mode looks like, whatever the file's is.
const graftMode = unix.S_IFREG | 0o555

func (f *FS) graftAll(grafts []Graft) error {
	if len(grafts) > shards-fuse.RootID-1 {
		return fmt.Errorf("passthrough: %d grafts, at most %d are possible", len(grafts), shards-fuse.RootID-1)
	}
	for _, g := range grafts {
		if _, _, e := virtiofs.ParseName(append([]byte(g.Name), 0)); e != 0 {
			return fmt.Errorf("passthrough: graft name %q is not one path component", g.Name)
		}
		fd, err := unix.Open(g.File, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("passthrough: graft %q: opening %q: %w (name a readable file)", g.Name, g.File, err)
		}
		n := &inode{record: record{id: virtiofs.NodeID(len(f.inodes.permanent)), path: fd, typ: unix.S_IFREG, graft: true}}
		f.inodes.permanent = append(f.inodes.permanent, n)
		f.grafts = append(f.grafts, graft{g.Name, n})
		var st unix.Stat_t
		if e := fstat(fd, &st); e != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return fmt.Errorf("passthrough: graft %q: %q is not a regular file", g.Name, g.File)
		}
	}
	return nil
}

// grafted returns the graft of that name in the directory; nil if there is none.
func (f *FS) grafted(parent *inode, name []byte) *inode {
	if parent.id != fuse.RootID {
		return nil
	}
	for i := range f.grafts {
		if string(name) == f.grafts[i].name {
			return f.grafts[i].node
		}
	}
	return nil
}

// disguise makes a graft's attributes those of a read-only file of root's.
func disguise(a *fuse.Attr) {
	a.Mode, a.UID, a.GID, a.Nlink, a.Rdev = graftMode, 0, 0, 1, 0
}
