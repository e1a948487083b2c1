package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// volume is one file system, or one subvolume, as it is seen at one mount.
type volume struct{ dev, mnt uint64 }

func volumeOf(st *unix.Statx_t) volume {
	return volume{uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), st.Mnt_id}
}

// mount is what is known of a volume that has nodes.
type mount struct {
	volume
	// dir is open for reading, as open_by_handle_at(2) wants a descriptor of the
	// mount to be; -1: inodes here are not opened by handle.
	dir     int
	lame    atomic.Bool  // the process may not open handles any more
	charged bool         // dir is on the budget
	births  bool         // the time of birth is kept and never changes
	maps    atomic.Int32 // whether files can be mapped: mapsYes, mapsNo; 0: not asked yet

	users atomic.Int64 // nodes on it, and calls that are about to make one
}

// handles says that inodes on it are opened by file handle.
func (m *mount) handles() bool { return m.dir >= 0 && !m.lame.Load() }

// mounts is the volumes that have nodes. One without is dropped, with its
// descriptor, so that the host can unmount what the guest has forgotten.
type mounts struct {
	mu  sync.RWMutex
	all map[volume]*mount
}

// Types of file systems (statfs(2)).
const (
	typeExt   = 0xef53
	typeXFS   = 0x58465342
	typeBtrfs = 0x9123683e
	typeTmpfs = 0x01021994
	typeF2FS  = 0xf2f52010
	typeFUSE  = 0x65735546
)

// keepsBirths says that a file system stores when an inode was made and never
// says anything else. Overlayfs does (a copy-up is a birth), and what comes over
// a network may.
func keepsBirths(typ int64) bool {
	switch typ {
	case typeExt, typeXFS, typeBtrfs, typeTmpfs, typeF2FS:
		return true
	}
	return false
}

// mountOf returns the volume of what statx has found in a directory of near;
// nil if it has no nodes.
func (f *FS) mountOf(near *mount, st *unix.Statx_t) *mount {
	v := volumeOf(st)
	if v == near.volume {
		return near
	}
	f.mounts.mu.RLock()
	defer f.mounts.mu.RUnlock()
	return f.mounts.all[v]
}

// enter returns the volume of an O_PATH descriptor and counts a user of it. What
// is below the share's root is a matter of the host and the guest, and charged.
func (f *FS) enter(fd int, st *unix.Statx_t) *mount {
	v := volumeOf(st)
	t := &f.mounts
	t.mu.Lock()
	m := t.all[v]
	if m != nil {
		m.users.Add(1)
	}
	t.mu.Unlock()
	if m != nil {
		return m
	}
	m = f.survey(fd, st)
	if m.dir >= 0 && f.inodes.root().key.mount != nil {
		if m.charged = f.budget.takeKept(); !m.charged {
			closeFD(m.dir)
			m.dir = -1
		}
	}
	t.mu.Lock()
	if old := t.all[v]; old != nil {
		old.users.Add(1)
		t.mu.Unlock()
		f.closeMount(m)
		return old
	}
	if t.all == nil {
		t.all = map[volume]*mount{}
	}
	t.all[v] = m
	t.mu.Unlock()
	return m
}

// leave takes a user off the volume.
func (f *FS) leave(m *mount) {
	if m.users.Add(-1) != 0 {
		return
	}
	f.mounts.mu.Lock()
	last := m.users.Load() == 0 && f.mounts.all[m.volume] == m
	if last {
		delete(f.mounts.all, m.volume)
	}
	f.mounts.mu.Unlock()
	if last {
		f.closeMount(m)
	}
}

func (f *FS) closeMount(m *mount) {
	if m.dir >= 0 {
		closeFD(m.dir)
	}
	if m.charged {
		f.budget.giveKept()
	}
}

// survey finds out what can be relied on where the descriptor leads.
func (f *FS) survey(fd int, st *unix.Statx_t) *mount {
	m := &mount{volume: volumeOf(st), dir: -1}
	m.users.Store(1)
	var fs unix.Statfs_t
	if fstatfs(fd, &fs) != 0 {
		return m // as one of the kernel's, see ofKernel
	}
	_, kernel := kernelFS[int64(fs.Type)]
	// 9p says the type of the file system that its server has, but keeps no births.
	m.births = keepsBirths(int64(fs.Type)) && st.Mask&unix.STATX_BTIME != 0
	// A FUSE server may take handles only as long as it remembers the inode.
	if kernel || fs.Type == typeFUSE || f.options.Handles == HandlesNever {
		return m
	}
	if dir, e := f.tryHandles(fd, st); e == 0 {
		m.dir = dir
	}
	return m
}

// tryHandles opens the inode of an O_PATH descriptor by its handle, to see if
// that can be done here, and returns the descriptor to do it with.
func (f *FS) tryHandles(fd int, st *unix.Statx_t) (dir int, e unix.Errno) {
	if typ := st.Mode & unix.S_IFMT; typ != unix.S_IFDIR && typ != unix.S_IFREG {
		return -1, unix.EOPNOTSUPP // not to be opened for reading
	}
	var h fileHandle
	var empty byte
	if e := handleOf(fd, &empty, unix.AT_EMPTY_PATH, &h); e != 0 {
		return -1, e
	}
	var path fdPath
	if dir, e = openat(f.proc, path.relative(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0); e != 0 {
		return -1, e
	}
	var again unix.Statx_t
	found, e := openByHandle(dir, &h, unix.O_PATH)
	if e == 0 {
		e = statx(found, &empty, unix.AT_EMPTY_PATH, statxMask, &again)
		if e == 0 && (again.Ino != st.Ino || volumeOf(&again) != volumeOf(st)) {
			e = unix.ESTALE
		}
		closeFD(found)
	}
	if e != 0 {
		closeFD(dir)
		return -1, e
	}
	return dir, 0
}

// noHandles is why inodes where the descriptor leads are not opened by handle.
func (f *FS) noHandles(fd int, st *unix.Statx_t) unix.Errno {
	dir, e := f.tryHandles(fd, st)
	if e == 0 {
		closeFD(dir)
		return unix.EOPNOTSUPP
	}
	return e
}
