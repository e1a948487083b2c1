package passthrough

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// TestWithoutIdentity: on a file system that has neither file handles nor times
// of birth nothing is closed, so that no node can become another inode's.
func TestWithoutIdentity(t *testing.T) {
	const limit = 10
	f := shareWith(t, 2*limit, limit, Options{Handles: HandlesNever})
	f.inodes.root().key.mount.births = false
	var e virtiofs.Entry
	known := 0
	for i := range 2 * limit {
		err := f.Lookup(fuse.RootID, name(t, fmt.Sprint("f", i)), &e)
		if err == unix.ENFILE {
			continue
		}
		if err != 0 {
			t.Fatal(err)
		}
		known++
	}
	f.doze()
	if s := f.Stats(); known != limit-1 || s.Descriptors != int64(known) {
		t.Errorf("%d inodes became known, %+v, want %d", known, s, limit-1)
	}
}

// TestDoubt: where there are handles and no times of birth, an inode number that
// nothing holds is only believed together with the handle.
func TestDoubt(t *testing.T) {
	withHandles(t, func(t *testing.T, o Options) {
		dir := t.TempDir()
		f := shareDir(t, dir, 100, o)
		f.inodes.root().key.mount.births = false
		for try := range 20 {
			old, next := fmt.Sprint("old", try), fmt.Sprint("new", try)
			check(t, os.WriteFile(filepath.Join(dir, old), nil, 0o644))
			id, ino := lookup(t, f, fuse.RootID, old)
			if again, _ := lookup(t, f, fuse.RootID, old); again != id {
				t.Fatal("two nodes for one inode")
			}
			check(t, os.Remove(filepath.Join(dir, old)))
			check(t, os.WriteFile(filepath.Join(dir, next), nil, 0o644))
			other, number := lookup(t, f, fuse.RootID, next)
			if number != ino {
				continue
			}
			if other == id {
				t.Error("one node for two inodes")
			}
			if again, _ := lookup(t, f, fuse.RootID, next); again != other {
				t.Error("two nodes for one inode")
			}
			if _, e := getattr(f, id); e != unix.ESTALE {
				t.Errorf("GETATTR of the old one: %v", e)
			}
			f.Forget(id, 2)
			if _, e := getattr(f, other); e != 0 {
				t.Errorf("GETATTR of the new one after FORGET of the old: %v", e)
			}
			return
		}
		t.Skip("SKIPPED: the file system did not use an inode number twice")
	})
}

// TestHandleOfAnother: the handle is asked for by name after the attributes; if
// the name has changed hands in between, the node is still the inode whose
// attributes the guest was told.
func TestHandleOfAnother(t *testing.T) {
	withHandles(t, func(t *testing.T, o Options) {
		f := shareWith(t, 2, 100, o)
		id, ino := lookup(t, f, fuse.RootID, "f0")
		other, _ := lookup(t, f, fuse.RootID, "f1")
		n, _ := f.inodes.pin(id)
		m, _ := f.inodes.pin(other)
		n.addr, m.addr = m.addr.renamed(n.addr.name()), n.addr
		f.unpin(n)
		f.unpin(m)
		if a, e := getattr(f, id); e != 0 || a.Ino != ino {
			t.Errorf("inode %d, want %d, %v", a.Ino, ino, e)
		}
		// The other's name leads to the first, which is known: it stays what it was told to be.
		if a, e := getattr(f, other); e != unix.ESTALE {
			t.Errorf("inode %d, %v", a.Ino, e)
		}
	})
}

