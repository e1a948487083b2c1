package linuxtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestShareMountedByGuest(t *testing.T) {
	dir := t.TempDir()
	shell(t, `mkdir -p /tmp/m && mount -t virtiofs data /tmp/m && umask 027 && echo bytes > /tmp/m/file && chown 1234:567 /tmp/m/file && chmod 2750 /tmp/m/file && umount /tmp/m`,
		"--share", "data="+dir+",rw").want(t, 0)
	b, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil || string(b) != "bytes\n" {
		t.Fatalf("the file holds %q: %v", b, err)
	}
	fi, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Mode&0o7777 != 0o2750 || st.Uid != 1234 || st.Gid != 567 {
		t.Errorf("mode %o, owner %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
	}
}

// TestCreatorOwnsFile creates files as another user inside the guest.
func TestCreatorOwnsFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	shell(t, `setpriv --reuid 4321 --regid 8765 --clear-groups sh -c 'umask 022; echo x > /mnt/f; mkdir /mnt/d; ln -s x /mnt/l'`,
		"-v", dir+":/mnt,rw").want(t, 0)
	for name, mode := range map[string]fs.FileMode{"f": 0o644, "d": 0o755 | fs.ModeDir, "l": 0o777 | fs.ModeSymlink} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 4321 || st.Gid != 8765 || fi.Mode() != mode {
			t.Errorf("%s: owner %d:%d, mode %v", name, st.Uid, st.Gid, fi.Mode())
		}
	}
}

// TestReadOnlyShare tries to write with everything the guest's root can do.
func TestReadOnlyShare(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kept"), []byte("kept"), 0o666); err != nil {
		t.Fatal(err)
	}
	r := shell(t, `mkdir -p /tmp/m && mount -t virtiofs -o rw data /tmp/m && cd /tmp/m || exit 9
for try in 'echo x > new' 'echo x >> kept' 'rm -f kept' 'mkdir d' 'ln -s a b' 'ln kept c' 'mv kept d' 'chmod 0 kept' 'chown 1 kept' 'touch -d 2001-01-01 kept' 'truncate -s 0 kept' 'mknod p p'; do
	sh -c "$try" 2>&1 && echo "ALLOWED: $try"
done; cat kept`, "--share", "data="+dir+",ro").want(t, 0)
	if strings.Contains(r.stdout, "ALLOWED") || !strings.HasSuffix(r.stdout, "kept") {
		t.Error(r.stdout)
	}
	contains(t, "the guest", r.stdout, "Read-only file system")
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Errorf("the share holds %v: %v", list, err)
	}
}

// writeMapped writes into a shared mapping of the file.
func writeMapped(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := syscall.Mmap(int(f.Fd()), 0, 8192, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m[5000:], "hello")
	return syscall.Munmap(m)
}

// workload is done in one guest, on a share; every step says ok or not ok.
var workload = []struct{ name, script string }{
	{"tar of many files and diff", `tar -C /src -cf - . | tar -xf - -C /mnt/copy && diff -r /src /mnt/copy`},
	{"10 parallel writers", `cd /mnt/writers && for i in 0 1 2 3 4 5 6 7 8 9; do (for j in $(seq 50); do echo "$i $j" >> log.$i; echo "$i $j" >> all; done) & done; wait
for i in 0 1 2 3 4 5 6 7 8 9; do [ $(wc -l < log.$i) = 50 ] || exit 1; done; [ $(wc -l < all) = 500 ]`},
	{"git init, add, commit", `cp -r /mnt/copy/d00 /mnt/copy/d01 /mnt/git && cd /mnt/git && export HOME=/mnt && git config --global user.name t && git config --global user.email t@t && git init -q . && git add . && git commit -q -m all && git fsck --strict && [ -z "$(git status --porcelain)" ]`},
	{"apt-cache policy", `apt-cache policy bash | grep -q Installed`},
	{"rename, link, unlink", `cd /mnt && mkdir r && echo a > r/a && ln r/a r/b && [ $(stat -c %h r/a) = 2 ] && mv r/a r/c && rm r/b && [ "$(cat r/c)" = a ] && mv r r2 && rm -r r2 && [ ! -e r2 ]`},
	{"extended attributes", `cd /mnt && echo x > x && setfattr -n user.k -v v x && [ "$(getfattr --only-values -n user.k x)" = v ] && setfattr -x user.k x && ! getfattr -n user.k x 2>/dev/null`},
	{"holes and truncation", `cd /mnt && truncate -s 10M h && fallocate -p -o 0 -l 4096 h && echo end >> h && [ $(stat -c %s h) = 10485764 ] && tail -c 4 h | grep -q end && truncate -s 3 h && [ $(stat -c %s h) = 3 ]`},
	{"shared mapping", `cd /mnt && truncate -s 8192 m && TENON_GUEST=mmap "$SELF" m && [ "$(tail -c +5001 m | head -c 5)" = hello ]`},
	{"unlinked but open", `cd /mnt && exec 3<>u && echo kept >&3 && rm u && echo more >&3 && [ ! -e u ]`},
}

func TestWorkload(t *testing.T) {
	src, dir := t.TempDir(), t.TempDir()
	for i := range knob(t, "TENON_TEST_TAR_FILES", 300) {
		sub := filepath.Join(src, fmt.Sprintf("d%02d", i%40))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		body := strings.Repeat(fmt.Sprintf("file %d\n", i), i%97)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%04d", i)), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, sub := range []string{"copy", "writers", "git"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	fmt.Fprintf(&script, "SELF='%s'\n", self)
	for i, w := range workload {
		fmt.Fprintf(&script, "( %s\n) && echo ok %d || echo not ok %d\n", w.script, i, i)
	}
	r := shell(t, script.String(), "-c", "1", "-v", src+":/src,ro", "-v", dir+":/mnt,rw").want(t, 0)
	for i, w := range workload {
		t.Run(w.name, func(t *testing.T) {
			if !strings.Contains("\n"+r.stdout, fmt.Sprintf("\nok %d\n", i)) {
				t.Errorf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
			}
		})
	}
	if out, err := exec.Command("diff", "-r", src, filepath.Join(dir, "copy")).CombinedOutput(); err != nil {
		t.Errorf("on the host the copy differs: %v\n%s", err, out)
	}
}

// TestFindCountsAsHost walks /usr through the root. A lab cannot know as many of
// its host's files at a time; there the walk is through a tree of the lab's own.
func TestFindCountsAsHost(t *testing.T) {
	tree, flags := "/usr", []string{"-c", "2"}
	if os.Getenv("LAB_EMULATED") != "" {
		tree = manyFiles(t, 100, 200)
		flags = append(flags, "-v", tree+":"+tree+",ro")
	}
	find := fmt.Sprintf("find %s -xdev | wc -l", tree)
	host, err := exec.Command("sh", "-c", find).Output()
	if err != nil {
		t.Fatal(err)
	}
	r := shell(t, find, flags...).want(t, 0)
	if r.stdout != string(host) {
		t.Errorf("the guest found %s files, the host %s\n%s", strings.TrimSpace(r.stdout), host, r.stderr)
	}
	t.Logf("%s files in %s", strings.TrimSpace(r.stdout), tree)
}

// manyFiles makes a directory of directories with empty files in each.
func manyFiles(t *testing.T, directories, files int) string {
	t.Helper()
	tree := t.TempDir()
	for i := range directories {
		dir := filepath.Join(tree, fmt.Sprintf("directory-%03d", i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%03d", j)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return tree
}
