package boot

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
)

// The kernel is copied into guest RAM and not mapped there from the page cache.
// A mapping saves little memory, because a kernel that starts writes to most of
// itself (it patches its code), and costs a nested fault or three for each of
// its pages, where a copy lies in huge pages from the beginning.

// part is a piece of the kernel's file and where it goes.
type part struct {
	off int64
	ram []byte
}

// partLen is the most that is read at a time: a huge page of the host, which
// is cleared when it is first written to. That takes as long as the reading.
const partLen = 2 << 20

// parts cuts what the file holds of the program, without its holes, which are
// zero as guest RAM is, at the boundaries of huge pages.
func (l *loader) parts() ([]part, error) {
	info, err := l.image.file.Stat()
	if err != nil {
		return nil, err
	}
	var list []part
	for _, s := range l.image.program.segments {
		ram, err := l.mem.Slice(memory.GPA(s.at), uint32(s.memsz))
		if err != nil {
			return nil, fmt.Errorf("segment of %#x bytes at %#x: %w", s.memsz, s.at, err)
		}
		if s.off+s.filesz > uint64(info.Size()) { // beyond its end everything would be a hole
			return nil, fmt.Errorf("segment at %#x: %w", s.at, io.ErrUnexpectedEOF)
		}
		for from := uint64(0); from < s.filesz; {
			data, end := extent(l.image.file, s.off+from, s.off+s.filesz)
			from = data - s.off
			for from < end-s.off {
				to := min((s.at+from)&^(partLen-1)+partLen-s.at, end-s.off)
				list = append(list, part{int64(s.off + from), ram[from:to]})
				from = to
			}
		}
	}
	return list, nil
}

// extent returns where in [off, end) of the file the next data lies, empty at
// end when there is none (lseek(2), SEEK_DATA). File systems that do not know
// holes have data everywhere.
func extent(f *os.File, off, end uint64) (from, to uint64) {
	data, err := f.Seek(int64(off), unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return end, end
	case err != nil:
		return off, end
	}
	hole, err := f.Seek(data, unix.SEEK_HOLE)
	if err != nil {
		return off, end
	}
	return min(uint64(data), end), min(uint64(hole), end)
}

// maxReaders bounds the goroutines that load a kernel: more are not faster.
const maxReaders = 4

// readParts reads all parts, several at a time.
func readParts(f *os.File, parts []part) error {
	var next atomic.Int64
	var wait sync.WaitGroup
	errs := make([]error, min(maxReaders, runtime.NumCPU()))
	for w := range errs {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(parts)) && errs[w] == nil; i = next.Add(1) - 1 {
				errs[w] = read(f, parts[i])
			}
		})
	}
	wait.Wait()
	return cmp.Or(errs...)
}

func read(f *os.File, p part) error {
	_, err := f.ReadAt(p.ram, p.off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// writeSparse writes data to an empty file and leaves holes for pages of zeros:
// a fifth of a kernel.
func writeSparse(f *os.File, data []byte) error {
	var zero [pageSize]byte
	for at := 0; at < len(data); {
		end := at
		for end < len(data) && !bytes.Equal(data[end:min(end+pageSize, len(data))], zero[:min(pageSize, len(data)-end)]) {
			end = min(end+pageSize, len(data))
		}
		if _, err := f.WriteAt(data[at:end], int64(at)); err != nil {
			return err
		}
		at = end + pageSize
	}
	return f.Truncate(int64(len(data)))
}
