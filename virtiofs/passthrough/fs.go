// Package passthrough is a host directory as a virtiofs.FS: inodes are O_PATH
// descriptors, or what opens them again, open files are ordinary ones, and every
// operation is the system call of the same name on them.
//
// A guest stays inside the directory for two independent reasons: names are one
// checked component each (virtiofs.Name), and whatever is opened by name is
// opened by openat2(2) beneath its parent's descriptor without following
// symbolic links. Only regular files and directories are ever opened for I/O.
//
// The process's umask must be 0 (the guest has applied its own), which is the
// machine's to set, once: the umask belongs to all threads. /proc must be
// mounted.
package passthrough

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/idmap"
	"tenon/virtiofs/xattrmap"
)

// Options is how a directory is shared.
type Options struct {
	ReadOnly bool    // every change is EROFS
	Devices  bool    // MKNOD may make character and block devices, where the host lets it
	Grafts   []Graft // files shown at the root that are not in the directory
	// OneDevice hides from the guest that file systems begin below the share:
	// it then sees a single st_dev. For a share under an overlayfs, which takes
	// no directory that the guest would mount by itself (EREMOTE).
	OneDevice bool
	Budget    *Budget // shared by all shares of the process; nil: New makes one
	// Handles says how inodes are kept that the guest knows and nothing uses.
	Handles HandleMode
	// Writeback is for a guest with a writeback cache: what it opens for writing
	// is opened for reading too, as it fills its pages before it changes them.
	Writeback bool
	// Immutable promises that nobody changes the directory: files and
	// directories may be used without being opened (handle 0).
	Immutable bool
	IDs       *idmap.Maps   // nil: user and group ids are the same on both sides
	Xattrs    *xattrmap.Map // nil: names of extended attributes are the same on both sides
	ACL       bool          // POSIX ACLs are shown and kept; otherwise EOPNOTSUPP
	// Window is the DAX window in which the guest maps files, nil for none. After a
	// successful New it belongs to the share, and Close closes it.
	Window *dax.Window
}

// HandleMode is how an inode is kept that the guest knows and nothing uses.
type HandleMode uint8

const (
	// HandlesAuto keeps a file handle (name_to_handle_at(2)) where the host lets
	// it be opened again, which takes CAP_DAC_READ_SEARCH and a file system that
	// has handles; elsewhere as HandlesNever.
	HandlesAuto HandleMode = iota
	// HandlesAlways refuses to share a directory without file handles.
	HandlesAlways
	// HandlesNever keeps an O_PATH descriptor as long as the budget allows, and
	// then the name under which the inode is opened again.
	HandlesNever
)

// Graft is a host file shown to the guest as a read-only, executable regular
// file under a name in the share's root. It hides a file of that name; READDIR
// does not list it. This is how a guest finds its init without an initrd.
type Graft struct {
	Name string // one path component
	File string // path on the host
}

// FS is a shared directory. It is safe for concurrent use.
type FS struct {
	options  Options
	budget   *Budget
	proc     int // O_PATH descriptor of procRoot
	empty    int // O_PATH descriptor of an empty directory, see kernelFS
	mounts   mounts
	inodes   inodes
	handles  handles
	implicit implicit
	window   *dax.Window // nil: none
	mapped   implicit    // the files that mappings were made of lately
	closed   closed
	locks    locks
	grafts   []graft
	ids      identity
	xattrs   xattrs
}

var _ virtiofs.FS = (*FS)(nil)

// New shares the directory. The error names the directory, or the file of a
// graft, and what to do about it.
func New(dir string, o Options) (*FS, error) {
	f := &FS{options: o, budget: o.Budget, proc: -1, empty: -1, ids: currentIdentity(), xattrs: newXattrs(&o)}
	if err := o.contradiction(); err != nil {
		return nil, fmt.Errorf("sharing directory %q: %w", dir, err)
	}
	if f.budget == nil {
		b, err := NewBudget()
		if err != nil {
			return nil, err
		}
		f.budget = b
	}
	if err := f.open(dir); err != nil {
		_ = f.Close()
		return nil, err
	}
	if o.Window != nil {
		f.window = o.Window
		f.window.Attach(f)
		f.mapped.init(f.budget)
	}
	return f, nil
}

