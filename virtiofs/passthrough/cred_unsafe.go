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

// keepOverride gives CAP_DAC_OVERRIDE back to a thread that lost it with the
// file system user id 0: whether the caller may create the file was for the
// guest's kernel to say, which knows the caller's groups and capabilities and
// is not to be contradicted with half that knowledge. Going back to user id 0
// restores the rest.
func keepOverride() unix.Errno {
	const override = 1 << unix.CAP_DAC_OVERRIDE
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if _, _, e := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data)), 0); e != 0 {
		return e
	}
	if data[0].Permitted&override == 0 {
		return 0
	}
	data[0].Effective |= override
	_, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data)), 0)
	return e
}
