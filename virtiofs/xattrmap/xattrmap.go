// Package xattrmap translates names of extended attributes between a guest and
// its host, by rules in the language of virtiofsd's --xattrmap.
//
// A rule begins with a character that separates its fields; white space divides
// rules. The first rule that matches a name decides, and the last one has to
// match every name of either side.
//
//	:TYPE:SCOPE:KEY:PREPEND:
//
// SCOPE says what the rule is held against: "client" the names that the guest
// uses, which match if they begin with KEY; "server" the names that the host
// lists, which match if they begin with PREPEND; "all" both. TYPE is
//
//	prefix       the host's name is PREPEND and then the guest's
//	ok           the name is the same on both sides
//	bad          the guest gets EPERM; not listed
//	unsupported  the guest gets EOPNOTSUPP; not listed
//
//	:map:KEY:PREPEND:
//
// stands at the end and is short for a prefix rule, those that keep its names
// apart from others, and one for all the rest.
package xattrmap

import "golang.org/x/sys/unix"

// NameMax is the longest name in bytes, without its NUL (Linux XATTR_NAME_MAX).
const NameMax = 255

// Name is room for a name and the NUL that ends it.
type Name [NameMax + 1]byte

// Map is a list of rules. It does not change, and a nil Map leaves every name as
// it is.
type Map struct{ rules []rule }

type kind uint8

const (
	ok kind = iota
	prefix
	bad
	unsupported
)

type rule struct {
	kind           kind
	client, server bool // the scope
	key, prepend   string
}

// Host writes the host's name for a name of the guest, NUL-terminated, into buf
// and returns it without the NUL; without a map it is the name as given. EPERM
// and EOPNOTSUPP are by the rules; ERANGE is a name that becomes too long. A
// name by which the guest would reach what a prefix rule keeps under another
// name is EPERM, whatever the rules say: whoever may set the one may not always
// set the other (trusted.*, security.*).
func (m *Map) Host(client []byte, buf *Name) ([]byte, unix.Errno) {
	var r *rule
	if m != nil {
		r = m.match(client)
	}
	host := buf[:0]
	if r != nil {
		switch r.kind {
		case bad:
			return nil, unix.EPERM
		case unsupported:
			return nil, unix.EOPNOTSUPP
		case prefix:
			host = buf[:copy(buf[:NameMax], r.prepend)]
		}
	}
	if len(host)+len(client) > NameMax {
		return nil, unix.ERANGE
	}
	host = append(host, client...)
	buf[len(host)] = 0
	if m != nil && m.alias(host, len(host)-len(client)) {
		return nil, unix.EPERM
	}
	return host, 0
}

// match returns the first rule for a name of the guest. The last rule matches
// every name.
func (m *Map) match(client []byte) *rule {
	for i := range m.rules {
		if r := &m.rules[i]; r.client && begins(client, r.key) {
			return r
		}
	}
	return &rule{kind: bad}
}

// alias says whether a prefix rule makes the host's name from another name of
// the guest than the one that was asked for, which is host[skip:].
func (m *Map) alias(host []byte, skip int) bool {
	for i := range m.rules {
		r := &m.rules[i]
		if r.kind == prefix && r.client && len(r.prepend) != skip && begins(host, r.prepend) && begins(host[len(r.prepend):], r.key) {
			return true
		}
	}
	return false
}

// Client returns the guest's name for a name that the host lists, which is the
// end of that one or all of it; not shown is a name the guest does not get to see.
func (m *Map) Client(host []byte) (client []byte, shown bool) {
	if m == nil {
		return host, true
	}
	for i := range m.rules {
		r := &m.rules[i]
		if !r.server || !begins(host, r.prepend) {
			continue
		}
		switch r.kind {
		case ok:
			return host, true
		case prefix:
			client = host[len(r.prepend):]
			// A rule for both ways has made no name that does not begin with its key.
			return client, len(client) > 0 && (!r.client || begins(client, r.key))
		}
		return nil, false
	}
	return nil, false
}

func begins(name []byte, with string) bool {
	return len(name) >= len(with) && string(name[:len(with)]) == with
}
