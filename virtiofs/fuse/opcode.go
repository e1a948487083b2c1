// Package fuse is the FUSE wire protocol (Linux include/uapi/linux/fuse.h,
// 7.45) and nothing else: opcodes with one table row each, flags, and the
// structures with their encoders and decoders. It makes no system calls and
// keeps no state. All integers are little-endian; the sizes and offsets are
// those of x86-64 and are held by golden tests.
package fuse

// Opcode is the operation of one request (fuse.h, enum fuse_opcode).
type Opcode uint32

// The opcodes of protocol 7.45. The numbers 7 and 19 were never given out.
const (
	Lookup          Opcode = 1
	Forget          Opcode = 2
	Getattr         Opcode = 3
	Setattr         Opcode = 4
	Readlink        Opcode = 5
	Symlink         Opcode = 6
	Mknod           Opcode = 8
	Mkdir           Opcode = 9
	Unlink          Opcode = 10
	Rmdir           Opcode = 11
	Rename          Opcode = 12
	Link            Opcode = 13
	Open            Opcode = 14
	Read            Opcode = 15
	Write           Opcode = 16
	Statfs          Opcode = 17
	Release         Opcode = 18
	Fsync           Opcode = 20
	Setxattr        Opcode = 21
	Getxattr        Opcode = 22
	Listxattr       Opcode = 23
	Removexattr     Opcode = 24
	Flush           Opcode = 25
	Init            Opcode = 26
	Opendir         Opcode = 27
	Readdir         Opcode = 28
	Releasedir      Opcode = 29
	Fsyncdir        Opcode = 30
	Getlk           Opcode = 31
	Setlk           Opcode = 32
	Setlkw          Opcode = 33
	Access          Opcode = 34
	Create          Opcode = 35
	Interrupt       Opcode = 36
	Bmap            Opcode = 37
	Destroy         Opcode = 38
	Ioctl           Opcode = 39
	Poll            Opcode = 40
	NotifyReply     Opcode = 41
	BatchForget     Opcode = 42
	Fallocate       Opcode = 43
	Readdirplus     Opcode = 44
	Rename2         Opcode = 45
	Lseek           Opcode = 46
	CopyFileRange   Opcode = 47
	SetupMapping    Opcode = 48
	RemoveMapping   Opcode = 49
	Syncfs          Opcode = 50
	Tmpfile         Opcode = 51
	Statx           Opcode = 52
	CopyFileRange64 Opcode = 53

	Opcodes = 54 // one more than the largest
)

// NameKind says what rule a NUL-terminated string of a request obeys.
type NameKind uint8

// The kinds of string: none, one path component, the name of an extended
// attribute, the target of a symbolic link, and a string that is carried but
// means nothing (the "/" that Linux sends with TMPFILE).
const (
	NoName NameKind = iota
	Component
	XattrName
	Target
	Ignored
)

// Op is one opcode's row: all that is needed to check a request before any
// code of that operation sees it.
type Op struct {
	Name     string
	In       uint16      // bytes of fixed arguments after the 40-byte header; INIT and SETXATTR: the least
	Out      uint16      // bytes of fixed reply after the 16-byte header
	Names    [2]NameKind // the strings that follow the fixed arguments
	Payload  bool        // bytes may follow the strings: data of WRITE, value of SETXATTR, ...
	Ext      bool        // creation extensions may end the request (in_header.total_extlen)
	NoReply  bool        // the request is consumed in silence
	MayBlock bool        // may wait long for storage or for others: not for a vCPU's own thread
	Mutates  bool        // changes the file system: refused on a read-only share
}

// Known reports whether the row belongs to an opcode of the protocol.
func (o *Op) Known() bool { return o.Name != "" }

// Row returns the opcode's row; a row that is not Known for anything that is
// not in the protocol.
func Row(c Opcode) *Op {
	if c >= Opcodes {
		c = 0
	}
	return &ops[c]
}

// String is the opcode's name as fuse.h has it, without FUSE_.
func (c Opcode) String() string {
	if o := Row(c); o.Known() {
		return o.Name
	}
	return "UNKNOWN"
}

// oneName and twoNames are the common shapes of Op.Names.
var (
	oneName  = [2]NameKind{Component}
	twoNames = [2]NameKind{Component, Component}
)

