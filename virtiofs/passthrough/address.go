package passthrough

import "golang.org/x/sys/unix"

// fileHandle is struct file_handle (name_to_handle_at(2)).
type fileHandle struct {
	size uint32
	typ  int32
	data [maxHandle]byte
}

// maxHandle is the kernel's MAX_HANDLE_SZ.
const maxHandle = 128

// address is what opens an inode again, packed into one allocation: the length of
// its file handle, the handle's type and bytes if there are any, and its name
// with the NUL. A node without either has the empty address.
type address string

const addressHead = 2 // length and type of the handle

// newAddress packs a handle, nil for none, and a name, nil for none.
func newAddress(h *fileHandle, name *byte) address {
	var room [addressHead + maxHandle + 256]byte
	b := room[:addressHead]
	if h != nil {
		b[0], b[1] = byte(h.size), byte(h.typ)
		b = append(b, h.data[:h.size]...)
	}
	if name != nil {
		b = append(b, bytesOf(name)...)
		b = append(b, 0)
	}
	return address(b)
}

// hasHandle says that the address has a file handle.
func (a address) hasHandle() bool { return a != "" && a[0] != 0 }

// handle unpacks the file handle.
func (a address) handle(h *fileHandle) {
	h.size, h.typ = uint32(a[0]), int32(a[1])
	copy(h.data[:], a[addressHead:addressHead+int(a[0])])
}

// matches says that the address's handle is h.
func (a address) matches(h *fileHandle) bool {
	return a.hasHandle() && uint32(a[0]) == h.size && int32(a[1]) == h.typ &&
		string(a[addressHead:addressHead+int(a[0])]) == string(h.data[:h.size])
}

// sameHandle says that two addresses, which have handles, have the same.
func (a address) sameHandle(b address) bool {
	return a[:addressHead+int(a[0])] == b[:addressHead+int(b[0])]
}

// name is the first byte of the name, nil if there is none.
func (a address) name() *byte {
	if a == "" || len(a) == addressHead+int(a[0]) {
		return nil
	}
	return firstByte(string(a[addressHead+int(a[0]):]))
}

// renamed is the address with another name, nil for none.
func (a address) renamed(name *byte) address {
	if !a.hasHandle() {
		return newAddress(nil, name)
	}
	var h fileHandle
	a.handle(&h)
	return newAddress(&h, name)
}

// handleOf asks for the file handle of the name in dir, or of dir itself with
// AT_EMPTY_PATH. One that an address cannot hold is EOVERFLOW.
func handleOf(dir int, name *byte, flags int, h *fileHandle) unix.Errno {
	h.size = maxHandle
	if e := nameToHandle(dir, name, h, flags); e != 0 {
		return e
	}
	if h.size == 0 || h.size > maxHandle || h.typ < 0 || h.typ > 255 {
		return unix.EOVERFLOW
	}
	return 0
}
