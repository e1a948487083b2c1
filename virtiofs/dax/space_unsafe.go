package dax

import (
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// space is the window's addresses. All that changes what they show, or looks at
// it, goes through here: a MAP_FIXED that misses would replace the Go heap.
type space struct {
	base unsafe.Pointer
	size uint64
}

// reserve takes size bytes of addresses that begin at a multiple of RangeSize and
// shows zeros there.
//
// There is no MADV_DONTDUMP and no MADV_DONTFORK: by default (core(5),
// coredump_filter) a core holds neither shared mappings of files nor anonymous
// memory that was never written, and a Go program never forks without exec. The
// advice would cost two more system calls for every mapping.
func reserve(size uint64) (space, error) {
	// One range more than needed has an aligned place in it; the rest goes back.
	all, err := unix.MmapPtr(-1, 0, nil, uintptr(size+RangeSize), unix.PROT_READ, anonymous)
	if err != nil {
		return space{}, fmt.Errorf("dax: reserve %d bytes of addresses: %w", size, err)
	}
	head := -uintptr(all) % RangeSize
	s := space{base: unsafe.Add(all, head), size: size}
	tail := uintptr(RangeSize) - head
	for _, rest := range []struct {
		at unsafe.Pointer
		n  uintptr
	}{{all, head}, {unsafe.Add(s.base, size), tail}} {
		if rest.n == 0 {
			continue
		}
		if err := unix.MunmapPtr(rest.at, rest.n); err != nil {
			return space{}, fmt.Errorf("dax: give back unused addresses: %w", err)
		}
	}
	return s, nil
}

func (s *space) release() error { return unix.MunmapPtr(s.base, uintptr(s.size)) }

// bytes is the addresses as iovecs want them; nobody may look at the bytes.
func (s *space) bytes() []byte { return unsafe.Slice((*byte)(s.base), s.size) }

// place has a stretch show something else, at once. Whoever called has checked
// the bounds; they are checked again because nothing else stands between a
// guest's number and the rest of this process.
func (s *space) place(at, n uint64, v view) unix.Errno {
	if !inside(at, n, s.size) {
		return unix.EINVAL
	}
	_, _, e := unix.Syscall6(unix.SYS_MMAP, uintptr(s.base)+uintptr(at), uintptr(n),
		uintptr(v.prot), uintptr(v.flags|unix.MAP_FIXED), uintptr(v.fd), uintptr(v.off))
	return e
}

// advise is madvise(2) for a stretch.
func (s *space) advise(at, n uint64, advice int) unix.Errno {
	if !inside(at, n, s.size) {
		return unix.EINVAL
	}
	_, _, e := unix.Syscall(unix.SYS_MADVISE, uintptr(s.base)+uintptr(at), uintptr(n), uintptr(advice))
	return e
}

// resident fills in which pages of a stretch, at most a range, are in memory.
// ENOMEM: there are addresses in it that show nothing at all.
func (s *space) resident(at, n uint64, r *residency) unix.Errno {
	if !inside(at, n, s.size) || n > RangeSize {
		return unix.EINVAL
	}
	_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(s.base)+uintptr(at), uintptr(n), uintptr(unsafe.Pointer(r)))
	return e
}

// readable says whether the page at an offset can be read. The kernel does it: a
// load would be SIGBUS.
func (s *space) readable(at uint64) bool {
	if at >= s.size {
		return false
	}
	var x struct {
		local  unix.Iovec
		remote unix.RemoteIovec
		b      byte
	}
	x.local = unix.Iovec{Base: &x.b, Len: 1}
	x.remote = unix.RemoteIovec{Base: uintptr(s.base) + uintptr(at), Len: 1}
	// The system call itself: the wrapper's slices would be allocated.
	n, _, e := unix.Syscall6(unix.SYS_PROCESS_VM_READV, uintptr(unix.Getpid()),
		uintptr(unsafe.Pointer(&x.local)), 1, uintptr(unsafe.Pointer(&x.remote)), 1, 0)
	return e == 0 && n == 1
}

// mappable says whether the file can be shown at all, by showing it somewhere
// else. Before Linux 6.12 an mmap(2) that the file system refuses has already
// taken away what was there, and left a hole in our addresses for others.
func mappable(v view) unix.Errno {
	at, _, e := unix.Syscall6(unix.SYS_MMAP, 0, PageSize, uintptr(v.prot), uintptr(v.flags), uintptr(v.fd), 0)
	if e != 0 {
		return e
	}
	_, _, e = unix.Syscall(unix.SYS_MUNMAP, at, PageSize, 0)
	return e
}

// watchModify is inotify_add_watch(2) with IN_MODIFY for an open file.
func watchModify(ino, fd int) (wd int32, e unix.Errno) {
	var room [32]byte
	path := append(strconv.AppendInt(append(room[:0], "/proc/self/fd/"...), int64(fd), 10), 0)
	r, _, e := unix.Syscall(unix.SYS_INOTIFY_ADD_WATCH, uintptr(ino),
		uintptr(unsafe.Pointer(unsafe.SliceData(path))), unix.IN_MODIFY)
	return int32(r), e
}
