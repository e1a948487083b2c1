package boot

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cacheFormat is part of every entry's name: raise it when entries change.
const cacheFormat = 2

// vmlinux is an unpacked kernel in a file of its own.
type vmlinux struct {
	file    *os.File
	program program
}

// cache is where one kernel's vmlinux is kept. An entry is the vmlinux and
// nothing else. It counts only if its length is what the payload says and its
// modification time is the kernel's, to the second: any later write or
// truncation changes that time, so no checksum over the whole is needed.
type cache struct {
	dir  string
	name string // <path>-<identity>.vmlinux, both hashes
	size int64
	time time.Time
}

// newCache names the entry of the kernel at path. Identity is what the file
// system says for nothing: device, inode, size and times.
func newCache(dir, path string, info os.FileInfo, p payload) cache {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	id := fmt.Sprintf("%d %d", cacheFormat, info.Size())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id = fmt.Sprintf("%s %d %d %v", id, st.Dev, st.Ino, st.Ctim)
	}
	id = fmt.Sprintf("%s %d", id, info.ModTime().UnixNano())
	return cache{
		dir:  dir,
		name: hash(path) + "-" + hash(id) + ".vmlinux",
		size: p.size,
		time: info.ModTime().Truncate(time.Second),
	}
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// unpacked returns the vmlinux in the payload of a bzImage: from the cache, or
// unpacked now and stored there, or in anonymous memory when it cannot be.
func unpacked(bz *os.File, info os.FileInfo, p payload, cacheDir string) (vmlinux, error) {
	c := newCache(cacheDir, bz.Name(), info, p)
	if v, ok := c.open(); ok {
		return v, nil
	}
	data, err := decompress(bz, p)
	if err != nil {
		return vmlinux{}, err
	}
	defer free(data)
	if c.store(data) == nil {
		if v, ok := c.open(); ok {
			return v, nil
		}
	}
	f, err := anonymous(data)
	if err != nil {
		return vmlinux{}, err
	}
	prog, err := parseELF(f)
	if err != nil {
		f.Close()
		return vmlinux{}, fmt.Errorf("unpacked: %w", err)
	}
	return vmlinux{f, prog}, nil
}

// open returns the entry if it is there and whole.
func (c cache) open() (vmlinux, bool) {
	if c.dir == "" {
		return vmlinux{}, false
	}
	f, info, err := openRegular(filepath.Join(c.dir, c.name))
	if err != nil {
		return vmlinux{}, false
	}
	if info.Size() == c.size && info.ModTime().Truncate(time.Second).Equal(c.time) {
		if p, err := parseELF(f); err == nil {
			return vmlinux{f, p}, true
		}
	}
	f.Close()
	return vmlinux{}, false
}

// store writes the entry under another name and renames it, so that nobody
// ever opens half of one, and then removes older entries of the same kernel.
func (c cache) store(data []byte) error {
	if c.dir == "" {
		return os.ErrInvalid
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	prefix, _, _ := strings.Cut(c.name, "-")
	f, err := os.CreateTemp(c.dir, prefix+"-*.new")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.fill(f, data); err != nil {
		os.Remove(f.Name())
		return err
	}
	old, _ := filepath.Glob(filepath.Join(c.dir, prefix+"-*.vmlinux"))
	for _, path := range old {
		if filepath.Base(path) != c.name {
			os.Remove(path)
		}
	}
	return nil
}

// fill makes the file the entry. The data is on disk before the name is.
func (c cache) fill(f *os.File, data []byte) error {
	if err := writeSparse(f, data); err != nil {
		return err
	}
	if err := os.Chtimes(f.Name(), c.time, c.time); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(c.dir, c.name))
}

// anonymous returns a file in memory with the given content.
func anonymous(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("vmlinux", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the unpacked kernel: %w", err)
	}
	f := os.NewFile(uintptr(fd), "vmlinux")
	if err := writeSparse(f, data); err != nil {
		f.Close()
		return nil, fmt.Errorf("memory for the unpacked kernel: %w", err)
	}
	return f, nil
}
