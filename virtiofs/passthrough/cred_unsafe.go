package passthrough

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setgroups is setgroups(2) for the calling thread alone.
func setgroups(groups []uint32) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	return e
}

// takeOverrides gives the calling thread the capabilities back without which
// the host's kernel would ask for permissions in the directory, or refuse a
// device.
func takeOverrides() unix.Errno {
	const wanted = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_MKNOD
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if _, _, e := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data)), 0); e != 0 {
		return e
	}
	data[0].Effective |= data[0].Permitted & wanted
	_, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data)), 0)
	return e
}
