package fuse

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

var le = binary.LittleEndian

// Sizes in bytes of the headers and of the structures defined here.
const (
	InHeaderSize    = 40
	OutHeaderSize   = 16
	InitInSize      = 64
	InitOutSize     = 64
	AttrSize        = 88
	AttrOutSize     = 16 + AttrSize
	EntryOutSize    = 40 + AttrSize
	OpenOutSize     = 16
	DirentSize      = 24
	DirentplusSize  = EntryOutSize + DirentSize
	StatxOutSize    = 32 + StatxSize
	StatxSize       = 256
	SetxattrExtSize = 16
	ForgetOneSize   = 16
	RemoveOneSize   = 16
	ExtHeaderSize   = 8
)

// InHeader is fuse_in_header with total_extlen (7.38).
type InHeader struct {
	Len      uint32 // of the whole request, this header included
	Opcode   Opcode
	Unique   uint64
	NodeID   uint64
	UID      uint32
	GID      uint32
	PID      uint32
	TotalExt uint16 // length of the extensions in units of 8 bytes
}

// Decode reads the header from its 40 bytes.
func (h *InHeader) Decode(b *[InHeaderSize]byte) {
	h.Len = le.Uint32(b[0:])
	h.Opcode = Opcode(le.Uint32(b[4:]))
	h.Unique = le.Uint64(b[8:])
	h.NodeID = le.Uint64(b[16:])
	h.UID = le.Uint32(b[24:])
	h.GID = le.Uint32(b[28:])
	h.PID = le.Uint32(b[32:])
	h.TotalExt = le.Uint16(b[36:])
}

// InitIn is fuse_init_in (7.36: 64 bytes; before: 16).
type InitIn struct {
	Major        uint32
	Minor        uint32
	MaxReadahead uint32
	Flags        uint64 // flags and, where FUSE_INIT_EXT is set, flags2
}

// Decode reads the structure from its first 64 bytes; those past what the
// guest sent are zero.
func (i *InitIn) Decode(b *[InitInSize]byte) {
	i.Major = le.Uint32(b[0:])
	i.Minor = le.Uint32(b[4:])
	i.MaxReadahead = le.Uint32(b[8:])
	i.Flags = uint64(le.Uint32(b[12:]))
	if i.Flags&InitExt != 0 {
		i.Flags |= uint64(le.Uint32(b[16:])) << 32
	}
}

// InitOut is fuse_init_out (64 bytes).
type InitOut struct {
	Major         uint32
	Minor         uint32
	MaxReadahead  uint32 // bytes
	Flags         uint64 // flags and flags2
	MaxBackground uint16 // requests
	Congestion    uint16 // requests
	MaxWrite      uint32 // bytes
	TimeGran      uint32 // ns
	MaxPages      uint16 // pages of 4096 bytes in one request
	MapAlignment  uint16 // of mappings, as a power of two; counts with the flag MapAlignment
}

// Encode writes the structure.
func (o *InitOut) Encode(b []byte) {
	clear(b[:InitOutSize])
	le.PutUint32(b[0:], o.Major)
	le.PutUint32(b[4:], o.Minor)
	le.PutUint32(b[8:], o.MaxReadahead)
	le.PutUint32(b[12:], uint32(o.Flags))
	le.PutUint16(b[16:], o.MaxBackground)
	le.PutUint16(b[18:], o.Congestion)
	le.PutUint32(b[20:], o.MaxWrite)
	le.PutUint32(b[24:], o.TimeGran)
	le.PutUint16(b[28:], o.MaxPages)
	le.PutUint16(b[30:], o.MapAlignment)
	le.PutUint32(b[32:], uint32(o.Flags>>32))
}

// Attr is fuse_attr with flags (7.28). Times are seconds and nanoseconds since
// the epoch, Blocks is in units of 512 bytes, Rdev as Linux's new_encode_dev.
type Attr struct {
	Ino, Size, Blocks               uint64
	Atime, Mtime, Ctime             uint64
	AtimeNsec, MtimeNsec, CtimeNsec uint32
	Mode, Nlink, UID, GID, Rdev     uint32
	Blksize                         uint32
	Flags                           uint32 // AttrSubmount, AttrDAX
}

// Encode writes the 88 bytes.
func (a *Attr) Encode(b []byte) {
	_ = b[AttrSize-1]
	le.PutUint64(b[0:], a.Ino)
	le.PutUint64(b[8:], a.Size)
	le.PutUint64(b[16:], a.Blocks)
	le.PutUint64(b[24:], a.Atime)
	le.PutUint64(b[32:], a.Mtime)
	le.PutUint64(b[40:], a.Ctime)
	le.PutUint32(b[48:], a.AtimeNsec)
	le.PutUint32(b[52:], a.MtimeNsec)
	le.PutUint32(b[56:], a.CtimeNsec)
	le.PutUint32(b[60:], a.Mode)
	le.PutUint32(b[64:], a.Nlink)
	le.PutUint32(b[68:], a.UID)
	le.PutUint32(b[72:], a.GID)
	le.PutUint32(b[76:], a.Rdev)
	le.PutUint32(b[80:], a.Blksize)
	le.PutUint32(b[84:], a.Flags)
}

// Timeout is how long a guest may trust something.
type Timeout struct {
	Sec  uint64
	Nsec uint32
}

// EncodeAttrOut writes fuse_attr_out.
func EncodeAttrOut(b []byte, valid *Timeout, a *Attr) {
	_ = b[AttrOutSize-1]
	le.PutUint64(b[0:], valid.Sec)
	le.PutUint64(b[8:], uint64(valid.Nsec)) // and 4 bytes of padding
	a.Encode(b[16:])
}

