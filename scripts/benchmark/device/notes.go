package device

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/vhostuser"
)

// peerSide is the name of a daemon's side.
func peerSide(d vhostuser.Daemon) string {
	if d.Name[0] == 'C' {
		return sideC
	}
	return sideRust
}

// fileSystems are the names of file systems by their numbers (statfs(2)).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.TMPFS_MAGIC: "tmpfs", unix.XFS_SUPER_MAGIC: "xfs",
	unix.BTRFS_SUPER_MAGIC: "btrfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
}

// fileSystem names what a directory is on.
func fileSystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "an unknown file system"
	}
	if name := fileSystems[st.Type]; name != "" {
		return name
	}
	return fmt.Sprintf("file system %#x", st.Type)
}

// load is what else the machine had to do, when asked before anything is measured.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(text)); err == nil && len(fields) > 0 {
		return fields[0]
	}
	return "unknown"
}

// notes says how it was measured.
func notes(dir string, peers []vhostuser.Daemon, missing []error) []string {
	var list []string
	for _, e := range missing {
		list = append(list, fmt.Sprintf("SKIPPED: a peer is missing: %v", e))
	}
	list = append(list,
		"Load of the machine before the first row: "+load()+". A daemon needs a processor besides the driver's: what "+
			"else runs costs it more than the others.",
		"The shared directory, the same for all sides, is on "+fileSystem(dir)+", and in the page cache.",
		"A ring is filled with a batch of requests as Linux 6.12 sends them, in indirect tables, and kicked once: "+
			"64 requests, 32 of 128K, 8 of 1M. A batch takes from making them available to the last used entry; "+
			"a value is the median of a turn's batches by their requests, p99 that of batches; "+
			fmt.Sprintf("a round of -rounds is %d turns of %v. ", turns, turnTime)+
			"One at a time: the next is made available when the one before is used; p99 is that of single requests.",
		"The driver watches the used ring and wants no interrupts, so that none is sent: the daemons at their best. "+
			"It kicks when the device wants that.",
		"bare: fstat by descriptor; statx of a name; openat with O_PATH and fstat (LOOKUP new); openat and close; "+
			"pread, pwrite, and where there are several buffers preadv, pwritev; getdents64 of 32 KiB and statx of each name; "+
			"openat with O_CREAT and O_EXCL, close, unlinkat; mmap of a file and of nothing. "+
			"Go's way tells Go's scheduler of the call, as a Go program must of every call that may wait; Tenon does "+
			"of all but fstat, and preadv2 of what was in memory the last time.",
		"Off the clock: FORGET (bare: close) of what LOOKUP new, READDIRPLUS new and CREATE made; what the driver "+
			"does between OPEN and RELEASE. CREATE+UNLINK is CREATE, RELEASE, UNLINK.",
		"Scattered: each page is a descriptor of its own, none behind the one before; a 4K buffer lies in two pages.",
	)
	list = append(list, "tenon has the defaults: cache=auto, dax=inode with a window, dax-min-size=1M.")
	for _, p := range peers {
		list = append(list, fmt.Sprintf("%s is %s with `%s`. It has no DAX window.", peerSide(p), p.Name, p.Options()))
	}
	return list
}
