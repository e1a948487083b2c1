package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// Ioctl implements virtiofs.Ioctls.
func (f *FS) Ioctl(file virtiofs.File, dir bool, cmd uint32, in, out []byte) (int, unix.Errno) {
	return 0, unix.ENOTTY
}
