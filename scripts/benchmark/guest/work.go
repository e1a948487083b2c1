package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const page = 4096

// Every page of a file begins with its number, so that what is read can be checked at
// the price of one load, and what is written leaves such a file behind.

// stamp writes the numbers into a block that belongs at an offset.
func stamp(block []byte, at int64) {
	for i := 0; i < len(block); i += page {
		binary.LittleEndian.PutUint64(block[i:], uint64(at+int64(i))/page)
	}
}

// stamped says whether a block begins with the number of its page.
func stamped(block []byte, at int64) bool {
	return binary.LittleEndian.Uint64(block) == uint64(at)/page
}

// offsets returns where in a file so many operations go to: always the same ones.
func (t step) offsets(size int64) []int64 {
	blocks := size / int64(t.Block)
	random := rand.New(rand.NewPCG(1, uint64(t.Count)))
	list := make([]int64, t.Count)
	for i := range list {
		n := int64(i) % blocks
		if t.Random {
			n = random.Int64N(blocks)
		}
		list[i] = n * int64(t.Block)
	}
	return list
}

// open opens the file of a step and says how long it is.
func (t step) open(s share) (*os.File, int64, error) {
	flags := os.O_RDONLY
	if t.Write {
		flags = os.O_RDWR
	}
	if t.Direct {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(filepath.Join(s.mounted(), t.File), flags, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil || info.Size() < int64(t.Block) {
		f.Close()
		return nil, 0, errors.Join(err, fmt.Errorf("%s: %d bytes", t.File, info.Size()))
	}
	return f, info.Size(), nil
}

// transfer times system calls that move a block each, from an empty cache of the guest.
func (t step) transfer(s share) (float64, error) {
	f, size, err := t.open(s)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buffer, err := unix.Mmap(-1, 0, t.Block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(buffer)
	list := t.offsets(size)
	fd := int(f.Fd())
	if err := t.move(fd, buffer, list[:min(len(list), 8)]); err != nil { // warm
		return 0, err
	}
	if err := dropCaches(); err != nil {
		return 0, err
	}
	from := time.Now()
	if err := t.move(fd, buffer, list); err != nil {
		return 0, err
	}
	return float64(time.Since(from)) / float64(len(list)), nil
}

// move reads or writes a block at each offset, and checks it.
func (t step) move(fd int, buffer []byte, list []int64) error {
	call := unix.Pread
	if t.Write {
		call = unix.Pwrite
	}
	for _, at := range list {
		if t.Write {
			stamp(buffer, at)
		}
		if n, err := call(fd, buffer, at); err != nil || n != len(buffer) {
			return fmt.Errorf("%d bytes at %d: %d, %w", len(buffer), at, n, err)
		}
		if !stamped(buffer, at) {
			return fmt.Errorf("at %d the file holds %x", at, buffer[:8])
		}
	}
	return nil
}

// touch times loads from random pages of a mapped file.
func (t step) touch(s share) (float64, error) {
	f, size, err := t.open(s)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := dropCaches(); err != nil {
		return 0, err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(data)
	if t.Warm {
		for at := int64(0); at < size; at += page {
			if !stamped(data[at:], at) {
				return 0, fmt.Errorf("at %d the file holds %x", at, data[at:at+8])
			}
		}
	}
	// As fio's mmap engine says it of random work: no reading around.
	if err := unix.Madvise(data, unix.MADV_RANDOM); err != nil {
		return 0, err
	}
	list := t.offsets(size)
	wrong := 0
	from := time.Now()
	for _, at := range list {
		if !stamped(data[at:], at) {
			wrong++
		}
	}
	spent := time.Since(from)
	if wrong > 0 {
		return 0, fmt.Errorf("%d of %d pages are wrong", wrong, len(list))
	}
	return float64(spent) / float64(len(list)), nil
}

// names times a system call, or a pair, on Count names in the directory File.
func (t step) names(s share) (float64, error) {
	dir := s.dir(t.Dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	if err := os.Chdir(dir); err != nil {
		return 0, err
	}
	list := make([]string, t.Count)
	for i := range list {
		list[i] = strconv.Itoa(i)
	}
	if err := dropCaches(); err != nil {
		return 0, err
	}
	from := time.Now()
	for _, name := range list {
		if err := t.name(name); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	return float64(time.Since(from)) / float64(len(list)), os.Chdir("/")
}

func (t step) name(name string) error {
	switch t.Do {
	case create:
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	case unlink:
		return unix.Unlink(name)
	}
	var st unix.Stat_t
	return unix.Lstat(name, &st)
}

// command times a program from its start to its end, in milliseconds.
func (t step) command(s share) (float64, error) {
	var out, complaint bytes.Buffer
	cmd := exec.Command(t.Args[0], t.Args[1:]...)
	cmd.Dir = s.dir(t.Dir)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := errors.Join(os.MkdirAll(cmd.Dir, 0o755), dropCaches()); err != nil {
		return 0, err
	}
	from := time.Now()
	err := cmd.Run()
	spent := time.Since(from)
	if err != nil {
		return 0, fmt.Errorf("%q: %w: %s", t.Args, err, complaint.Bytes())
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != t.Lines {
		return 0, fmt.Errorf("%q: %d lines, want %d", t.Args, n, t.Lines)
	}
	return spent.Seconds() * 1000, nil
}

// fill makes a file of so many stamped pages.
func fill(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(block)) {
		stamp(block, at)
		if _, err := f.Write(block); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// check wants every page of a file stamped, as fill and writes of the guest leave it.
func check(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(block)) {
		n, err := io.ReadFull(f, block)
		if err == io.EOF {
			return nil
		}
		for i := 0; i+page <= n; i += page {
			if !stamped(block[i:], at+int64(i)) {
				return fmt.Errorf("%s: at %d is %x", path, at+int64(i), block[i:i+8])
			}
		}
		if err != nil {
			return err
		}
	}
}
