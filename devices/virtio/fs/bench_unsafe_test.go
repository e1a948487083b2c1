package fs

import (
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bare is the system call that each request of a batch stands for.
type bare struct {
	nr     uintptr
	first  uintptr
	second []unsafe.Pointer // of each request
	rest   [3]uintptr
	want   uintptr
	kept   any // what second points to
}

// bareCalls is the calls for a batch, into its memory.
func bareCalls(b *testing.B, t *batch, name, path string) *bare {
	open := func(path string, flags int) uintptr {
		fd, err := unix.Open(path, flags, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := unix.Close(fd); err != nil {
				b.Error(err)
			}
		})
		return uintptr(fd)
	}
	x := &bare{second: make([]unsafe.Pointer, len(t.requests))}
	switch name {
	case "GETATTR":
		st := make([]unix.Stat_t, len(t.requests))
		for i := range st {
			x.second[i] = unsafe.Pointer(&st[i])
		}
		x.nr, x.first, x.kept = unix.SYS_FSTAT, open(path, unix.O_PATH), st
	case "LOOKUP":
		st, file := new(unix.Statx_t), []byte("file\x00")
		for i := range x.second {
			x.second[i] = unsafe.Pointer(&file[0])
		}
		x.nr, x.first, x.kept = unix.SYS_STATX, open(filepath.Dir(path), unix.O_PATH), st
		x.rest = [3]uintptr{unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(st))}
	case "READ4K", "WRITE4K":
		x.nr = unix.SYS_PREAD64
		if name == "WRITE4K" {
			x.nr = unix.SYS_PWRITE64
		}
		for i := range t.requests {
			for _, p := range t.requests[i].buffers {
				if p.Len == 4096 {
					page, err := t.mem.Slice(p.At, p.Len)
					if err != nil {
						b.Fatal(err)
					}
					x.second[i] = unsafe.Pointer(&page[0])
				}
			}
		}
		x.first, x.rest[0], x.want = open(path, unix.O_RDWR), 4096, 4096
	}
	return x
}

// plain makes the calls as a Go program does.
func (x *bare) plain(b *testing.B) {
	for _, p := range x.second {
		if n, _, e := unix.Syscall6(x.nr, x.first, uintptr(p), x.rest[0], x.rest[1], x.rest[2], 0); e != 0 || n != x.want {
			b.Fatal(n, e)
		}
	}
}

// raw makes them without telling Go's scheduler.
func (x *bare) raw(b *testing.B) {
	for _, p := range x.second {
		if n, _, e := unix.RawSyscall6(x.nr, x.first, uintptr(p), x.rest[0], x.rest[1], x.rest[2], 0); e != 0 || n != x.want {
			b.Fatal(n, e)
		}
	}
}
