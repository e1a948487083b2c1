package device

import (
	"encoding/binary"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tenon/scripts/benchmark/ring"
	"tenon/virtiofs/fstest"
)

// bare is the side that makes the system calls and nothing else.
type bare struct {
	told                                bool // see bare_unsafe.go
	dir                                 string
	knownDir, manyDir, listDir, madeDir int
	data, written                       int
	knownFDs                            []int    // O_PATH, as a server holds inodes
	names                               [][]byte // of known files, NUL-terminated
	memory                              *ring.Memory
	fds                                 []int
}

func newBare(dir string, told bool) (*bare, error) {
	b := &bare{told: told, dir: dir}
	var err error
	if b.memory, err = ring.NewMemory(64 << 20); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		name  string
		flags int
		to    *int
	}{
		{"known", unix.O_PATH, &b.knownDir}, {"many", unix.O_PATH, &b.manyDir}, {"made", unix.O_PATH, &b.madeDir},
		{"list", unix.O_RDONLY, &b.listDir}, {"data", unix.O_RDWR, &b.data}, {"written", unix.O_RDWR, &b.written},
	} {
		if err == nil {
			*x.to, err = b.openFile(x.name, x.flags)
		}
	}
	for i := 0; i < known && err == nil; i++ {
		var fd int
		fd, err = b.openFile(filepath.Join("known", knownName(i)), unix.O_PATH)
		b.knownFDs = append(b.knownFDs, fd)
		b.names = append(b.names, fstest.Str(knownName(i)))
	}
	if err != nil {
		_ = b.close()
		return nil, err
	}
	return b, nil
}

func (b *bare) openFile(name string, flags int) (int, error) {
	fd, err := unix.Open(filepath.Join(b.dir, name), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", name, err)
	}
	b.fds = append(b.fds, fd)
	return fd, nil
}

func (b *bare) close() error {
	for _, fd := range b.fds {
		_ = unix.Close(fd)
	}
	b.memory.Close()
	return nil
}

// getattr is fstat(2): all that fuse_attr has is in it.
func (b *bare) getattr(row) (work, error) {
	var list [known]unix.Stat_t
	call := func(i int) error { return errno(b.fstat(b.knownFDs[i], &list[i])) }
	return work{
		n:      known,
		batch:  func(w *watch) error { return w.each(known, call) },
		verify: func() error { return sizes(known, func(i int) uint64 { return uint64(list[i].Size) }) },
	}, nil
}

// lookupKnown is statx(2) of a name.
func (b *bare) lookupKnown(row) (work, error) {
	var list [known]unix.Statx_t
	call := func(i int) error {
		return errno(b.statx(b.knownDir, &b.names[i][0], &list[i]))
	}
	return work{
		n:      known,
		batch:  func(w *watch) error { return w.each(known, call) },
		verify: func() error { return sizes(known, func(i int) uint64 { return list[i].Size }) },
	}, nil
}

