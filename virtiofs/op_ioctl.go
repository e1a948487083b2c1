package virtiofs

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

// Commands of ioctl(2) that x/sys has no names for (linux/fs.h). The 32-bit
// forms are those whose number says what the argument is, an int; the native ones
// say long for it.
const (
	FSIocGetxattr   = 0x801c581f // FS_IOC_FSGETXATTR
	FSIocSetxattr   = 0x401c5820 // FS_IOC_FSSETXATTR
	FSIoc32Getflags = 0x80046601 // FS_IOC32_GETFLAGS
	FSIoc32Setflags = 0x40046602 // FS_IOC32_SETFLAGS
)

// Sizes in bytes of the arguments, and the limits of fs-verity (linux/fsverity.h
// and the kernel's fsverity_private.h).
const (
	FsxattrSize       = 28  // struct fsxattr
	VerityEnableSize  = 128 // struct fsverity_enable_arg
	VerityDigestSize  = 4   // struct fsverity_digest without the digest
	ioctlOutSize      = 16
	flagsSize         = 4
	verityMaxSalt     = 32
	verityMaxSig      = 16128
	verityMaxDigest   = 64
	maxIoctlAnswer    = VerityDigestSize + verityMaxDigest
	verityAnyDigest   = VerityDigestSize + 1<<16 - 1 // what the digest's 16-bit size can ask for
	verityMaxArgument = VerityEnableSize + verityMaxSalt + verityMaxSig
)

// ioctlRow says what a command's argument is: how many bytes go in and out, from
// and to, and whether it changes the file or takes long.
type ioctlRow struct {
	in, inMax, out, outMax uint32
	changes, slow          bool
}

// ioctls is the commands that are served. All others are ENOTTY, "not this one",
// and never reach the host: overlayfs's copy-up and cp take any other errno for
// a failure.
//
// A guest sends the salt and the signature of FS_IOC_ENABLE_VERITY behind the
// structure that points to them, since Linux 6.10, and makes room for the digest
// of FS_IOC_MEASURE_VERITY.
var ioctls = map[uint32]ioctlRow{
	unix.FS_IOC_GETFLAGS:       {out: flagsSize, outMax: flagsSize},
	FSIoc32Getflags:            {out: flagsSize, outMax: flagsSize},
	unix.FS_IOC_SETFLAGS:       {in: flagsSize, inMax: flagsSize, changes: true},
	FSIoc32Setflags:            {in: flagsSize, inMax: flagsSize, changes: true},
	FSIocGetxattr:              {out: FsxattrSize, outMax: FsxattrSize},
	FSIocSetxattr:              {in: FsxattrSize, inMax: FsxattrSize, changes: true},
	unix.FS_IOC_ENABLE_VERITY:  {in: VerityEnableSize, inMax: verityMaxArgument, changes: true, slow: true},
	unix.FS_IOC_MEASURE_VERITY: {in: VerityDigestSize, inMax: verityAnyDigest, out: VerityDigestSize, outMax: verityAnyDigest},
}

// ioctlChanges says whether the request of fuse_ioctl_in would change the file.
func (r *Request) ioctlChanges() bool { return ioctls[fuse.Word32(r.fixed()[:], 3)].changes }

func (s *Server) opIoctl(r *Request) unix.Errno {
	var in fuse.IoctlIn
	in.Decode(r.fixed()[:])
	row, known := ioctls[in.Cmd]
	switch {
	case !known:
		return unix.ENOTTY
	case in.InSize < row.in || in.InSize > row.inMax || int64(in.InSize) > int64(r.rest):
		return unix.EINVAL
	case in.OutSize > row.outMax:
		return unix.EINVAL
	case row.slow && !r.MayBlock:
		return r.postpone()
	}
	room := r.buffer(ioctlOutSize + min(in.OutSize, maxIoctlAnswer))
	if len(room) < int(ioctlOutSize+row.out) {
		return unix.EINVAL
	}
	arg := r.text[fuse.InHeaderSize+maxFixed:][:in.InSize]
	if r.in.Copy(arg) != nil {
		return unix.EIO
	}
	if e := s.mayIoctl(r, in.Cmd); e != 0 {
		return e
	}
	n, e := s.fs.Ioctl(r.file(), in.Flags&fuse.IoctlDir != 0, in.Cmd, arg, room[ioctlOutSize:])
	if e == 0 {
		fuse.EncodeIoctlOut(room, 0)
		r.body = ioctlOutSize + n
	}
	return e
}

// mayIoctl checks what the guest's kernel leaves to the server: it asks who may
// change flags, but lets anyone enable verity who can read the file.
func (s *Server) mayIoctl(r *Request, cmd uint32) unix.Errno {
	if cmd != unix.FS_IOC_ENABLE_VERITY {
		return 0
	}
	r.caller = Caller{UID: r.hdr.UID, GID: r.hdr.GID, PID: r.hdr.PID}
	return s.fs.Access(&r.caller, r.node(), unix.W_OK)
}
