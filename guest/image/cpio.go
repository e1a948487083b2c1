package image

import "fmt"

// The "newc" archive of the kernel's initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst): a header of
// 110 ASCII bytes, the name with its NUL, the body; name and body are padded
// to 4 bytes.
const (
	modeDir  = 0o040000
	modeChar = 0o020000
	modeFile = 0o100000

	trailer = "TRAILER!!!"
)

// archive writes entries to dst, or only counts their bytes when dst is nil.
type archive struct {
	dst []byte
	n   int // bytes so far
	ino uint32
}

type entry struct {
	name         string
	mode         uint32
	size         int64
	major, minor uint32
}

// entry appends a header and returns the room for the body, nil when counting.
func (a *archive) entry(e entry) (body []byte) {
	a.ino++
	links := 1
	if e.mode&modeDir == modeDir {
		links = 2
	}
	// magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	header := fmt.Appendf(make([]byte, 0, 256), "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, e.mode, 0, 0, links, 0, e.size, 0, 0, e.major, e.minor, len(e.name)+1, 0, e.name)
	copy(a.take(len(header)), header)
	return a.take(int(e.size))
}

// file appends a regular file.
func (a *archive) file(name string, perm uint32, data []byte) {
	copy(a.entry(entry{name: name, mode: modeFile | perm, size: int64(len(data))}), data)
}

func (a *archive) end() { a.entry(entry{name: trailer}) }

// take returns the next n bytes and steps over them and their padding.
func (a *archive) take(n int) []byte {
	start := a.n
	a.n += (n + 3) &^ 3
	if a.dst == nil {
		return nil
	}
	clear(a.dst[start+n : a.n])
	return a.dst[start : start+n]
}
