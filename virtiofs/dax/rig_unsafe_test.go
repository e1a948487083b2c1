package dax

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// load copies out of the window by a system call; EFAULT is a page that cannot be
// read. Bytes before that page are copied.
func (w *Window) load(at uint64, dst []byte) (int, unix.Errno) {
	return w.vm(unix.SYS_PROCESS_VM_READV, at, dst)
}

// store copies into the window by a system call.
func (w *Window) store(at uint64, src []byte) (int, unix.Errno) {
	return w.vm(unix.SYS_PROCESS_VM_WRITEV, at, src)
}

func (w *Window) vm(nr uintptr, at uint64, b []byte) (int, unix.Errno) {
	local := unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
	remote := unix.RemoteIovec{Base: uintptr(w.space.base) + uintptr(at), Len: len(b)}
	n, _, e := unix.Syscall6(nr, uintptr(unix.Getpid()),
		uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	return int(n), e
}

// base is the window's first address.
func (w *Window) base() uintptr { return uintptr(w.space.base) }

// mapAt maps a private page at an address that must be free.
func mapAt(at uintptr) ([]byte, error) {
	p, _, e := unix.Syscall6(unix.SYS_MMAP, at, PageSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, ^uintptr(0), 0)
	if e != 0 {
		return nil, e
	}
	var at0 unsafe.Pointer
	*(*uintptr)(unsafe.Pointer(&at0)) = p
	return unsafe.Slice((*byte)(at0), PageSize), nil
}

// unmap takes away what mapAt has mapped.
func unmap(b []byte) { unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b))) }

// touchSome reads a byte each of n places, at most 1024, in one system call, and says
// how many could be read before the first that could not.
func (w *Window) touchSome(at, stride, n uint64) int {
	var local [1024]byte
	var remote [1024]unix.RemoteIovec
	for i := range n {
		remote[i] = unix.RemoteIovec{Base: uintptr(w.space.base) + uintptr(at+i*stride), Len: 1}
	}
	to := unix.Iovec{Base: &local[0], Len: n}
	got, _, _ := unix.Syscall6(unix.SYS_PROCESS_VM_READV, uintptr(unix.Getpid()),
		uintptr(unsafe.Pointer(&to)), 1, uintptr(unsafe.Pointer(&remote)), uintptr(n), 0)
	return int(got)
}

// unmapAt leaves nothing at all at a stretch, as a mmap(2) that fails may.
func (w *Window) unmapAt(at, n uint64) {
	unix.Syscall(unix.SYS_MUNMAP, uintptr(w.space.base)+uintptr(at), uintptr(n), 0)
}
