package linuxtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPrograms runs programs that lean on a file system, in one guest on a share.
func TestPrograms(t *testing.T) {
	withGuests(t, func(c *crew) {
		src, dir := scratch(t), scratch(t)
		g := c.start("-c", "2", "-v", src+":/src,ro,posix-acl", "-v", dir+":/s,posix-acl")
		c.step("git clone", func(t *testing.T) { gitClone(t, g, src, dir) })
		c.step("make -j4", func(t *testing.T) { makeProject(t, g, dir) })
		c.step("dpkg -x", func(t *testing.T) { unpackPackage(t, g, src, dir) })
		c.step("rsync -aHAX twice", func(t *testing.T) { rsyncTwice(t, g, src, dir) })
	})
}

// hostRun runs a command on the host.
func hostRun(t *testing.T, stdin []byte, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// gitClone clones a repository of many files in the guest; there and on the host the
// clone is whole and clean.
func gitClone(t *testing.T, g *guest, src, dir string) {
	needPrograms(t, "git")
	n := knob(t, "TENON_TEST_GIT_FILES", 100)
	repository := filepath.Join(src, "repository")
	hostRun(t, nil, "git", "init", "-q", "--bare", "-b", "main", repository)
	var stream bytes.Buffer
	fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter t <t@t> 1700000000 +0000\ndata 4\nall\n\n")
	for i := range n {
		body := fmt.Sprintf("file %d\n", i)
		fmt.Fprintf(&stream, "M 100644 inline d%02d/e%d/file-%05d\ndata %d\n%s\n", i%40, i%7, i, len(body), body)
	}
	hostRun(t, stream.Bytes(), "git", "-C", repository, "fast-import", "--quiet")
	from := time.Now()
	must(t, g, "sh", "git -c safe.directory='*' clone -q /src/repository /s/clone")
	t.Logf("git clone of %d files: %v", n, time.Since(from).Round(time.Millisecond))
	if out := must(t, g, "sh", "git -C /s/clone -c safe.directory='*' status --porcelain"); out != "" {
		t.Errorf("git status in the guest: %s", out)
	}
	if out := must(t, g, "sh", "git -C /s/clone ls-files | wc -l"); strings.TrimSpace(out) != fmt.Sprint(n) {
		t.Errorf("%s files, want %d", out, n)
	}
	clone := filepath.Join(dir, "clone")
	// The host's stat data are not the guest's: device and inode numbers differ.
	hostRun(t, nil, "git", "-C", clone, "-c", "safe.directory=*", "diff", "--exit-code", "HEAD")
	hostRun(t, nil, "git", "-C", clone, "-c", "safe.directory=*", "fsck", "--strict")
}

// makeProject builds a program of many C files, twice: the second time there is
// nothing to do.
func makeProject(t *testing.T, g *guest, dir string) {
	needPrograms(t, "make", "gcc")
	n := knob(t, "TENON_TEST_C_FILES", 5)
	project := filepath.Join(dir, "project")
	must(t, host{}, "mkdir", project)
	var calls, header, objects strings.Builder
	for i := range n {
		fmt.Fprintf(&header, "int f%d(void);\n", i)
		fmt.Fprintf(&calls, "+f%d()", i)
		fmt.Fprintf(&objects, " f%d.o", i)
		must(t, host{}, "write", fmt.Sprintf("%s/f%d.c", project, i), fmt.Sprintf("#include \"all.h\"\nint f%d(void) { return %d; }\n", i, i))
	}
	must(t, host{}, "write", project+"/all.h", header.String())
	must(t, host{}, "write", project+"/main.c", "#include \"all.h\"\n#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 0"+calls.String()+"); return 0; }\n")
	must(t, host{}, "write", project+"/Makefile", "program: main.o"+objects.String()+"\n\t$(CC) -o $@ $^\n%.o: %.c all.h\n\t$(CC) -O0 -c -o $@ $<\n")
	from := time.Now()
	must(t, g, "sh", "make -s -j4 -C /s/project CC=gcc")
	t.Logf("make -j4 of %d files: %v", n+1, time.Since(from).Round(time.Millisecond))
	for _, p := range []struct {
		party
		dir string
	}{{g, "/s/project"}, {host{}, project}} {
		if out := must(t, p, "sh", p.dir+"/program"); out != fmt.Sprintln(n*(n-1)/2) {
			t.Errorf("the program says %q", out)
		}
		if out := must(t, p, "sh", "make -C "+p.dir+" CC=gcc"); !strings.Contains(out, "is up to date") {
			t.Errorf("make builds once more: %s", out)
		}
	}
}

// unpackPackage unpacks a Debian package in the guest as the host does.
func unpackPackage(t *testing.T, g *guest, src, dir string) {
	needRoot(t)
	needPrograms(t, "dpkg-deb")
	root := t.TempDir()
	fill := `set -e; cd "$0"; mkdir -p DEBIAN usr/bin usr/share/doc/p/many
printf 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: p\n' > DEBIAN/control
for i in $(seq 60); do echo "$i" > "usr/share/doc/p/many/a file with a long name for the archive $i"; done
echo '#!/bin/sh' > usr/bin/p; chmod 4755 usr/bin/p; ln -s p usr/bin/q; ln usr/bin/p usr/bin/r; mkdir -m 2775 usr/share/p; chown 7:8 usr/share/p
touch -d 2001-02-03 usr/bin/p; chown 1234:567 usr/share/doc/p`
	hostRun(t, nil, "sh", "-c", fill, root)
	hostRun(t, nil, "dpkg-deb", "-b", root, filepath.Join(src, "p.deb"))
	hostRun(t, nil, "dpkg", "-x", filepath.Join(src, "p.deb"), filepath.Join(dir, "unpacked-here"))
	must(t, g, "sh", "dpkg -x /src/p.deb /s/unpacked-there")
	ls := func(where string) string {
		return must(t, host{}, "sh", "cd "+filepath.Join(dir, where)+` && find . -printf '%P %y %m %U:%G %s %n %l %T@\n' | sed -E '/^[^ ]* ?d /s/ [0-9.]+$//' | sort && find . -type f | sort | xargs -d '\n' sha256sum`)
	}
	same(t, "unpacked on the host", ls("unpacked-here"), "in the guest", ls("unpacked-there"))
}

var rsyncFiles = regexp.MustCompile(`Number of regular files transferred: (\d+)`)

// rsyncTwice copies a tree with hard links, ACLs and attributes onto the share. The
// second run finds nothing to do, nor does the host's own rsync.
func rsyncTwice(t *testing.T, g *guest, src, dir string) {
	needRoot(t)
	needPrograms(t, "rsync", "setfacl", "setfattr")
	tree := filepath.Join(src, "tree")
	must(t, host{}, "mkdir", tree)
	fill := `set -e; cd "$0"; for i in $(seq 48); do mkdir -p d$((i%12)); seq $i > d$((i%12))/f$i; done
ln d1/f1 hard; ln d1/f1 hard2; ln -s d1/f1 soft; ln -s nowhere dangling; mkfifo pipe; truncate -s 1M sparse
chown 1234:567 d2; chown -h 1234:567 soft; chmod 4711 d1/f1; chmod 1777 d3; touch -d '2001-02-03 04:05:06.789' d1/f1 d4
setfattr -n user.k -v v d5/f5; setfattr -n trusted.k -v v d5/f5`
	hostRun(t, nil, "sh", "-c", fill, tree)
	if out, err := exec.Command("sh", "-c", `cd "$0" && setfacl -m u:1234:rwx,g:567:r d6 d6/f6 && setfacl -d -m u:1234:rx d6`, tree).CombinedOutput(); err != nil {
		t.Skipf("the host's file system has no ACLs: %s", out)
	}
	const rsync = "rsync -aHAX --stats -i /src/tree/ /s/copy/"
	first := must(t, g, "sh", rsync)
	if m := rsyncFiles.FindStringSubmatch(first); m == nil || m[1] == "0" {
		t.Errorf("the first run transferred nothing: %s", first)
	}
	second := must(t, g, "sh", rsync)
	if m := rsyncFiles.FindStringSubmatch(second); m == nil || m[1] != "0" || !strings.HasPrefix(second, "\nNumber of files") {
		t.Errorf("the second run found something to do:\n%s", second)
	}
	if out := hostRun(t, nil, "rsync", "-aHAXcni", "--delete", tree+"/", filepath.Join(dir, "copy")+"/"); out != "" {
		t.Errorf("on the host the copy differs:\n%s", out)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "copy/hard"), &st); err != nil || st.Nlink != 3 {
		t.Errorf("%d links (%v), want 3", st.Nlink, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "copy/dangling")); err != nil {
		t.Error(err)
	}
}
