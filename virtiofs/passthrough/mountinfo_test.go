package passthrough

import "testing"

func TestParseMountLine(t *testing.T) {
	for _, c := range []struct {
		line string
		want mountLine // with no type: not a line
	}{
		{"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n", mountLine{27, 1, "/", "/", "ext4"}},
		{"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw", mountLine{27, 1, "/", "/", "ext4"}},
		{"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n", mountLine{36, 35, "/mnt1", "/mnt2", "ext3"}},
		{"5 4 0:30 / /a rw shared:7 master:1 propagate_from:2 unbindable - fuse.sshfs me@far:/ rw\n", mountLine{5, 4, "/", "/a", "fuse.sshfs"}},
		{`612 27 0:51 /with\040space /tmp/a\040-\040b\012c rw - tmpfs some\040name rw` + "\n", mountLine{612, 27, `/with\040space`, `/tmp/a\040-\040b\012c`, "tmpfs"}},
		{"9 8 0:4 net:[4026531992] /run/netns/n rw - nsfs nsfs rw\n", mountLine{9, 8, "net:[4026531992]", "/run/netns/n", "nsfs"}},
		{"9 8 0:41 / /a rw - tmpfs  rw\n", mountLine{9, 8, "/", "/a", "tmpfs"}}, // from nothing
		{"9 8 0:41 / /a rw shared:1 tmpfs none rw\n", mountLine{}},
		{"9 8 0:41 / /a rw -\n", mountLine{}},
		{"9 8 0:41 / /a rw - \n", mountLine{}},
		{"9 8 0:41 / /a\n", mountLine{}},
		{"x 8 0:41 / /a rw - tmpfs none rw\n", mountLine{}},
		{"9 y 0:41 / /a rw - tmpfs none rw\n", mountLine{}},
		{"\n", mountLine{}},
	} {
		m, ok := parseMountLine(c.line)
		if ok != (c.want.typ != "") || ok && m != c.want {
			t.Errorf("%q: %+v, %v", c.line, m, ok)
		}
	}
}

// TestCalmMounts: in each list mount 20 is asked about.
func TestCalmMounts(t *testing.T) {
	const own = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
	const bind = "20 10 8:1 / /own/own rw - ext4 /dev/sda1 rw\n"
	for _, c := range []struct {
		name, list string
		want       bool
	}{
		{"alone", own, true},
		{"not listed", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n", false},
		{"nothing", "", false},
		{"its own parent", "20 20 8:1 / / rw - ext4 /dev/sda1 rw\n", true},
		{"of a part", "20 1 8:1 /part / rw - ext4 /dev/sda1 rw\n", false},
		{"the kernel's below", own + "21 20 0:21 / /proc rw - proc proc rw\n22 20 0:22 / /sys rw - sysfs sysfs rw\n" +
			"23 20 0:6 / /dev rw - devtmpfs devtmpfs rw\n24 20 0:9 net:[1] /n rw - nsfs nsfs rw\n", true},
		{"disks and memory below", own + "21 20 8:2 / /home rw - xfs /dev/sda2 rw\n22 20 0:30 /a /b rw - tmpfs none rw\n", true},
		{"a server below", own + "21 20 0:50 / /net/far rw - nfs4 far:/ rw\n", false},
		{"before it in the list", "21 20 0:50 / /far rw - nfs4 far:/ rw\n" + own, false},
		{"a process below", own + "21 20 0:50 / /far rw - fuse.sshfs far: rw\n", false},
		{"an automatic mount", own + "21 20 0:50 / /auto rw - autofs systemd-1 rw\n", false},
		{"layers", own + "21 20 0:50 / /merged rw - overlay overlay rw\n", false},
		{"in another mount below", own + "21 20 0:21 / /proc rw - proc proc rw\n22 21 0:50 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n", true},
		{"over another", own + "21 20 0:30 / /a rw - tmpfs none rw\n22 21 0:50 / /a rw - nfs4 far:/ rw\n", false},
		{"over two others", own + "22 21 0:50 / /a rw - tmpfs none rw\n23 22 0:50 / /a rw - nfs4 far:/ rw\n21 20 0:30 / /a rw - tmpfs none rw\n", false},
		{"beside another with a longer name", own + "21 20 0:30 / /a rw - tmpfs none rw\n22 21 0:50 / /ab rw - nfs4 far:/ rw\n", false}, // renamed meanwhile
		{"over it", "10 1 8:1 / / rw - xfs /dev/sdb1 rw\n" + bind + "30 20 0:50 / /own/own rw - nfs4 far:/ rw\n", false},
		{"above it", "10 1 0:9 / / rw - nfs4 far:/ rw\n" + bind, true},
		{"far above it", "10 10 0:9 / / rw - nfs4 far:/ rw\n" + bind, true},
		{"not to be understood", own + "21 20 8:2 / /home rw xfs /dev/sda2 rw\n", false},
	} {
		if got := calmMounts(c.list)[20]; got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