// TestGivenUp: a process that loses the right to open handles goes on by names.
func TestGivenUp(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		f := shareWith(t, 2, 100, o)
		id, ino := lookup(t, f, fuse.RootID, "f0")
		f.doze()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var caps [2]unix.CapUserData
			if err := unix.Capset(&hdr, &caps[0]); err != nil {
				t.Error(err)
			}
			if a, e := getattr(f, id); e != 0 || a.Ino != ino {
				t.Errorf("inode %d, want %d, %v", a.Ino, ino, e)
			}
			if e := f.Rename(fuse.RootID, name(t, "f0"), fuse.RootID, name(t, "g"), 0); e != 0 {
				t.Error(e)
			}
			f.doze()
			if a, e := getattr(f, id); e != 0 || a.Ino != ino {
				t.Errorf("after a rename: inode %d, want %d, %v", a.Ino, ino, e)
			}
		}()
		<-done
	})
}

// TestGetattrOfOpenFile: a file that is gone by name, and whose node cannot be
// opened any more, has attributes as long as it is open.
func TestGetattrOfOpenFile(t *testing.T) {
	f := shareWith(t, 1, 100, Options{Handles: HandlesNever})
	id, ino := lookup(t, f, fuse.RootID, "f0")
	h, _, e := f.Open(id, virtiofs.OpenFlags{})
	if e != 0 {
		t.Fatal(e)
	}
	f.doze()
	if e := unlinkat(f.inodes.root().fd(), name(t, "f0").Pointer(), 0); e != 0 {
		t.Fatal(e)
	}
	var a fuse.Attr
	if e := f.Getattr(virtiofs.File{Node: id, Handle: h}, &a); e != 0 || a.Ino != ino || a.Nlink != 0 {
		t.Errorf("inode %d with %d links, want %d with none, %v", a.Ino, a.Nlink, ino, e)
	}
	for _, file := range []virtiofs.File{{Node: id}, {Node: id, Handle: h + 1}, {Node: id + 1, Handle: h}} {
		if e := f.Getattr(file, &a); e != unix.ESTALE {
			t.Errorf("GETATTR %+v: %v", file, e)
		}
	}
}

// TestSelfAndParent: "." and ".." by node count lookups, and never lead out of
// the share.
func TestSelfAndParent(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		outer := t.TempDir()
		check(t, os.MkdirAll(outer+"/share/a/b", 0o755))
		check(t, os.WriteFile(outer+"/share/f", nil, 0o644))
		f := shareDir(t, outer+"/share", 100, o)
		a, aIno := lookup(t, f, fuse.RootID, "a")
		b, _ := lookup(t, f, a, "b")
		file, _ := lookup(t, f, fuse.RootID, "f")
		f.doze()
		var e virtiofs.Entry
		if err := f.Self(a, &e); err != 0 || e.Node != a || e.Attr.Ino != aIno {
			t.Errorf("Self: node %d, want %d, %v", e.Node, a, err)
		}
		f.Forget(a, 1)
		if err := f.Parent(b, &e); err != 0 || e.Node != a || e.Attr.Ino != aIno {
			t.Errorf("Parent: node %d, want %d, %v", e.Node, a, err)
		}
		f.Forget(a, 1)
		if err := f.Parent(a, &e); err != 0 || e.Node != fuse.RootID {
			t.Errorf("Parent of a directory in the root: node %d, %v", e.Node, err)
		}
		if err := f.Parent(fuse.RootID, &e); err != 0 || e.Node != fuse.RootID {
			t.Errorf("Parent of the root: node %d, %v", e.Node, err)
		}
		f.Forget(a, 1) // the last: LOOKUP, Self and Parent
		if _, err := getattr(f, a); err != unix.ESTALE {
			t.Errorf("a forgotten node: %v", err)
		}
		for what, err := range map[string]unix.Errno{"unknown parent": f.Parent(b, &e), "of a file": f.Parent(file, &e), "of nothing": f.Parent(a, &e)} {
			if err != unix.ESTALE {
				t.Errorf("Parent, %s: node %d, %v", what, e.Node, err)
			}
		}
		f.doze()
		if _, err := getattr(f, b); o.Handles == HandlesNever {
			// Its parent is not known any more; the name is looked up again.
			if err != unix.ESTALE {
				t.Fatal(err)
			}
			return
		} else if err != 0 {
			t.Fatal(err)
		}
		check(t, os.Rename(outer+"/share/a/b", outer+"/b"))
		if err := f.Parent(b, &e); err != unix.ESTALE {
			t.Errorf("Parent of a directory that was moved out of the share: node %d, %v", e.Node, err)
		}
	})
}

