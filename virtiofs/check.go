package virtiofs

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/fuse"
)

// check holds a request against its opcode's row before any code of the
// operation runs: session, length, room for the reply, read-only, arguments,
// names. What it lets through is safe to decode without further checks of
// length.
func (s *Server) check(r *Request) unix.Errno {
	if r.hdr.Opcode >= fuse.Opcodes || s.handlers[r.hdr.Opcode] == nil {
		return unix.ENOSYS
	}
	n := int64(r.hdr.Len) - fuse.InHeaderSize
	if n < int64(r.row.In) || n > int64(r.rest) || n > maxRequest {
		return unix.EINVAL
	}
	r.rest = int(n)
	if !r.row.NoReply && r.room < fuse.OutHeaderSize+int(r.row.Out) {
		return unix.EINVAL
	}
	session := s.session.Load()
	if session == 0 && r.hdr.Opcode != fuse.Init {
		return unix.EIO
	}
	if e := r.arguments(session); e != 0 {
		return e
	}
	if s.readOnly && r.changes() {
		if r.hdr.Opcode == fuse.SetupMapping {
			s.fs.Refuse()
		}
		return unix.EROFS
	}
	return 0
}

// changes reports whether the request would change the file system. It is the
// only place where a read-only share is told from another.
func (r *Request) changes() bool {
	switch r.hdr.Opcode {
	case fuse.Open:
		return opensForChange(fuse.Word32(r.fixed()[:], 0))
	case fuse.Access:
		return fuse.Word32(r.fixed()[:], 0)&unix.W_OK != 0
	case fuse.Ioctl:
		return r.ioctlChanges()
	case fuse.SetupMapping:
		return fuse.Word64(r.fixed()[:], 3)&fuse.MapWrite != 0
	}
	return r.row.Mutates
}

func opensForChange(flags uint32) bool {
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&(unix.O_TRUNC|unix.O_CREAT) != 0
}

// begin copies the header out of guest memory, and in the same pass the first of what
// follows, which mostly are all the arguments.
func (r *Request) begin() error {
	r.taken = min(r.rest, firstArgs)
	err := r.in.Copy(r.text[:fuse.InHeaderSize+r.taken])
	if err != nil {
		// Where arguments lie in a page that is gone, the header may yet be had, and
		// with it an answer. Nothing of the first copy was looked at.
		r.taken = 0
		r.in.Reset()
		err = r.in.Copy(r.text[:fuse.InHeaderSize])
	}
	return err
}

// fixed is the fixed arguments, and behind them the first of what follows.
func (r *Request) fixed() *[maxFixed]byte { return (*[maxFixed]byte)(r.text[fuse.InHeaderSize:]) }

// fetch makes the first n bytes behind the header be in text, and r.in stand behind
// them. Each that is in use is copied out of guest memory once.
func (r *Request) fetch(n int) unix.Errno {
	var err error
	switch {
	case n > r.taken:
		err = r.in.Copy(r.text[fuse.InHeaderSize+r.taken : fuse.InHeaderSize+n])
	case n < r.taken: // part of the payload was taken too
		r.in.Reset()
		err = r.in.Skip(fuse.InHeaderSize + n)
	}
	if err != nil {
		return unix.EIO
	}
	return 0
}

// arguments copies the fixed arguments and the strings out of guest memory,
// once, and checks the strings.
func (r *Request) arguments(session uint64) unix.Errno {
	fixed := int(r.row.In)
	if fixed == r.taken && r.row.Names[0] == fuse.NoName && r.hdr.Opcode != fuse.Init {
		r.rest -= fixed // most requests: all there is to have is here
		return 0
	}
	switch {
	case r.hdr.Opcode == fuse.Init:
		fixed = min(r.rest, fuse.InitInSize)
	case r.hdr.Opcode == fuse.Setxattr && session&fuse.SetxattrExt != 0:
		fixed = fuse.SetxattrExtSize
	}
	if fixed > r.rest || fixed > maxFixed {
		return unix.EINVAL
	}
	all := fixed
	if r.row.Names[0] != fuse.NoName {
		all = r.rest
	}
	if all-fixed > maxVariable {
		return unix.E2BIG
	}
	if e := r.fetch(all); e != 0 {
		return e
	}
	r.rest -= all
	if r.hdr.Opcode == fuse.Init {
		clear(r.fixed()[fixed:fuse.InitInSize])
	}
	if r.row.Names[0] == fuse.NoName {
		return 0
	}
	v := r.text[fuse.InHeaderSize+fixed : fuse.InHeaderSize+all]
	if r.hdr.Opcode == fuse.Lookup {
		return r.lookedUp(v, session)
	}
	if r.row.Ext {
		r.caller = Caller{UID: r.hdr.UID, GID: r.hdr.GID, PID: r.hdr.PID}
		var e unix.Errno
		if v, e = r.extensions(session, v); e != 0 {
			return e
		}
		if session&fuse.DontMask != 0 {
			r.caller.Umask = r.umask() & 0o777
		}
	}
	return r.strings(v)
}

