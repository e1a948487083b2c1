package fuse

// OutHeader is fuse_out_header.
type OutHeader struct {
	Len    uint32 // of the whole reply, this header included
	Error  int32  // 0 or a negative errno
	Unique uint64
}

// Encode writes the 16 bytes. They are copied at once, by 8 bytes: a processor is quick
// to load what it has just stored only where that was one store.
func (h *OutHeader) Encode(b []byte) {
	_ = b[OutHeaderSize-1]
	le.PutUint64(b[0:], uint64(h.Len)|uint64(uint32(h.Error))<<32)
	le.PutUint64(b[8:], h.Unique)
}

// SetattrIn is fuse_setattr_in. Ctime is left out: only a guest with a
// writeback cache has one to give, and no system call could set it.
type SetattrIn struct {
	Valid                uint32 // FattrMode and so on: which fields count
	Fh, Size             uint64
	Atime, Mtime         uint64 // seconds
	AtimeNsec, MtimeNsec uint32
	Mode, UID, GID       uint32
}

// Decode reads the 88 bytes.
func (s *SetattrIn) Decode(b []byte) {
	_ = b[87]
	s.Valid, s.Fh, s.Size = le.Uint32(b[0:]), le.Uint64(b[8:]), le.Uint64(b[16:])
	s.Atime, s.Mtime = le.Uint64(b[32:]), le.Uint64(b[40:])
	s.AtimeNsec, s.MtimeNsec = le.Uint32(b[56:]), le.Uint32(b[60:])
	s.Mode, s.UID, s.GID = le.Uint32(b[68:]), le.Uint32(b[76:]), le.Uint32(b[80:])
}

// MknodIn is fuse_mknod_in.
type MknodIn struct {
	Mode  uint32
	Rdev  uint32 // Linux's new_encode_dev
	Umask uint32 // see CreateIn
}

// Decode reads the 16 bytes.
func (m *MknodIn) Decode(b []byte) {
	m.Mode, m.Rdev, m.Umask = le.Uint32(b[0:]), le.Uint32(b[4:]), le.Uint32(b[8:])
}

// LkIn is fuse_lk_in, of GETLK, SETLK and SETLKW.
type LkIn struct {
	Fh, Owner  uint64
	Start, End uint64 // bytes, the last one included
	Type, PID  uint32 // F_RDLCK, F_WRLCK, F_UNLCK
	Flags      uint32 // LkFlock
}

// Decode reads the 48 bytes.
func (l *LkIn) Decode(b []byte) {
	l.Fh, l.Owner, l.Start, l.End = le.Uint64(b[0:]), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])
	l.Type, l.PID, l.Flags = le.Uint32(b[32:]), le.Uint32(b[36:]), le.Uint32(b[40:])
}

// EncodeLkOut writes fuse_lk_out, 24 bytes.
func EncodeLkOut(b []byte, start, end uint64, typ, pid uint32) {
	le.PutUint64(b[0:], start)
	le.PutUint64(b[8:], end)
	le.PutUint32(b[16:], typ)
	le.PutUint32(b[20:], pid)
}

// IoctlIn is fuse_ioctl_in; the argument's InSize bytes follow it.
type IoctlIn struct {
	Fh              uint64
	Flags, Cmd      uint32 // IoctlDir; the command of ioctl(2)
	Arg             uint64 // the pointer in the guest's process: means nothing here
	InSize, OutSize uint32 // bytes
}

