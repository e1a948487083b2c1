package passthrough

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// ioctl passes a command's argument, which is as long as the command says.
func ioctl(fd int, cmd uint32, arg []byte) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	return e
}

// enableVerity is FS_IOC_ENABLE_VERITY.
func enableVerity(fd int, in []byte) unix.Errno {
	if e := pointVerity(in); e != 0 {
		return e
	}
	e := ioctl(fd, unix.FS_IOC_ENABLE_VERITY, in)
	runtime.KeepAlive(in)
	return e
}

// pointVerity makes the pointers of struct fsverity_enable_arg point to the salt
// and the signature, which follow it in memory that does not move: the heap's.
// When nothing follows they point into a guest's process and cannot be followed.
func pointVerity(in []byte) unix.Errno {
	salt, sig := binary.LittleEndian.Uint32(in[12:]), binary.LittleEndian.Uint32(in[24:])
	rest := in[virtiofs.VerityEnableSize:]
	if uint64(salt)+uint64(sig) != uint64(len(rest)) {
		return unix.EINVAL
	}
	point := func(at int, to []byte) {
		p := uint64(0)
		if len(to) > 0 {
			p = uint64(uintptr(unsafe.Pointer(&to[0])))
		}
		binary.LittleEndian.PutUint64(in[at:], p)
	}
	point(16, rest[:salt])
	point(32, rest[salt:])
	return 0
}
