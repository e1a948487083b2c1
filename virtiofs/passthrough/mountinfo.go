package passthrough

import (
	"maps"
	"strconv"
	"strings"
)

// mountLine is what matters of a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type mountLine struct {
	id, parent int
	root, at   string // escaped: which directory of the file system is mounted, and where
	typ        string
}

// parseMountLine says in ok whether the line is one.
func parseMountLine(line string) (m mountLine, ok bool) {
	line, _ = strings.CutSuffix(line, "\n")
	var words [6]string // ID, parent, device, root, mount point, options
	for i := range words {
		if words[i], line, ok = strings.Cut(line, " "); !ok {
			return m, false
		}
	}
	for word := ""; word != "-"; { // after any number of optional ones
		if word, line, ok = strings.Cut(line, " "); !ok {
			return m, false
		}
	}
	m.root, m.at = words[3], words[4]
	m.typ, _, _ = strings.Cut(line, " ")
	var e1, e2 error
	m.id, e1 = strconv.Atoi(words[0])
	m.parent, e2 = strconv.Atoi(words[1])
	return m, e1 == nil && e2 == nil && m.typ != ""
}

// answersAtOnce says that the root of a file system of the type (as in filesystems(5))
// can be looked at without waiting for anybody: it is in memory as long as it is mounted,
// and its attributes are nobody else's to tell. Those of the kernel's are such, too.
// Not so autofs, which waits for a daemon, and all that has a server or is a layer.
func answersAtOnce(typ string) bool {
	switch typ {
	case "ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs",
		"devtmpfs", "hugetlbfs", "ramfs", "rootfs", "squashfs", "vfat":
		return true
	}
	for name := range maps.Values(kernelFS) {
		if name == typ {
			return true
		}
	}
	return false
}

// calmMounts is the IDs of the mounts in which no name leads to a place that has to be
// waited for: none but such that answer at once are mounted there. A mount of a part of
// a file system is not among them, as a directory can be moved out of it together with
// what is mounted below, which is then not in the list. Nor is any, where a line cannot
// be understood.
func calmMounts(mountinfo string) map[int]bool {
	all, calm := map[int]mountLine{}, map[int]bool{}
	for line := range strings.Lines(mountinfo) {
		m, ok := parseMountLine(line)
		if !ok {
			return nil
		}
		all[m.id], calm[m.id] = m, m.root == "/"
	}
	for _, m := range all {
		if answersAtOnce(m.typ) {
			continue
		}
		for range all { // at most: the first mount is its own parent
			calm[m.parent] = false
			above, listed := all[m.parent]
			if !listed || liesBelow(m.at, above.at) {
				break
			}
			m = above // which it hides: the name it is found by is one in the next
		}
	}
	return calm
}

// liesBelow says that a path begins with another and goes on.
func liesBelow(path, above string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(above, "/"))
	return ok && len(rest) > 1 && rest[0] == '/'
}
