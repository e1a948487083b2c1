package dax

import "golang.org/x/sys/unix"

// view is what a stretch of addresses shows: the arguments of an mmap(2).
type view struct {
	prot, flags, fd int
	off             uint64
}

const anonymous = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE

// zeros can be read; a tripwire cannot, so that KVM reports whoever touches it
// (vma_is_valid() in virt/kvm/kvm_main.c: a page that is missing where reading is
// allowed is waited for in the background, over and over); scratch can be written.
func zeros() view    { return view{prot: unix.PROT_READ, flags: anonymous, fd: -1} }
func tripwire() view { return view{prot: unix.PROT_NONE, flags: anonymous, fd: -1} }
func scratch() view {
	return view{prot: unix.PROT_READ | unix.PROT_WRITE, flags: anonymous, fd: -1}
}

// contents shows a file from an offset on.
func contents(fd int, off uint64, write bool) view {
	v := view{prot: unix.PROT_READ, flags: unix.MAP_SHARED, fd: fd, off: off}
	if write {
		v.prot |= unix.PROT_WRITE
	}
	return v
}

// inside says whether a stretch is of whole pages, and in the window.
func inside(at, n, size uint64) bool {
	return n > 0 && (at|n)%PageSize == 0 && at < size && n <= size-at
}

// residency is room for mincore(2)'s answer about one range.
type residency [RangeSize / PageSize]byte