// Decode reads the 32 bytes.
func (i *IoctlIn) Decode(b []byte) {
	i.Fh, i.Flags, i.Cmd, i.Arg = le.Uint64(b[0:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint64(b[16:])
	i.InSize, i.OutSize = le.Uint32(b[24:]), le.Uint32(b[28:])
}

// EncodeIoctlOut writes fuse_ioctl_out with the command's result, 16 bytes; the
// answer's bytes follow it.
func EncodeIoctlOut(b []byte, result int32) {
	clear(b[:16])
	le.PutUint32(b, uint32(result))
}

// ReleaseIn is fuse_release_in.
type ReleaseIn struct {
	Fh           uint64
	Flags        uint32 // of open(2)
	ReleaseFlags uint32 // ReleaseFlush
	LockOwner    uint64
}

// Decode reads the 24 bytes.
func (r *ReleaseIn) Decode(b []byte) {
	r.Fh, r.Flags, r.ReleaseFlags, r.LockOwner = le.Uint64(b[0:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint64(b[16:])
}

// ReadIn is fuse_read_in, of READ, READDIR and READDIRPLUS.
type ReadIn struct {
	Fh, Offset uint64
	Size       uint32
	Flags      uint32 // of open(2), as they are now
}

// Decode reads the 40 bytes.
func (r *ReadIn) Decode(b []byte) {
	r.Fh, r.Offset, r.Size = le.Uint64(b[0:]), le.Uint64(b[8:]), le.Uint32(b[16:])
	r.Flags = le.Uint32(b[32:])
}

// WriteIn is fuse_write_in.
type WriteIn struct {
	Fh, Offset uint64
	Size       uint32
	WriteFlags uint32 // WriteCache, WriteKillSuidgid
	Flags      uint32 // of open(2), as they are now
}

// Decode reads the 40 bytes.
func (w *WriteIn) Decode(b []byte) {
	w.Fh, w.Offset, w.Size = le.Uint64(b[0:]), le.Uint64(b[8:]), le.Uint32(b[16:])
	w.WriteFlags, w.Flags = le.Uint32(b[20:]), le.Uint32(b[32:])
}

// FallocateIn is fuse_fallocate_in.
type FallocateIn struct {
	Fh, Offset, Length uint64
	Mode               uint32 // FALLOC_FL_*
}

// Decode reads the 32 bytes.
func (f *FallocateIn) Decode(b []byte) {
	f.Fh, f.Offset, f.Length, f.Mode = le.Uint64(b[0:]), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint32(b[24:])
}

// StatfsOut is fuse_statfs_out (fuse_kstatfs); counts of blocks are in units of
// FragmentSize.
type StatfsOut struct {
	Blocks, BlocksFree, BlocksAvailable uint64
	Files, FilesFree                    uint64
	BlockSize, NameLength, FragmentSize uint32
}

// Encode writes the 80 bytes.
func (s *StatfsOut) Encode(b []byte) {
	clear(b[:80])
	le.PutUint64(b[0:], s.Blocks)
	le.PutUint64(b[8:], s.BlocksFree)
	le.PutUint64(b[16:], s.BlocksAvailable)
	le.PutUint64(b[24:], s.Files)
	le.PutUint64(b[32:], s.FilesFree)
	le.PutUint32(b[40:], s.BlockSize)
	le.PutUint32(b[44:], s.NameLength)
	le.PutUint32(b[48:], s.FragmentSize)
}

// Flags of SETUPMAPPING (FUSE_SETUPMAPPING_FLAG_*).
const (
	MapWrite uint64 = 1 << 0
	MapRead  uint64 = 1 << 1
)

// SetupMappingIn is fuse_setupmapping_in; all but the handle and the flags in
// bytes.
type SetupMappingIn struct {
	FH      uint64 // Linux has none to name: all ones
	Offset  uint64 // foffset, in the file
	Len     uint64
	Flags   uint64 // MapRead, MapWrite
	MOffset uint64 // in the window
}

// Decode reads the 40 bytes.
func (s *SetupMappingIn) Decode(b []byte) {
	s.FH, s.Offset, s.Len = le.Uint64(b[0:]), le.Uint64(b[8:]), le.Uint64(b[16:])
	s.Flags, s.MOffset = le.Uint64(b[24:]), le.Uint64(b[32:])
}

// RemoveMappingOne is fuse_removemapping_one, of which a count of 4 bytes and
// then as many are in a REMOVEMAPPING, without padding. Both are bytes.
type RemoveMappingOne struct {
	MOffset uint64 // in the window
	Len     uint64
}

// Decode reads the 16 bytes.
func (r *RemoveMappingOne) Decode(b []byte) {
	r.MOffset, r.Len = le.Uint64(b[0:]), le.Uint64(b[8:])
}

// FsyncFlags reads the flags of fuse_fsync_in: FsyncDatasync.
func FsyncFlags(b []byte) uint32 { return le.Uint32(b[8:]) }

// Word32 and Word64 read the i-th 32- or 64-bit word of arguments that are
// nothing but such words (fuse_mkdir_in, fuse_link_in, fuse_forget_in, ...).
func Word32(b []byte, i int) uint32 { return le.Uint32(b[4*i:]) }

// Word64 is described at Word32.
func Word64(b []byte, i int) uint64 { return le.Uint64(b[8*i:]) }

// PutWord32 writes the i-th 32-bit word of a reply, as Word32 reads one.
func PutWord32(b []byte, i int, v uint32) { le.PutUint32(b[4*i:], v) }

// PutWord64 is PutWord32 for 64 bits.
func PutWord64(b []byte, i int, v uint64) { le.PutUint64(b[8*i:], v) }
