package fuse

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// fill returns n bytes of which each tells its offset.
func fill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i + 1)
	}
	return b
}

// word is what a little-endian word of fill's bytes at the offset reads as.
func word(off, n int) uint64 {
	var v uint64
	for i := n - 1; i >= 0; i-- {
		v = v<<8 | uint64(byte(off+i+1))
	}
	return v
}

// TestDecodeOffsets holds every decoded field against its offset in fuse.h 7.45.
func TestDecodeOffsets(t *testing.T) {
	b := fill(128)
	var hdr InHeader
	hdr.Decode((*[InHeaderSize]byte)(b))
	var initIn InitIn
	initBytes := fill(InitInSize)
	initBytes[15] |= 0x40 // FUSE_INIT_EXT: flags2 counts
	initIn.Decode((*[InitInSize]byte)(initBytes))
	var open OpenIn
	open.Decode(b)
	var create CreateIn
	create.Decode(b)
	var mknod MknodIn
	mknod.Decode(b)
	var read ReadIn
	read.Decode(b)
	var write WriteIn
	write.Decode(b)
	var set SetattrIn
	set.Decode(b)
	var falloc FallocateIn
	falloc.Decode(b)
	var seek LseekIn
	seek.Decode(b)
	var cfr CopyFileRangeIn
	cfr.Decode(b)
	var stx StatxIn
	stx.Decode(b)
	var setup SetupMappingIn
	setup.Decode(b)
	var remove RemoveMappingOne
	remove.Decode(b)
	for _, c := range []struct {
		name   string
		got    uint64
		off, n int
	}{
		{"in_header.len", uint64(hdr.Len), 0, 4}, {"in_header.opcode", uint64(hdr.Opcode), 4, 4},
		{"in_header.unique", hdr.Unique, 8, 8}, {"in_header.nodeid", hdr.NodeID, 16, 8},
		{"in_header.uid", uint64(hdr.UID), 24, 4}, {"in_header.gid", uint64(hdr.GID), 28, 4},
		{"in_header.pid", uint64(hdr.PID), 32, 4}, {"in_header.total_extlen", uint64(hdr.TotalExt), 36, 2},
		{"init_in.major", uint64(initIn.Major), 0, 4}, {"init_in.minor", uint64(initIn.Minor), 4, 4},
		{"init_in.max_readahead", uint64(initIn.MaxReadahead), 8, 4},
		{"init_in.flags2", initIn.Flags >> 32, 16, 4},
		{"open_in.flags", uint64(open.Flags), 0, 4}, {"open_in.open_flags", uint64(open.OpenFlags), 4, 4},
		{"create_in.flags", uint64(create.Flags), 0, 4}, {"create_in.mode", uint64(create.Mode), 4, 4},
		{"create_in.open_flags", uint64(create.OpenFlags), 12, 4},
		{"mknod_in.mode", uint64(mknod.Mode), 0, 4}, {"mknod_in.rdev", uint64(mknod.Rdev), 4, 4},
		{"read_in.fh", read.Fh, 0, 8}, {"read_in.offset", read.Offset, 8, 8},
		{"read_in.size", uint64(read.Size), 16, 4}, {"read_in.flags", uint64(read.Flags), 32, 4},
		{"write_in.fh", write.Fh, 0, 8}, {"write_in.offset", write.Offset, 8, 8},
		{"write_in.size", uint64(write.Size), 16, 4}, {"write_in.write_flags", uint64(write.WriteFlags), 20, 4},
		{"write_in.flags", uint64(write.Flags), 32, 4},
		{"setattr_in.valid", uint64(set.Valid), 0, 4}, {"setattr_in.fh", set.Fh, 8, 8},
		{"setattr_in.size", set.Size, 16, 8}, {"setattr_in.atime", set.Atime, 32, 8},
		{"setattr_in.mtime", set.Mtime, 40, 8}, {"setattr_in.atimensec", uint64(set.AtimeNsec), 56, 4},
		{"setattr_in.mtimensec", uint64(set.MtimeNsec), 60, 4}, {"setattr_in.mode", uint64(set.Mode), 68, 4},
		{"setattr_in.uid", uint64(set.UID), 76, 4}, {"setattr_in.gid", uint64(set.GID), 80, 4},
		{"fallocate_in.fh", falloc.Fh, 0, 8}, {"fallocate_in.offset", falloc.Offset, 8, 8},
		{"fallocate_in.length", falloc.Length, 16, 8}, {"fallocate_in.mode", uint64(falloc.Mode), 24, 4},
		{"lseek_in.fh", seek.FH, 0, 8}, {"lseek_in.offset", seek.Offset, 8, 8}, {"lseek_in.whence", uint64(seek.Whence), 16, 4},
		{"copy_file_range_in.fh_in", cfr.FHIn, 0, 8}, {"copy_file_range_in.off_in", cfr.OffIn, 8, 8},
		{"copy_file_range_in.nodeid_out", cfr.NodeIDOut, 16, 8}, {"copy_file_range_in.fh_out", cfr.FHOut, 24, 8},
		{"copy_file_range_in.off_out", cfr.OffOut, 32, 8}, {"copy_file_range_in.len", cfr.Len, 40, 8},
		{"copy_file_range_in.flags", cfr.CopyFlags, 48, 8},
		{"statx_in.getattr_flags", uint64(stx.GetattrFlags), 0, 4}, {"statx_in.fh", stx.FH, 8, 8},
		{"statx_in.sx_flags", uint64(stx.Flags), 16, 4}, {"statx_in.sx_mask", uint64(stx.Mask), 20, 4},
		{"setupmapping_in.fh", setup.FH, 0, 8}, {"setupmapping_in.foffset", setup.Offset, 8, 8},
		{"setupmapping_in.len", setup.Len, 16, 8}, {"setupmapping_in.flags", setup.Flags, 24, 8},
		{"setupmapping_in.moffset", setup.MOffset, 32, 8},
		{"removemapping_one.moffset", remove.MOffset, 0, 8}, {"removemapping_one.len", remove.Len, 8, 8},
		{"fsync_in.fsync_flags", uint64(FsyncFlags(b)), 8, 4},
	} {
		if want := word(c.off, c.n); c.got != want {
			t.Errorf("%s = %#x, want the %d bytes at %d: %#x", c.name, c.got, c.n, c.off, want)
		}
	}
}