// ops is the protocol as a table; rows are in the order of the numbers.
var ops = [Opcodes]Op{
	Lookup:          {Name: "LOOKUP", Out: EntryOutSize, Names: oneName},
	Forget:          {Name: "FORGET", In: 8, NoReply: true},
	Getattr:         {Name: "GETATTR", In: 16, Out: AttrOutSize},
	Setattr:         {Name: "SETATTR", In: 88, Out: AttrOutSize, Mutates: true},
	Readlink:        {Name: "READLINK"},
	Symlink:         {Name: "SYMLINK", Out: EntryOutSize, Names: [2]NameKind{Component, Target}, Ext: true, Mutates: true},
	Mknod:           {Name: "MKNOD", In: 16, Out: EntryOutSize, Names: oneName, Ext: true, Mutates: true},
	Mkdir:           {Name: "MKDIR", In: 8, Out: EntryOutSize, Names: oneName, Ext: true, Mutates: true},
	Unlink:          {Name: "UNLINK", Names: oneName, Mutates: true},
	Rmdir:           {Name: "RMDIR", Names: oneName, Mutates: true},
	Rename:          {Name: "RENAME", In: 8, Names: twoNames, Mutates: true},
	Link:            {Name: "LINK", In: 8, Out: EntryOutSize, Names: oneName, Mutates: true},
	Open:            {Name: "OPEN", In: 8, Out: OpenOutSize},
	Read:            {Name: "READ", In: 40},
	Write:           {Name: "WRITE", In: 40, Out: 8, Payload: true, Mutates: true},
	Statfs:          {Name: "STATFS", Out: 80},
	Release:         {Name: "RELEASE", In: 24},
	Fsync:           {Name: "FSYNC", In: 16, MayBlock: true},
	Setxattr:        {Name: "SETXATTR", In: 8, Names: [2]NameKind{XattrName}, Payload: true, Mutates: true},
	Getxattr:        {Name: "GETXATTR", In: 8, Names: [2]NameKind{XattrName}},
	Listxattr:       {Name: "LISTXATTR", In: 8},
	Removexattr:     {Name: "REMOVEXATTR", Names: [2]NameKind{XattrName}, Mutates: true},
	Flush:           {Name: "FLUSH", In: 24},
	Init:            {Name: "INIT", In: 16, Out: InitOutSize},
	Opendir:         {Name: "OPENDIR", In: 8, Out: OpenOutSize},
	Readdir:         {Name: "READDIR", In: 40},
	Releasedir:      {Name: "RELEASEDIR", In: 24},
	Fsyncdir:        {Name: "FSYNCDIR", In: 16, MayBlock: true},
	Getlk:           {Name: "GETLK", In: 48, Out: 24},
	Setlk:           {Name: "SETLK", In: 48},
	Setlkw:          {Name: "SETLKW", In: 48},
	Access:          {Name: "ACCESS", In: 8},
	Create:          {Name: "CREATE", In: 16, Out: EntryOutSize + OpenOutSize, Names: oneName, Ext: true, Mutates: true},
	Interrupt:       {Name: "INTERRUPT", In: 8, NoReply: true},
	Bmap:            {Name: "BMAP", In: 16, Out: 8},
	Destroy:         {Name: "DESTROY", MayBlock: true},
	Ioctl:           {Name: "IOCTL", In: 32, Out: 16, Payload: true},
	Poll:            {Name: "POLL", In: 24, Out: 8},
	NotifyReply:     {Name: "NOTIFY_REPLY", In: 40, Payload: true, NoReply: true},
	BatchForget:     {Name: "BATCH_FORGET", In: 8, Payload: true, NoReply: true},
	Fallocate:       {Name: "FALLOCATE", In: 32, MayBlock: true, Mutates: true},
	Readdirplus:     {Name: "READDIRPLUS", In: 40},
	Rename2:         {Name: "RENAME2", In: 16, Names: twoNames, Mutates: true},
	Lseek:           {Name: "LSEEK", In: 24, Out: 8},
	CopyFileRange:   {Name: "COPY_FILE_RANGE", In: 56, Out: 8, MayBlock: true, Mutates: true},
	SetupMapping:    {Name: "SETUPMAPPING", In: 40},
	RemoveMapping:   {Name: "REMOVEMAPPING", In: 4, Payload: true},
	Syncfs:          {Name: "SYNCFS", In: 8, MayBlock: true},
	Tmpfile:         {Name: "TMPFILE", In: 16, Out: EntryOutSize + OpenOutSize, Names: [2]NameKind{Ignored}, Ext: true, Mutates: true},
	Statx:           {Name: "STATX", In: 24, Out: StatxOutSize},
	CopyFileRange64: {Name: "COPY_FILE_RANGE_64", In: 56, Out: 8, MayBlock: true, Mutates: true},
}
