package fuse

// The protocol version this package speaks (fuse.h FUSE_KERNEL_VERSION and
// FUSE_KERNEL_MINOR_VERSION), and the oldest minor whose structures it knows.
const (
	Major    = 7
	Minor    = 45
	MinMinor = 27
)

// RootID is the node id of the root of the file system (FUSE_ROOT_ID).
const RootID = 1

// INIT flags, bits 0-31 in init.flags and 32-63 in init.flags2.
const (
	AsyncRead         uint64 = 1 << 0
	PosixLocks        uint64 = 1 << 1
	AtomicOTrunc      uint64 = 1 << 3
	ExportSupport     uint64 = 1 << 4
	BigWrites         uint64 = 1 << 5
	DontMask          uint64 = 1 << 6
	FlockLocks        uint64 = 1 << 10
	HasIoctlDir       uint64 = 1 << 11
	AutoInvalData     uint64 = 1 << 12
	DoReaddirplus     uint64 = 1 << 13
	ReaddirplusAuto   uint64 = 1 << 14
	AsyncDIO          uint64 = 1 << 15
	WritebackCache    uint64 = 1 << 16
	NoOpenSupport     uint64 = 1 << 17
	ParallelDirops    uint64 = 1 << 18
	PosixACL          uint64 = 1 << 20
	MaxPages          uint64 = 1 << 22
	CacheSymlinks     uint64 = 1 << 23
	NoOpendirSupport  uint64 = 1 << 24
	ExplicitInvalData uint64 = 1 << 25
	MapAlignment      uint64 = 1 << 26
	Submounts         uint64 = 1 << 27
	HandleKillprivV2  uint64 = 1 << 28
	SetxattrExt       uint64 = 1 << 29
	InitExt           uint64 = 1 << 30
	SecurityCtx       uint64 = 1 << 32
	HasInodeDAX       uint64 = 1 << 33
	CreateSuppGroup   uint64 = 1 << 34
	DirectIOAllowMmap uint64 = 1 << 36
)

// Flags of the replies to OPEN, CREATE and OPENDIR (FOPEN_*).
const (
	OpenDirectIO  uint32 = 1 << 0
	OpenKeepCache uint32 = 1 << 1
	OpenCacheDir  uint32 = 1 << 3

	OpenParallelDirectWrites uint32 = 1 << 6
)

// Flags of single requests.
const (
	AttrSubmount     uint32 = 1 << 0 // attr.flags: the directory is the root of another file system
	AttrDAX          uint32 = 1 << 1 // attr.flags: the file is to be used through the DAX window
	OpenKillSuidgid  uint32 = 1 << 0 // open_in.open_flags, create_in.open_flags
	WriteCache       uint32 = 1 << 0 // write_in.write_flags: delayed, from the guest's page cache
	WriteKillSuidgid uint32 = 1 << 2 // write_in.write_flags
	FsyncDatasync    uint32 = 1 << 0 // fsync_in.fsync_flags
	GetattrFH        uint32 = 1 << 0 // getattr_in.getattr_flags: the handle counts
	ReleaseFlush     uint32 = 1 << 0 // release_in.release_flags: also drop lock_owner's locks
	LkFlock          uint32 = 1 << 0 // lk_in.lk_flags: of flock(2)
	IoctlDir         uint32 = 1 << 4 // ioctl_in.flags: the handle is a directory's
	SetxattrKillSgid uint32 = 1 << 0 // setxattr_in.setxattr_flags: an ACL that takes the set-group-id bit
)

// SETATTR valid bits (FATTR_*).
const (
	FattrMode        uint32 = 1 << 0
	FattrUID         uint32 = 1 << 1
	FattrGID         uint32 = 1 << 2
	FattrSize        uint32 = 1 << 3
	FattrAtime       uint32 = 1 << 4
	FattrMtime       uint32 = 1 << 5
	FattrFH          uint32 = 1 << 6
	FattrAtimeNow    uint32 = 1 << 7
	FattrMtimeNow    uint32 = 1 << 8
	FattrKillSuidgid uint32 = 1 << 11
)

// ExtGroups is the extension type of the caller's supplementary groups
// (FUSE_EXT_GROUPS). Types below it are the count of a security context block.
const ExtGroups = 32

// SecctxSize is the length in bytes of fuse_secctx: the value's length and
// padding, before the name and the value.
const SecctxSize = 8
