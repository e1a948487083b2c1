package virtiofs_test

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// Of linux/userfaultfd.h.
const (
	uffdAPI             = 0xaa
	uffdRegisterMissing = 1
	uffdioAPI           = 0xc018aa3f
	uffdioRegister      = 0xc020aa00
	uffdioCopy          = 0xc028aa03
)

// lateMemory is memory that gets its bytes only some time after its first use, in which
// the host's kernel waits for them.
func lateMemory(t *testing.T, mem, data []byte, after time.Duration) {
	t.Helper()
	n, _, e := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	fd := int(n)
	if e != 0 {
		t.Skipf("SKIPPED: a write that is slow in the host's kernel takes userfaultfd(2): %v", e)
	}
	word := binary.NativeEndian.AppendUint64
	do := func(request uintptr, words ...uint64) unix.Errno {
		var arg []byte
		for _, w := range words {
			arg = word(arg, w)
		}
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&arg[0])))
		return e
	}
	at, size := uint64(uintptr(unsafe.Pointer(&mem[0]))), uint64(len(mem))
	ok(t, "UFFDIO_API", do(uffdioAPI, uffdAPI, 0, 0))
	ok(t, "UFFDIO_REGISTER", do(uffdioRegister, at, size, uffdRegisterMissing, 0))
	done := make(chan unix.Errno)
	go func() {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if ready == 0 || err != nil {
			done <- unix.ETIMEDOUT
			return
		}
		time.Sleep(after)
		done <- do(uffdioCopy, at, uint64(uintptr(unsafe.Pointer(&data[0]))), size, 0, 0)
	}()
	t.Cleanup(func() {
		ok(t, "UFFDIO_COPY", <-done)
		must(t, unix.Close(fd))
	})
}

// TestSlowHost: a write in which the host's kernel sleeps counts as slow, and what comes
// after it is served where it may block.
func TestSlowHost(t *testing.T) {
	const page, size = 4096, 64 << 10
	mem, err := unix.Mmap(-1, 0, page+size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Munmap(mem)) })
	data := bytes.Repeat([]byte("late"), size/4)
	lateMemory(t, mem[page:], data, 20*time.Millisecond)

	dir, c := connect(t, passthrough.Options{})
	f, fh, e := c.Create(root, "f", unix.O_RDWR, 0o644)
	ok(t, "CREATE", e)
	msg := c.Message(fuse.Write, f.Node, fstest.WriteArgs(fh, 0, size, 0, 0), data)
	fixed := len(msg) - size
	copy(mem[page-fixed:], msg[:fixed])
	if _, pooled := c.Raw(mem[page-fixed:], 24); pooled {
		t.Error("the first write is served elsewhere")
	}
	ended := time.Now()
	_, pooled := c.Raw(c.Message(fuse.Write, f.Node, fstest.WriteArgs(fh, size, 1, 0, 0), []byte{'x'}), 24)
	if took := time.Since(ended); !pooled && took < 50*time.Millisecond {
		t.Error("the second write is served at once")
	}
	if got := read(t, dir+"/f"); got != string(data)+"x" {
		t.Errorf("%d bytes, others than were written", len(got))
	}
}