// lookedUp checks the name of a LOOKUP, which may be one of dots.
func (r *Request) lookedUp(v []byte, session uint64) unix.Errno {
	if session&fuse.ExportSupport != 0 && len(v) > 0 && v[0] == '.' {
		if r.dots = dots(v); r.dots != 0 {
			return 0
		}
	}
	name, _, e := ParseName(v)
	r.names[0] = name.CString
	return e
}

// strings checks the strings at the start of v, each by the rule of its kind;
// the rest of v is the payload.
func (r *Request) strings(v []byte) unix.Errno {
	for i, kind := range &r.row.Names {
		var n int
		var e unix.Errno
		switch kind {
		case fuse.NoName:
			continue
		case fuse.Component:
			var name Name
			name, n, e = ParseName(v)
			r.names[i] = name.CString
		case fuse.Target:
			r.names[i], n, e = parseString(v, maxTarget)
		default:
			r.names[i], n, e = parseString(v, maxName)
		}
		if e != 0 {
			return e
		}
		v = v[n:]
	}
	r.payload = v
	return 0
}

// name is the i-th string of a request whose row says that it is a Component.
func (r *Request) name(i int) Name { return Name{r.names[i]} }

// umask is what the guest has left to the server to take off a new node's mode
// (FUSE_DONT_MASK).
func (r *Request) umask() uint32 {
	switch r.hdr.Opcode {
	case fuse.Mkdir:
		return fuse.Word32(r.fixed()[:], 1)
	case fuse.Mknod, fuse.Create, fuse.Tmpfile:
		return fuse.Word32(r.fixed()[:], 2)
	}
	return 0
}

// extensions cuts the creation extensions off the end of v and takes the
// caller's groups and the new node's labels from them (fuse_ext_header, 7.38). A
// type below ExtGroups is the count of labels. What was not agreed on is passed
// over by its size, like any type that is not known.
func (r *Request) extensions(session uint64, v []byte) ([]byte, unix.Errno) {
	n := int(r.hdr.TotalExt) * 8
	if n > len(v) {
		return nil, unix.EINVAL
	}
	ext := v[len(v)-n:]
	for len(ext) > 0 {
		if len(ext) < fuse.ExtHeaderSize {
			return nil, unix.EINVAL
		}
		size, typ := fuse.Word32(ext, 0), fuse.Word32(ext, 1)
		if size < fuse.ExtHeaderSize || size%8 != 0 || int64(size) > int64(len(ext)) {
			return nil, unix.EINVAL
		}
		valid, body := true, ext[fuse.ExtHeaderSize:size]
		switch {
		case typ == fuse.ExtGroups:
			valid = r.setGroups(body)
		case typ < fuse.ExtGroups && session&fuse.SecurityCtx != 0:
			valid = r.setLabels(int(typ), body)
		}
		if !valid {
			return nil, unix.EINVAL
		}
		ext = ext[size:]
	}
	return v[:len(v)-n], 0
}

// setGroups decodes fuse_supp_groups.
func (r *Request) setGroups(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	n := fuse.Word32(b, 0)
	if n > MaxGroups || int(n) > len(b)/4-1 {
		return false
	}
	for i := range r.groups[:n] {
		r.groups[i] = fuse.Word32(b, i+1)
	}
	r.caller.Groups = r.groups[:n]
	return true
}

// maxLabels is how many labels a request can carry (FUSE_MAX_NR_SECCTX).
const maxLabels = fuse.ExtGroups - 1

// setLabels decodes n times fuse_secctx, a name and a value, each padded to 8
// bytes. A request has one block of them.
func (r *Request) setLabels(n int, b []byte) bool {
	if len(r.caller.Labels) > 0 {
		return false
	}
	for i := range r.labels[:n] {
		if len(b) < fuse.SecctxSize {
			return false
		}
		size := fuse.Word32(b, 0)
		name, used, e := parseString(b[fuse.SecctxSize:], maxName)
		rest := b[min(fuse.SecctxSize+used, len(b)):]
		if e != 0 || int64(size) > int64(len(rest)) {
			return false
		}
		r.labels[i] = Label{Name: name, Value: rest[:size]}
		b = b[min((fuse.SecctxSize+used+int(size)+7)&^7, len(b)):]
	}
	r.caller.Labels = r.labels[:n]
	return true
}
