package fstest

import (
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// ReadOnlyCases returns the cases for a target that is read-only, and shows a
// directory that PrepareReadOnly has filled.
func ReadOnlyCases() []Case { return slices.Clone(readOnlyCases) }

// PrepareReadOnly makes what ReadOnlyCases look at in an empty directory.
func PrepareReadOnly(dir string) error {
	for _, c := range readOnlyCases {
		if err := prepareReadOnly(filepath.Join(dir, c.Name)); err != nil {
			return err
		}
	}
	return nil
}

func prepareReadOnly(dir string) error {
	for _, d := range []string{"", "d"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{"f": "contents", "d/g": "more"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := unix.Setxattr(filepath.Join(dir, "f"), "user.x", []byte("value"), 0); err != nil {
		return err
	}
	return os.Symlink("f", filepath.Join(dir, "l"))
}

var readOnlyCases = []Case{
	{Name: "read-only", Prepared: true, Run: lookAndTouch},
	{Name: "read-only-access", Prepared: true, Kernel: true, Run: func(s *Script) {
		for _, p := range []string{"f", "d", "l", "missing"} {
			s.Access(p, unix.W_OK)
			s.Access(p, unix.R_OK)
		}
	}},
}

// lookAndTouch looks at a read-only directory and tries all that would change it.
func lookAndTouch(s *Script) {
	s.List(".")
	s.Content("f")
	s.Content("l")
	s.Content("d/g")
	s.Stat("f")
	s.Getxattr("f", "user.x", 10)
	f := s.Open("f", rdonly, 0)
	f.Pread(4, 2)
	f.Pwrite("x", 0)
	f.Truncate(0)
	f.Chmod(0o600)
	f.Chown(1, 1)
	f.Utimens(at(1, 1), at(1, 1))
	f.Fallocate(0, 0, 100)
	f.Find(0, unix.SEEK_HOLE)
	f.Sync(false)
	f.Link("new")
	for _, flags := range []int{wronly, rdwr, rdonly | creat, wronly | creat, rdwr | creat | excl, wronly | trunc, wronly | app} {
		s.Open("f", flags, 0o644)
	}
	s.Open("new", rdwr|creat, 0o644)
	s.Open("d", rdwr|unix.O_TMPFILE, 0o600)
	s.Mkdir("new", 0o755)
	s.Mkdir("d", 0o755)
	s.Mknod("new", unix.S_IFIFO|0o600, 0, 0)
	s.Symlink("f", "new")
	s.Link("f", "new")
	s.Rename("f", "new", 0)
	s.Rename("f", "d/g", 0)
	s.Rename("f", "d/g", exchange)
	s.Unlink("f")
	s.Unlink("missing")
	s.Rmdir("d")
	s.Chmod("f", 0o600)
	s.Chmod("f", 0o644)
	s.Chown("f", 1, 1)
	s.Utimens("f", at(1, 1), at(1, 1))
	s.Utimens("f", at(0, unix.UTIME_NOW), at(0, unix.UTIME_NOW))
	s.Truncate("f", 0)
	s.Setxattr("f", "user.x", "y", 0)
	s.Removexattr("f", "user.x")
	s.Removexattr("f", "user.missing")
	s.List(".")
	s.Content("f")
	s.Stat("f")
}
