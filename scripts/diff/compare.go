package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// result counts what a conversation, or all of them, came to.
type result struct {
	conversations, compared, succeeded, trees, different int

	unknown []string // what is different and is not known to be
	over    bool     // the sides' states are different from now on
}

func (r *result) add(x *result) {
	r.conversations += x.conversations
	r.compared += x.compared
	r.succeeded += x.succeeded
	r.trees += x.trees
	r.different += len(x.unknown)
}

func (r *result) report(format string, args ...any) {
	r.unknown = append(r.unknown, fmt.Sprintf(format, args...))
	r.over = true
}

func errName(e unix.Errno) string {
	if e == 0 {
		return "success"
	}
	return unix.ErrnoName(e)
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "link"
	}
	return "special file"
}

// old is the seconds below which a time was set by a request, not by the clock.
const old = 1 << 30

// compareAttr compares the attributes of a node. Its inode number may be any, but
// stays what it is; the loopback file system does not always tell. Blocks are the
// host's own affair.
func (t *talk) compareAttr(op fuse.Opcode, n *node, a, b fstest.Attr) {
	for s, ino := range [2]uint64{a.Ino, b.Ino} {
		switch {
		case ino == 0 && s == theirs:
		case n.ino[s] == 0:
			n.ino[s] = ino
		case n.ino[s] != ino:
			t.report("%v: side %d: inode number %d, before %d", op, s, ino, n.ino[s])
		}
	}
	for _, x := range []struct {
		name string
		a, b uint64
	}{
		{"mode", uint64(a.Mode), uint64(b.Mode)}, {"nlink", uint64(a.Nlink), uint64(b.Nlink)},
		{"uid", uint64(a.UID), uint64(b.UID)}, {"gid", uint64(a.GID), uint64(b.GID)},
		{"rdev", uint64(a.Rdev), uint64(b.Rdev)}, {"size", a.Size, b.Size},
		{"atime", explicit(a.Atime), explicit(b.Atime)}, {"mtime", explicit(a.Mtime), explicit(b.Mtime)},
		{"mtimensec", explicitNsec(a), explicitNsec(b)},
	} {
		if x.a != x.b {
			t.report("%v: %s %#o here, %#o there", op, x.name, x.a, x.b)
		}
	}
}

func explicit(sec uint64) uint64 {
	if sec < old {
		return sec
	}
	return old
}

func explicitNsec(a fstest.Attr) uint64 {
	if a.Mtime < old {
		return uint64(a.MtimeNsec)
	}
	return 0
}

// compareBytes compares what must be the same to the byte.
func (t *talk) compareBytes(op fuse.Opcode, body [2][]byte) {
	if !bytes.Equal(body[ours], body[theirs]) {
		t.report("%v: %d bytes %.100x here, %d bytes %.100x there", op, len(body[ours]), body[ours], len(body[theirs]), body[theirs])
	}
}

// compareTrees compares the two directories on the host.
func (t *talk) compareTrees() {
	var lines [2][]string
	for s, dir := range t.roots {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			line, err := describe(path)
			lines[s] = append(lines[s], "."+strings.TrimPrefix(path, dir)+" "+line)
			return err
		})
		if err != nil {
			t.report("walking %s: %v", dir, err)
			return
		}
	}
	t.trees++
	for i := range max(len(lines[ours]), len(lines[theirs])) {
		if i >= len(lines[ours]) || i >= len(lines[theirs]) || lines[ours][i] != lines[theirs][i] {
			t.report("the directories differ:\n  here  %s\n  there %s", at(lines[ours], i), at(lines[theirs], i))
			return
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "nothing"
}

// describe is all of a file that a guest can see, in one line.
func describe(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%o %d:%d links %d", st.Mode, st.Uid, st.Gid, st.Nlink)
	if st.Mtim.Sec < old {
		line += fmt.Sprintf(" mtime %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %d bytes %.40x", len(data), data)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += " -> " + target
	}
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return "", err
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		if name == "" {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %s=%x", name, value[:n])
	}
	return line, nil
}