// lookupNew is what makes an inode to be held: openat(2) with O_PATH, and fstat(2).
// close(2) is off the clock, as FORGET is.
func (b *bare) lookupNew(row) (work, error) {
	var fds [known]int
	var list [known]unix.Stat_t
	names := make([][]byte, unknown)
	for i := range names {
		names[i] = fstest.Str(manyName(i))
	}
	at := 0
	call := func(i int) error {
		fd, e := openat(b.manyDir, &names[at+i][0], unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if e != 0 {
			return e
		}
		fds[i] = fd
		return errno(b.fstat(fd, &list[i]))
	}
	batch := func(w *watch) error {
		at = (at + known) % unknown
		if err := w.each(known, call); err != nil {
			return err
		}
		for _, fd := range fds {
			if e := closeFD(fd); e != 0 {
				return e
			}
		}
		return nil
	}
	return work{n: known, batch: batch, verify: func() error {
		return sizes(known, func(i int) uint64 { return uint64(list[i].Size) - uint64(at) })
	}}, nil
}

// openRelease is openat(2) and close(2).
func (b *bare) openRelease(row) (work, error) {
	var fds [known]int
	open := func(i int) error {
		fd, e := openat(b.knownDir, &b.names[i][0], unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		fds[i] = fd
		return errno(e)
	}
	shut := func(i int) error { return errno(closeFD(fds[i])) }
	return work{n: known, batch: func(w *watch) error {
		if err := w.each(known, open); err != nil {
			return err
		}
		return w.each(known, shut)
	}}, nil
}

// buffers are pieces of memory as a driver's requests have them, and in iovecs.
func (b *bare) buffers(x row) ([][][]byte, [][]unix.Iovec, error) {
	data, vectors := make([][][]byte, x.n), make([][]unix.Iovec, x.n)
	for i := range data {
		var err error
		if data[i], err = b.memory.Payload(x.size, x.shape); err != nil {
			return nil, nil, err
		}
		for _, p := range data[i] {
			vectors[i] = append(vectors[i], iovec(p))
		}
	}
	return data, vectors, nil
}

// transfer moves pieces of a file by the call for one buffer, or by that for several.
func (b *bare) transfer(fd int, x row, one, several uintptr, data [][][]byte, vectors [][]unix.Iovec) func(*watch) error {
	whole := func(n int, e unix.Errno) error {
		if e == 0 && n != x.size {
			return fmt.Errorf("%d bytes moved, not %d", n, x.size)
		}
		return errno(e)
	}
	call := func(i int) error { return whole(b.moveVector(several, fd, vectors[i], int64(i*x.size))) }
	if len(data[0]) == 1 {
		call = func(i int) error { return whole(b.move(one, fd, data[i][0], int64(i*x.size))) }
	}
	return func(w *watch) error { return w.each(x.n, call) }
}

// read is pread(2), or preadv(2) where there are several buffers.
func (b *bare) read(x row) (work, error) {
	data, vectors, err := b.buffers(x)
	if err != nil {
		return work{}, err
	}
	return work{
		n:      x.n,
		batch:  b.transfer(b.data, x, unix.SYS_PREAD64, unix.SYS_PREADV, data, vectors),
		verify: func() error { return checkData(data, x.size, dataStamp) },
	}, nil
}

// write is pwrite(2), or pwritev(2) where there are several buffers.
func (b *bare) write(x row) (work, error) {
	data, vectors, err := b.buffers(x)
	if err != nil {
		return work{}, err
	}
	stampData(data, x.size, x.kind())
	if err := blank(b.dir, x); err != nil {
		return work{}, err
	}
	return work{
		n:      x.n,
		batch:  b.transfer(b.written, x, unix.SYS_PWRITE64, unix.SYS_PWRITEV, data, vectors),
		verify: func() error { return checkWritten(b.dir, x) },
	}, nil
}

// createUnlink is openat(2) with O_CREAT and O_EXCL, close(2) and unlinkat(2).
func (b *bare) createUnlink(row) (work, error) {
	var fds [known]int
	var names [known][]byte
	for i := range names {
		names[i] = fstest.Str(madeName(i))
	}
	const flags = unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	create := func(i int) error {
		fd, e := openat(b.madeDir, &names[i][0], flags, 0o644)
		fds[i] = fd
		return errno(e)
	}
	shut := func(i int) error { return errno(closeFD(fds[i])) }
	unlink := func(i int) error { return errno(unlinkat(b.madeDir, &names[i][0])) }
	return work{n: known, batch: func(w *watch) error {
		if err := w.each(known, create); err != nil {
			return err
		}
		if err := w.each(known, shut); err != nil {
			return err
		}
		return w.each(known, unlink)
	}}, nil
}

// direntBuffer is the room that the C library gives getdents64(2).
const direntBuffer = 32 << 10

// readdirplus is getdents64(2) until the directory ends, and statx(2) of each name.
func (b *bare) readdirplus(x row) (work, error) {
	buffer := make([]byte, direntBuffer)
	var st unix.Statx_t
	list := func(int) error {
		if e := lseek(b.listDir, 0, unix.SEEK_SET); e != 0 {
			return e
		}
		names := 0
		for {
			n, e := getdents(b.listDir, buffer)
			if e != 0 {
				return e
			}
			if n == 0 {
				break
			}
			for page := buffer[:n]; len(page) > 0; page = page[binary.LittleEndian.Uint16(page[16:]):] {
				if page[19] == '.' {
					continue
				}
				if e := b.statx(b.listDir, &page[19], &st); e != 0 {
					return e
				}
				names++
			}
		}
		if names != listed {
			return fmt.Errorf("%d entries, not %d", names, listed)
		}
		return nil
	}
	return work{n: x.n, batch: func(w *watch) error { return w.each(x.n, list) }}, nil
}

// setupRemove is mmap(2) of a piece of a file, and mmap(2) of nothing in its place.
func (b *bare) setupRemove(row) (work, error) {
	win, err := newWindow(windowSize)
	if err != nil {
		return work{}, err
	}
	show := func(i int) error {
		return errno(win.mapFile(uintptr(i*mapRange), mapRange, b.data, int64(mapOffset(i))))
	}
	hide := func(i int) error { return errno(win.unmap(uintptr(i*mapRange), mapRange)) }
	return work{n: mapped, close: win.close, batch: func(w *watch) error {
		if err := w.each(mapped, show); err != nil {
			return err
		}
		return w.each(mapped, hide)
	}}, nil
}
