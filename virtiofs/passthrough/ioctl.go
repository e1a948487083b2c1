package passthrough

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// Flags of FS_IOC_SETFLAGS and struct fsxattr (linux/fs.h).
const (
	flagJournalData  = 0x00004000 // FS_JOURNAL_DATA_FL
	flagProjInherit  = 0x20000000 // FS_PROJINHERIT_FL
	xflagProjInherit = 0x00000200 // FS_XFLAG_PROJINHERIT
)

// Ioctl implements virtiofs.Ioctls. The append-only and immutable flags are a
// guest's to set as far as they are this process's: with CAP_LINUX_IMMUTABLE a
// guest can leave files behind that the host must chattr -ai before it can remove
// them.
func (f *FS) Ioctl(file virtiofs.File, dir bool, cmd uint32, in, out []byte) (int, unix.Errno) {
	switch cmd {
	case unix.FS_IOC_GETFLAGS, virtiofs.FSIoc32Getflags:
		return f.readIoctl(file, dir, unix.FS_IOC_GETFLAGS, out[:4])
	case virtiofs.FSIocGetxattr:
		return f.readIoctl(file, dir, cmd, out[:virtiofs.FsxattrSize])
	case unix.FS_IOC_MEASURE_VERITY:
		return f.measureVerity(file, dir, in, out)
	case unix.FS_IOC_SETFLAGS, virtiofs.FSIoc32Setflags:
		return 0, f.changeIoctl(file, dir, in, setFlags)
	case virtiofs.FSIocSetxattr:
		return 0, f.changeIoctl(file, dir, in, setFsxattr)
	case unix.FS_IOC_ENABLE_VERITY:
		return 0, f.changeIoctl(file, dir, in, enableVerity)
	}
	return 0, unix.ENOTTY
}

// readIoctl is a command that fills out.
func (f *FS) readIoctl(file virtiofs.File, dir bool, cmd uint32, out []byte) (int, unix.Errno) {
	h, e := f.opened(file, dir)
	if e != 0 {
		return 0, e
	}
	defer f.handles.unpin(h)
	if e := ioctl(h.fd, cmd, out); e != 0 {
		return 0, e
	}
	return len(out), 0
}

// measureVerity tells the host how much room there is, whatever the guest's
// process said it had.
func (f *FS) measureVerity(file virtiofs.File, dir bool, in, out []byte) (int, unix.Errno) {
	room := len(out) - virtiofs.VerityDigestSize
	room = min(room, int(binary.LittleEndian.Uint16(in[2:])))
	clear(out)
	binary.LittleEndian.PutUint16(out[2:], uint16(room))
	if _, e := f.readIoctl(file, dir, unix.FS_IOC_MEASURE_VERITY, out); e != 0 {
		return 0, e
	}
	size := int(binary.LittleEndian.Uint16(out[2:]))
	return virtiofs.VerityDigestSize + min(size, room), 0
}

// changeIoctl runs a command that changes the file, where that is allowed.
func (f *FS) changeIoctl(file virtiofs.File, dir bool, in []byte, do func(fd int, in []byte) unix.Errno) unix.Errno {
	if f.options.ReadOnly {
		return unix.EROFS
	}
	n, e := f.pinForChange(file.Node)
	if e != 0 {
		return e
	}
	defer f.unpin(n)
	h, e := f.handles.pin(file, dir)
	if e != 0 {
		return e
	}
	defer f.handles.unpin(h)
	return do(h.fd, in)
}

// setFlags is FS_IOC_SETFLAGS. A guest's processes are to the host's project
// quotas what those of a user namespace are, which may not leave their project
// (EINVAL), and nobody in it has CAP_SYS_RESOURCE, which data journalling takes.
func setFlags(fd int, in []byte) unix.Errno {
	var now [8]byte
	if e := ioctl(fd, unix.FS_IOC_GETFLAGS, now[:]); e != 0 {
		return e
	}
	diff := binary.LittleEndian.Uint32(now[:]) ^ binary.LittleEndian.Uint32(in)
	switch {
	case diff&flagProjInherit != 0:
		return unix.EINVAL
	case diff&flagJournalData != 0:
		return unix.EPERM
	}
	return ioctl(fd, unix.FS_IOC_SETFLAGS, in)
}

// setFsxattr is FS_IOC_FSSETXATTR, with the rules of setFlags.
func setFsxattr(fd int, in []byte) unix.Errno {
	var now [virtiofs.FsxattrSize]byte
	if e := ioctl(fd, virtiofs.FSIocGetxattr, now[:]); e != 0 {
		return e
	}
	// struct fsxattr { fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, ... }
	diff := binary.LittleEndian.Uint32(now[:]) ^ binary.LittleEndian.Uint32(in)
	if diff&xflagProjInherit != 0 || [4]byte(now[12:]) != [4]byte(in[12:]) {
		return unix.EINVAL
	}
	return ioctl(fd, virtiofs.FSIocSetxattr, in)
}
