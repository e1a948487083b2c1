package passthrough

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// BenchmarkCreate is one mkdir(2) and rmdir(2) for a process of the guest, done
// bare, under the caller's identity, and as this process with a chown(2) after
// it. The last is no way to do it (see identity), but tells what the first costs.
func BenchmarkCreate(b *testing.B) {
	if unix.Geteuid() != 0 {
		b.Skip("SKIPPED: not root: nothing is created for others")
	}
	dir, err := os.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Chmod(0o777); err != nil {
		b.Fatal(err)
	}
	d, name, ids := int(dir.Fd()), &[]byte("new\x00")[0], currentIdentity()
	mkdir := func() {
		if e := mkdirat(d, name, 0o755); e != 0 {
			b.Fatal(e)
		}
	}
	for _, way := range []struct {
		name string
		make func(c *virtiofs.Caller)
	}{
		{"bare", func(*virtiofs.Caller) { mkdir() }},
		{"become", func(c *virtiofs.Caller) {
			g, e := ids.become(c.UID, c.GID, c.Groups)
			if e != 0 {
				b.Fatal(e)
			}
			mkdir()
			ids.leave(g)
		}},
		{"chown", func(c *virtiofs.Caller) {
			mkdir()
			if e := fchownat(d, name, c.UID, c.GID, unix.AT_SYMLINK_NOFOLLOW); e != 0 {
				b.Fatal(e)
			}
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			c := virtiofs.Caller{UID: 1000, GID: 1000}
			for b.Loop() {
				way.make(&c)
				if e := unlinkat(d, name, unix.AT_REMOVEDIR); e != 0 {
					b.Fatal(e)
				}
			}
		})
	}
	b.Run("switch only", func(b *testing.B) {
		c := virtiofs.Caller{UID: 1000, GID: 1000}
		for b.Loop() {
			g, _ := ids.become(c.UID, c.GID, c.Groups)
			ids.leave(g)
		}
	})
	b.Run("one system call", func(b *testing.B) {
		for b.Loop() {
			setfsid(unix.SYS_SETFSUID, ^uint32(0))
		}
	})
}