// at says which value stands at which offset of an encoded structure.
type at struct {
	off, n int
	v      uint64
}

// TestEncodeOffsets holds every encoded byte against fuse.h 7.45: what the table
// does not name is 0.
func TestEncodeOffsets(t *testing.T) {
	attr := Attr{Ino: 1, Size: 2, Blocks: 3, Atime: 4, Mtime: 5, Ctime: 6, AtimeNsec: 7, MtimeNsec: 8, CtimeNsec: 9,
		Mode: 10, Nlink: 11, UID: 12, GID: 13, Rdev: 14, Blksize: 15, Flags: 16}
	attrAt := func(o int) []at {
		return []at{{o, 8, 1}, {o + 8, 8, 2}, {o + 16, 8, 3}, {o + 24, 8, 4}, {o + 32, 8, 5}, {o + 40, 8, 6},
			{o + 48, 4, 7}, {o + 52, 4, 8}, {o + 56, 4, 9}, {o + 60, 4, 10}, {o + 64, 4, 11},
			{o + 68, 4, 12}, {o + 72, 4, 13}, {o + 76, 4, 14}, {o + 80, 4, 15}, {o + 84, 4, 16}}
	}
	out := OutHeader{Len: 1, Error: -2, Unique: 3}
	initOut := InitOut{Major: 1, Minor: 2, MaxReadahead: 3, Flags: 4 | 5<<32, MaxBackground: 6, Congestion: 7,
		MaxWrite: 8, TimeGran: 9, MaxPages: 10, MapAlignment: 11}
	statfs := StatfsOut{Blocks: 1, BlocksFree: 2, BlocksAvailable: 3, Files: 4, FilesFree: 5, BlockSize: 6, NameLength: 7, FragmentSize: 8}
	stx := unix.Statx_t{Mask: 1, Blksize: 2, Attributes: 3, Nlink: 4, Uid: 5, Gid: 6, Mode: 7, Ino: 8, Size: 9, Blocks: 10,
		Attributes_mask: 11, Atime: unix.StatxTimestamp{Sec: 12, Nsec: 13}, Btime: unix.StatxTimestamp{Sec: 14, Nsec: 15},
		Ctime: unix.StatxTimestamp{Sec: 16, Nsec: 17}, Mtime: unix.StatxTimestamp{Sec: 18, Nsec: 19},
		Rdev_major: 20, Rdev_minor: 21, Dev_major: 22, Dev_minor: 23, Mnt_id: 99}
	for _, c := range []struct {
		name   string
		size   int
		encode func([]byte)
		want   []at
	}{
		{"out_header", 16, out.Encode, []at{{0, 4, 1}, {4, 4, 0xfffffffe}, {8, 8, 3}}},
		{"init_out", 64, initOut.Encode, []at{{0, 4, 1}, {4, 4, 2}, {8, 4, 3}, {12, 4, 4}, {16, 2, 6}, {18, 2, 7},
			{20, 4, 8}, {24, 4, 9}, {28, 2, 10}, {30, 2, 11}, {32, 4, 5}}},
		{"attr", 88, attr.Encode, attrAt(0)},
		{"attr_out", 104, func(b []byte) { EncodeAttrOut(b, &Timeout{17, 18}, &attr) },
			append([]at{{0, 8, 17}, {8, 4, 18}}, attrAt(16)...)},
		{"entry_out", 128, func(b []byte) { EncodeEntryOut(b, 21, 22, &Timeout{23, 24}, &Timeout{25, 26}, &attr) },
			append([]at{{0, 8, 21}, {8, 8, 22}, {16, 8, 23}, {24, 8, 25}, {32, 4, 24}, {36, 4, 26}}, attrAt(40)...)},
		{"open_out", 16, func(b []byte) { EncodeOpenOut(b, 1, 2) }, []at{{0, 8, 1}, {8, 4, 2}}},
		{"statfs_out", 80, statfs.Encode, []at{{0, 8, 1}, {8, 8, 2}, {16, 8, 3}, {24, 8, 4}, {32, 8, 5}, {40, 4, 6}, {44, 4, 7}, {48, 4, 8}}},
		{"statx_out", 288, func(b []byte) { EncodeStatxOut(b, Timeout{1, 2}, &stx) }, []at{{0, 8, 1}, {8, 4, 2},
			{32, 4, 1}, {36, 4, 2}, {40, 8, 3}, {48, 4, 4}, {52, 4, 5}, {56, 4, 6}, {60, 4, 7}, {64, 8, 8}, {72, 8, 9},
			{80, 8, 10}, {88, 8, 11}, {96, 8, 12}, {104, 4, 13}, {112, 8, 14}, {120, 4, 15}, {128, 8, 16}, {136, 4, 17},
			{144, 8, 18}, {152, 4, 19}, {160, 4, 20}, {164, 4, 21}, {168, 4, 22}, {172, 4, 23}}},
		{"dirent", 32, func(b []byte) { EncodeDirent(b, 1, 2, 3, []byte("abc")) }, []at{{0, 8, 1}, {8, 8, 2}, {16, 4, 3}, {20, 4, 3}, {24, 3, 0x636261}}},
	} {
		want := make([]byte, c.size)
		for _, w := range c.want {
			for i := range w.n {
				want[w.off+i] = byte(w.v >> (8 * i))
			}
		}
		got := bytes.Repeat([]byte{0xee}, c.size+8)
		c.encode(got)
		if !bytes.Equal(got[:c.size], want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, got[:c.size], want)
		}
		if !bytes.Equal(got[c.size:], bytes.Repeat([]byte{0xee}, 8)) {
			t.Errorf("%s: more than %d bytes written", c.name, c.size)
		}
	}
}

