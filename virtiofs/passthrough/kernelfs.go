package passthrough

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// kernelFS lists file systems that are no storage but windows into the host's
// kernel, by statfs type (linux/magic.h). Through /proc/PID/mem a guest could
// read and write the VMM's own memory, so none of them is ever entered: what
// is mounted on one shows as an empty directory that cannot be filled, or as a
// file that cannot be opened.
var kernelFS = map[int64]string{
	0x9fa0:     "proc",
	0x62656572: "sysfs",
	0x1cd1:     "devpts",
	0x64626720: "debugfs",
	0x74726163: "tracefs",
	0x73636673: "securityfs",
	0x27e0eb:   "cgroup",
	0x63677270: "cgroup2",
	0xcafe4a11: "bpf",
	0x6165676c: "pstore",
	0xde5e81e4: "efivarfs",
	0x62656570: "configfs",
	0xf97cff8c: "selinuxfs",
	0x19800202: "mqueue",
	0x42494e4d: "binfmt_misc",
	0x65735543: "fusectl",
	0x6e736673: "nsfs",
	0x7655821:  "resctrl",
	0x6e667364: "nfsd",
	0x67596969: "rpc_pipefs",
	0x43415d53: "smackfs",
	0xa647361:  "functionfs",
	0xabba1974: "xenfs",
}

// ofKernel says whether a descriptor lies on such a file system, and which. A
// file system that does not say what it is counts as one.
func ofKernel(fd int) (name string, yes bool) {
	var st unix.Statfs_t
	if e := fstatfs(fd, &st); e != 0 {
		return "unknown", true
	}
	name, yes = kernelFS[int64(st.Type)]
	return name, yes
}

// openEmpty opens a directory that is removed at once: there is nothing in it
// and nothing can ever be put into it.
func openEmpty() (int, error) {
	dir, err := os.MkdirTemp("", "tenon-empty-")
	if err != nil {
		return -1, fmt.Errorf("an empty directory in place of /proc and the like: %w", err)
	}
	defer os.Remove(dir)
	return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// seal looks at an inode on which another mount begins. On a file system of the
// kernel's a directory's descriptor is exchanged for the empty directory's, and
// a file is marked as one that is never opened.
func (f *FS) seal(n *newcomer) unix.Errno {
	// Asked of the descriptor each time: what is known of its volume may be of
	// another mount that had the same numbers (see statxMask).
	if _, yes := ofKernel(n.path); !yes {
		return 0
	}
	n.sealed = true
	if n.typ != unix.S_IFDIR {
		return 0
	}
	_, _, e := unix.Syscall(unix.SYS_DUP3, uintptr(f.empty), uintptr(n.path), unix.O_CLOEXEC)
	return e
}
