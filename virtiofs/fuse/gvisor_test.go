package fuse

import (
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
)

// The structures that gVisor's FUSE client has too are checked against its
// layouts: an independent reading of fuse.h, made from the other side.

func TestDecodersAgreeWithGVisor(t *testing.T) {
	marshal := func(size int, write func([]byte) []byte) []byte {
		b := make([]byte, size)
		write(b)
		return b
	}
	h := linux.FUSEHeaderIn{Len: 1, Opcode: 2, Unique: 3, NodeID: 4, UID: 5, GID: 6, PID: 7}
	var header InHeader
	header.Decode((*[InHeaderSize]byte)(marshal(h.SizeBytes(), h.MarshalUnsafe)))
	if want := (InHeader{Len: 1, Opcode: 2, Unique: 3, NodeID: 4, UID: 5, GID: 6, PID: 7}); header != want {
		t.Errorf("fuse_in_header: %+v", header)
	}
	s := linux.FUSESetAttrIn{
		Valid: 1, Fh: 2, Size: 3, Atime: 4, Mtime: 5, AtimeNsec: 6, MtimeNsec: 7, Mode: 8, UID: 9, GID: 10,
	}
	var setattr SetattrIn
	setattr.Decode(marshal(s.SizeBytes(), s.MarshalUnsafe))
	if want := (SetattrIn{Valid: 1, Fh: 2, Size: 3, Atime: 4, Mtime: 5, AtimeNsec: 6, MtimeNsec: 7, Mode: 8, UID: 9, GID: 10}); setattr != want {
		t.Errorf("fuse_setattr_in: %+v", setattr)
	}
	r := linux.FUSEReadIn{Fh: 1, Offset: 2, Size: 3, Flags: 4}
	var read ReadIn
	read.Decode(marshal(r.SizeBytes(), r.MarshalUnsafe))
	if want := (ReadIn{Fh: 1, Offset: 2, Size: 3, Flags: 4}); read != want {
		t.Errorf("fuse_read_in: %+v", read)
	}
	w := linux.FUSEWriteIn{Fh: 1, Offset: 2, Size: 3, WriteFlags: 4, Flags: 5}
	var write WriteIn
	write.Decode(marshal(w.SizeBytes(), w.MarshalUnsafe))
	if want := (WriteIn{Fh: 1, Offset: 2, Size: 3, WriteFlags: 4, Flags: 5}); write != want {
		t.Errorf("fuse_write_in: %+v", write)
	}
	f := linux.FUSEFallocateIn{Fh: 1, Offset: 2, Length: 3, Mode: 4}
	var fallocate FallocateIn
	fallocate.Decode(marshal(f.SizeBytes(), f.MarshalUnsafe))
	if want := (FallocateIn{Fh: 1, Offset: 2, Length: 3, Mode: 4}); fallocate != want {
		t.Errorf("fuse_fallocate_in: %+v", fallocate)
	}
}

func TestEncodersAgreeWithGVisor(t *testing.T) {
	attr := Attr{
		Ino: 1, Size: 2, Blocks: 3, Atime: 4, Mtime: 5, Ctime: 6, AtimeNsec: 7, MtimeNsec: 8, CtimeNsec: 9,
		Mode: 10, Nlink: 11, UID: 12, GID: 13, Rdev: 14, Blksize: 15,
	}
	var got linux.FUSEEntryOut
	b := make([]byte, got.SizeBytes())
	EncodeEntryOut(b, 16, 17, &Timeout{18, 20}, &Timeout{19, 21}, &attr)
	got.UnmarshalUnsafe(b)
	want := linux.FUSEEntryOut{
		NodeID: 16, Generation: 17, EntryValid: 18, AttrValid: 19, EntryValidNSec: 20, AttrValidNSec: 21,
		Attr: linux.FUSEAttr{
			Ino: 1, Size: 2, Blocks: 3, Atime: 4, Mtime: 5, Ctime: 6, AtimeNsec: 7, MtimeNsec: 8, CtimeNsec: 9,
			Mode: 10, Nlink: 11, UID: 12, GID: 13, Rdev: 14, BlkSize: 15,
		},
	}
	if got != want {
		t.Errorf("fuse_entry_out: %+v, want %+v", got, want)
	}
}