// TestRootRemoved: a share whose directory is gone answers errors.
func TestRootRemoved(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		dir := filepath.Join(t.TempDir(), "share")
		check(t, os.Mkdir(dir, 0o755))
		check(t, os.WriteFile(dir+"/f", nil, 0o644))
		f := shareDir(t, dir, 100, o)
		id, _ := lookup(t, f, fuse.RootID, "f")
		f.doze()
		check(t, os.RemoveAll(dir))
		var e virtiofs.Entry
		if err := f.Lookup(fuse.RootID, name(t, "f"), &e); err != unix.ENOENT {
			t.Errorf("LOOKUP: %v", err)
		}
		if err := f.Mkdir(&virtiofs.Caller{}, fuse.RootID, name(t, "d"), 0o755, &e); err != unix.ENOENT {
			t.Errorf("MKDIR: %v", err)
		}
		if _, err := getattr(f, id); err != unix.ESTALE {
			t.Errorf("GETATTR: %v", err)
		}
		if a, err := getattr(f, fuse.RootID); err != 0 || a.Nlink != 0 {
			t.Errorf("GETATTR of the root: %d links, %v", a.Nlink, err)
		}
	})
}

// TestSubmount: a file system below the share is entered and left; when the guest
// has forgotten it, the host can unmount it.
func TestSubmount(t *testing.T) {
	for _, typ := range []string{"tmpfs", "ramfs"} { // with file handles, and without
		t.Run(typ, func(t *testing.T) {
			eachMode(t, func(t *testing.T, o Options) {
				dir := t.TempDir()
				check(t, os.Mkdir(dir+"/m", 0o755))
				if err := unix.Mount("none", dir+"/m", typ, 0, ""); err != nil {
					t.Skipf("SKIPPED: mounting needs CAP_SYS_ADMIN: %v", err)
				}
				mounted := true
				defer func() {
					if mounted {
						_ = unix.Unmount(dir+"/m", unix.MNT_DETACH)
					}
				}()
				check(t, os.WriteFile(dir+"/m/f", nil, 0o644))
				f := shareDir(t, dir, 100, o)
				before := descriptors(t)
				m, _ := lookup(t, f, fuse.RootID, "m")
				file, ino := lookup(t, f, m, "f")
				for range 2 {
					f.doze()
					if a, e := getattr(f, file); e != 0 || a.Ino != ino {
						t.Errorf("inode %d, want %d, %v", a.Ino, ino, e)
					}
				}
				f.Forget(m, 1)
				f.Forget(file, 1)
				if now := descriptors(t); now != before {
					t.Errorf("%d descriptors more", now-before)
				}
				if err := unix.Unmount(dir+"/m", 0); err != nil {
					t.Errorf("the host cannot unmount it: %v", err)
				} else {
					mounted = false
				}
				if again, _ := lookup(t, f, fuse.RootID, "m"); again == m {
					t.Error("the directory under the mount is the same node")
				}
			})
		})
	}
}