// TestRows holds the table against the sizes of fuse.h 7.45.
func TestRows(t *testing.T) {
	in := map[Opcode]int{Forget: 8, Getattr: 16, Setattr: 88, Mknod: 16, Mkdir: 8, Rename: 8, Link: 8, Open: 8, Read: 40,
		Write: 40, Release: 24, Fsync: 16, Setxattr: 8, Getxattr: 8, Listxattr: 8, Flush: 24, Init: 16, Opendir: 8,
		Readdir: 40, Releasedir: 24, Fsyncdir: 16, Getlk: 48, Setlk: 48, Setlkw: 48, Access: 8, Create: 16, Interrupt: 8,
		Bmap: 16, Ioctl: 32, Poll: 24, NotifyReply: 40, BatchForget: 8, Fallocate: 32, Readdirplus: 40, Rename2: 16,
		Lseek: 24, CopyFileRange: 56, SetupMapping: 40, RemoveMapping: 4, Syncfs: 8, Tmpfile: 16, Statx: 24, CopyFileRange64: 56}
	out := map[Opcode]int{Lookup: 128, Getattr: 104, Setattr: 104, Symlink: 128, Mknod: 128, Mkdir: 128, Link: 128,
		Open: 16, Write: 8, Statfs: 80, Init: 64, Opendir: 16, Getlk: 24, Create: 144, Bmap: 8, Ioctl: 16, Poll: 8,
		Lseek: 8, CopyFileRange: 8, Tmpfile: 144, Statx: 288, CopyFileRange64: 8}
	names := map[string]Opcode{}
	for c := Opcode(0); c < Opcodes; c++ {
		row := Row(c)
		if known := c != 0 && c != 7 && c != 19; row.Known() != known {
			t.Errorf("opcode %d: known is %v", c, row.Known())
			continue
		}
		if int(row.In) != in[c] || int(row.Out) != out[c] {
			t.Errorf("%v: in %d out %d, want %d %d", c, row.In, row.Out, in[c], out[c])
		}
		if other, ok := names[row.Name]; ok && row.Known() {
			t.Errorf("opcodes %d and %d are both %s", other, c, row.Name)
		}
		names[row.Name] = c
	}
	for _, c := range []Opcode{Opcodes, 4096, ^Opcode(0)} {
		if Row(c).Known() || c.String() != "UNKNOWN" {
			t.Errorf("opcode %d is known", c)
		}
	}
}