// EncodeEntryOut writes fuse_entry_out, 128 bytes. Node 0 says that there is no such
// name, and entry for how long. Both times are pointers because a struct that has just
// been put together is slow to copy.
func EncodeEntryOut(b []byte, node, generation uint64, entry, attr *Timeout, a *Attr) {
	_ = b[EntryOutSize-1]
	le.PutUint64(b[0:], node)
	le.PutUint64(b[8:], generation)
	le.PutUint64(b[16:], entry.Sec)
	le.PutUint64(b[24:], attr.Sec)
	le.PutUint32(b[32:], entry.Nsec)
	le.PutUint32(b[36:], attr.Nsec)
	a.Encode(b[40:])
}

// OpenIn is fuse_open_in: the flags of open(2) and OpenKillSuidgid.
type OpenIn struct {
	Flags     uint32
	OpenFlags uint32
}

// Decode reads the 8 bytes.
func (o *OpenIn) Decode(b []byte) {
	o.Flags, o.OpenFlags = le.Uint32(b[0:]), le.Uint32(b[4:])
}

// EncodeOpenOut writes fuse_open_out without a backing file, 16 bytes.
func EncodeOpenOut(b []byte, fh uint64, flags uint32) {
	le.PutUint64(b[0:], fh)
	le.PutUint32(b[8:], flags)
	le.PutUint32(b[12:], 0)
}

// CreateIn is fuse_create_in (7.38: with open_flags). A guest that was not
// promised FUSE_DONT_MASK has applied the umask to Mode already.
type CreateIn struct {
	Flags     uint32
	Mode      uint32
	Umask     uint32
	OpenFlags uint32
}

// Decode reads the 16 bytes.
func (c *CreateIn) Decode(b []byte) {
	c.Flags, c.Mode, c.Umask, c.OpenFlags = le.Uint32(b[0:]), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
}

// LseekIn is fuse_lseek_in.
type LseekIn struct {
	FH     uint64
	Offset uint64
	Whence uint32
}

// Decode reads the 24 bytes.
func (l *LseekIn) Decode(b []byte) {
	l.FH, l.Offset, l.Whence = le.Uint64(b[0:]), le.Uint64(b[8:]), le.Uint32(b[16:])
}

// CopyFileRangeIn is fuse_copy_file_range_in, of both opcodes.
type CopyFileRangeIn struct {
	FHIn, OffIn    uint64
	NodeIDOut      uint64
	FHOut, OffOut  uint64
	Len, CopyFlags uint64
}

// Decode reads the 56 bytes.
func (c *CopyFileRangeIn) Decode(b []byte) {
	c.FHIn, c.OffIn = le.Uint64(b[0:]), le.Uint64(b[8:])
	c.NodeIDOut, c.FHOut = le.Uint64(b[16:]), le.Uint64(b[24:])
	c.OffOut, c.Len, c.CopyFlags = le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:])
}

// StatxIn is fuse_statx_in.
type StatxIn struct {
	GetattrFlags uint32
	FH           uint64
	Flags        uint32
	Mask         uint32
}

// Decode reads the 24 bytes.
func (s *StatxIn) Decode(b []byte) {
	s.GetattrFlags, s.FH = le.Uint32(b[0:]), le.Uint64(b[8:])
	s.Flags, s.Mask = le.Uint32(b[16:]), le.Uint32(b[20:])
}

// DirentLen is the length of a fuse_dirent with a name of n bytes, its padding
// to 8 bytes included.
func DirentLen(n int) int { return (DirentSize + n + 7) &^ 7 }

// EncodeDirent writes a fuse_dirent and its padding; typ is DT_*, off is the
// cookie of the entry after this one. b has DirentLen(len(name)) bytes or more.
func EncodeDirent(b []byte, ino, off uint64, typ uint32, name []byte) {
	n := DirentLen(len(name))
	le.PutUint64(b[0:], ino)
	le.PutUint64(b[8:], off)
	le.PutUint32(b[16:], uint32(len(name)))
	le.PutUint32(b[20:], typ)
	clear(b[DirentSize+copy(b[DirentSize:], name) : n])
}

// EncodeStatxOut writes fuse_statx_out, 288 bytes. The structure inside is that
// of statx(2) but for the words after the device number, which are left 0.
func EncodeStatxOut(b []byte, valid Timeout, s *unix.Statx_t) {
	clear(b[:StatxOutSize])
	le.PutUint64(b[0:], valid.Sec)
	le.PutUint32(b[8:], valid.Nsec)
	x := b[32:]
	for i, v := range [...]uint32{s.Mask, s.Blksize} {
		le.PutUint32(x[4*i:], v)
	}
	le.PutUint64(x[8:], s.Attributes)
	for i, v := range [...]uint32{s.Nlink, s.Uid, s.Gid, uint32(s.Mode)} {
		le.PutUint32(x[16+4*i:], v)
	}
	for i, v := range [...]uint64{s.Ino, s.Size, s.Blocks, s.Attributes_mask} {
		le.PutUint64(x[32+8*i:], v)
	}
	for i, t := range [...]unix.StatxTimestamp{s.Atime, s.Btime, s.Ctime, s.Mtime} {
		le.PutUint64(x[64+16*i:], uint64(t.Sec))
		le.PutUint32(x[72+16*i:], t.Nsec)
	}
	for i, v := range [...]uint32{s.Rdev_major, s.Rdev_minor, s.Dev_major, s.Dev_minor} {
		le.PutUint32(x[128+4*i:], v)
	}
}