// TestReadOnlyMount: what the host has mounted for reading only below the share is not
// changed there, by whatever the file is opened, though it can be elsewhere.
func TestReadOnlyMount(t *testing.T) {
	eachMode(t, func(t *testing.T, o Options) {
		dir := t.TempDir()
		check(t, os.Mkdir(dir+"/own", 0o755))
		check(t, os.Mkdir(dir+"/shown", 0o755))
		check(t, os.WriteFile(dir+"/own/f", []byte("data"), 0o644))
		if err := unix.Mount(dir+"/own", dir+"/shown", "", unix.MS_BIND, ""); err != nil {
			t.Skipf("SKIPPED: mounting needs CAP_SYS_ADMIN: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir+"/shown", unix.MNT_DETACH) })
		check(t, unix.Mount("", dir+"/shown", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		f := shareDir(t, dir, 100, o)
		for range 2 { // before the other mount is known, and after
			for _, x := range []struct {
				dir  string
				want unix.Errno
			}{{"shown", unix.EROFS}, {"own", 0}} {
				d, _ := lookup(t, f, fuse.RootID, x.dir)
				id, _ := lookup(t, f, d, "f")
				f.doze()
				for _, flags := range []uint32{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC} {
					h, _, e := f.Open(id, virtiofs.OpenFlags{Flags: flags})
					if e == 0 {
						e = f.Release(virtiofs.File{Node: id, Handle: h})
					}
					if e != x.want {
						t.Errorf("OPEN %s/f, flags %#x: %v", x.dir, flags, e)
					}
				}
				for _, valid := range []uint32{fuse.FattrMode, fuse.FattrSize, fuse.FattrMtime} {
					var a fuse.Attr
					if e := f.Setattr(id, &fuse.SetattrIn{Valid: valid, Mode: 0o644}, &a); e != x.want {
						t.Errorf("SETATTR %s/f, valid %#x: %v", x.dir, valid, e)
					}
				}
			}
		}
	})
}

// unprivileged are the tests that an ordinary user runs too.
const unprivileged = "^(TestBudget|TestHostChanges|TestGuestChanges|TestInodeNumberReuse|TestStorm|TestStormReset|TestSelfAndParent|TestUnprivileged)$"

// TestUnprivileged runs tests again as a user without any capability.
func TestUnprivileged(t *testing.T) {
	if unix.Geteuid() != 0 {
		unprivilegedModes(t)
		return
	}
	// By descriptor: others may not go where this binary is, and a copy might lie on a
	// file system from which nothing can be run.
	exe, err := os.Open("/proc/self/exe")
	check(t, err)
	defer exe.Close()
	dir := t.TempDir()
	check(t, os.Chmod(filepath.Dir(dir), 0o755))
	tmp := filepath.Join(dir, "tmp")
	check(t, os.Mkdir(tmp, 0o755))
	check(t, os.Chown(tmp, 65534, 65534))
	cmd := exec.Command("/proc/self/fd/3", "-test.run="+unprivileged, "-test.v")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Dir = tmp
	cmd.Env = []string{"TMPDIR=" + tmp}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestHostChanges/nothing/walking") {
		t.Errorf("%v\n%s", err, out)
	}
}

// unprivilegedModes: without the right to open handles, auto goes by names and
// always refuses with the reason.
func unprivilegedModes(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(dir+"/f", nil, 0o644))
	f := shareDir(t, dir, 100, Options{})
	lookup(t, f, fuse.RootID, "f")
	if s := f.Stats(); s.Descriptors != 1 {
		t.Errorf("%+v, want one descriptor", s)
	}
	_, err := New(dir, Options{Handles: HandlesAlways})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "inode-handles=always") || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
}

// TestBirthsAreAnswered: what a file system says it is does not make it keep births.
func TestBirthsAreAnswered(t *testing.T) {
	f := share(t, 0, 64)
	var empty byte
	var st unix.Statx_t
	fd := f.inodes.root().fd()
	if e := statx(fd, &empty, unix.AT_EMPTY_PATH, statxMask, &st); e != 0 {
		t.Fatal(e)
	}
	births := func() bool {
		m := f.survey(fd, &st)
		f.closeMount(m)
		return m.births
	}
	if !births() {
		t.Skip("SKIPPED: the temporary directory's file system keeps no births")
	}
	st.Mask &^= unix.STATX_BTIME // as 9p answers, with its server's type
	if births() {
		t.Error("a file system that does not answer when an inode was made keeps births")
	}
}