func (f *FS) open(dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("sharing directory %q: %w (%s)", dir, err, remedy(err))
	}
	root := &inode{record: record{path: fd, typ: unix.S_IFDIR}}
	f.inodes.init(f.budget, root, f.leave)
	f.handles.init(f.budget)
	f.implicit.init(f.budget)
	if name, yes := ofKernel(fd); yes {
		return fmt.Errorf("sharing directory %q: it is on a %s file system, which opens the host's kernel to the guest (name another)", dir, name)
	}
	if f.empty, err = openEmpty(); err != nil {
		f.empty = -1
		return fmt.Errorf("sharing directory %q: %w (make the temporary directory writable)", dir, err)
	}
	var empty byte
	var st unix.Statx_t
	if e := statx(fd, &empty, unix.AT_EMPTY_PATH, statxMask, &st); e != 0 {
		return fmt.Errorf("sharing directory %q: statx: %w (Linux 5.8 or later is needed)", dir, e)
	}
	if f.proc, err = unix.Open(procRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		f.proc = -1
		return fmt.Errorf("sharing directory %q: opening %s: %w (mount /proc)", dir, procRoot, err)
	}
	probe, e := openBeneath(fd, &[]byte(".\x00")[0], unix.O_PATH, 0)
	if e != 0 {
		return fmt.Errorf("sharing directory %q: openat2: %w (Linux 5.6 or later, and search permission, are needed)", dir, e)
	}
	closeFD(probe)
	m := f.enter(fd, &st)
	root.key = keyOf(&st, m)
	if f.options.Handles == HandlesAlways && !m.handles() {
		return fmt.Errorf("sharing directory %q: inode-handles=always: %w (run with CAP_DAC_READ_SEARCH and on a file system that has file handles, or use inode-handles=auto)", dir, f.noHandles(fd, &st))
	}
	return f.graftAll(f.options.Grafts)
}

func remedy(err error) string {
	switch {
	case os.IsNotExist(err):
		return "create it or name another"
	case os.IsPermission(err):
		return "run as a user that may reach it"
	case err == unix.ENOTDIR:
		return "name a directory"
	}
	return "check the path"
}

// ReadOnly implements virtiofs.Volume.
func (f *FS) ReadOnly() bool { return f.options.ReadOnly }

// Reset implements virtiofs.Volume.
func (f *FS) Reset() {
	f.handles.reset()
	f.implicit.reset()
	f.closed.reset()
	f.resetLocks()
	f.inodes.reset()
	if f.window != nil {
		f.mapped.reset()
		f.window.Reset()
	}
}

// Close drops everything, the root included. No call may be under way or follow.
func (f *FS) Close() error {
	var err error
	if f.window != nil {
		err = f.window.Close() // first: it opens files on its own account
	}
	f.Reset()
	for _, n := range f.inodes.permanent {
		if n != nil {
			closeFD(n.path)
			if n.key.mount != nil {
				f.leave(n.key.mount)
			}
		}
	}
	f.inodes.permanent = nil
	f.implicit.end()
	f.mapped.end()
	for _, fd := range []*int{&f.proc, &f.empty} {
		if *fd >= 0 {
			closeFD(*fd)
			*fd = -1
		}
	}
	return err
}

// Statfs implements virtiofs.Volume.
func (f *FS) Statfs(id virtiofs.NodeID, s *unix.Statfs_t) unix.Errno {
	n, e := f.pin(id)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	return fstatfs(n.fd(), s)
}

// Syncfs implements virtiofs.Volume.
func (f *FS) Syncfs(id virtiofs.NodeID) unix.Errno {
	n, e := f.pin(id)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	fd, e := f.reopen(n, unix.O_RDONLY)
	if e != 0 {
		return e
	}
	defer closeFD(fd)
	return call1(unix.SYS_SYNCFS, fd)
}
