package linuxtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// churnBlock is what the accesses of a churn are to.
const churnBlock = 4096

// churn is random accesses to a few big files: which block, and what is done. The same
// seed gives the same accesses, so the host can tell what the files must hold after
// those of a guest.
type churn struct {
	dir      string
	size     int        // of each file in bytes
	versions [][]uint32 // by file and block: how many times it was written
	random   *rand.Rand
}

func newChurn(dir string, files, size int) *churn {
	c := &churn{dir: dir, size: size, versions: make([][]uint32, files), random: rand.New(rand.NewPCG(1, 2))}
	for i := range c.versions {
		c.versions[i] = make([]uint32, size/churnBlock)
	}
	return c
}

func (c *churn) path(file int) string { return filepath.Join(c.dir, fmt.Sprintf("churn-%02d", file)) }

// access is one of them.
type access struct {
	file, block   int
	write, mapped bool // by a store or load, else pwrite(2) or pread(2)
}

func (c *churn) next() access {
	r := c.random
	return access{r.IntN(len(c.versions)), r.IntN(c.size / churnBlock), r.IntN(2) == 0, r.IntN(2) == 0}
}

// block fills b with what a version of a block holds.
func (c *churn) block(b []byte, file, block int, version uint32) {
	x := uint64(file)<<48 | uint64(block)<<24 | uint64(version)
	for i := 0; i < len(b); i += 8 {
		x = x*6364136223846793005 + 1442695040888963407
		for j := range 8 {
			b[i+j] = byte(x >> (8 * j))
		}
	}
}

// check says whether b holds a block's present version.
func (c *churn) check(b []byte, file, block int) error {
	want := make([]byte, len(b))
	c.block(want, file, block, c.versions[file][block])
	for i := range b {
		if b[i] != want[i] {
			return fmt.Errorf("%s, block %d, version %d: byte %d is %#x, want %#x", c.path(file), block, c.versions[file][block], i, b[i], want[i])
		}
	}
	return nil
}

// fill makes the files.
func (c *churn) fill() error {
	b := make([]byte, c.size)
	for i := range c.versions {
		for block := range c.versions[i] {
			c.block(b[block*churnBlock:][:churnBlock], i, block, 0)
		}
		if err := os.WriteFile(c.path(i), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// verify reads all files.
func (c *churn) verify() error {
	for i := range c.versions {
		b, err := os.ReadFile(c.path(i))
		if err == nil && len(b) != c.size {
			err = fmt.Errorf("%s: %d bytes, want %d", c.path(i), len(b), c.size)
		}
		if err != nil {
			return err
		}
		for block := range c.versions[i] {
			if err := c.check(b[block*churnBlock:][:churnBlock], i, block); err != nil {
				return err
			}
		}
	}
	return nil
}

// replay notes what so many accesses write.
func (c *churn) replay(accesses int) {
	for range accesses {
		if a := c.next(); a.write {
			c.versions[a.file][a.block]++
		}
	}
}

// run does accesses and checks each read.
func (c *churn) run(accesses int) error {
	files, err := c.open()
	if err != nil {
		return err
	}
	b := make([]byte, churnBlock)
	for i := range accesses {
		a := c.next()
		if err := c.do(a, files[a.file], b); err != nil {
			return fmt.Errorf("access %d, %+v: %w", i, a, err)
		}
	}
	for i := range files {
		err = errors.Join(err, unix.Munmap(files[i].memory), unix.Close(files[i].fd))
	}
	return err
}

type churnFile struct {
	fd     int
	memory []byte
}

func (c *churn) open() (files []churnFile, err error) {
	for i := range c.versions {
		fd, err := unix.Open(c.path(i), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		b, err := unix.Mmap(fd, 0, c.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, err
		}
		files = append(files, churnFile{fd, b})
	}
	return files, nil
}

func (c *churn) do(a access, f churnFile, b []byte) error {
	at, n := a.block*churnBlock, len(b)
	var err error
	if a.write {
		c.versions[a.file][a.block]++
		c.block(b, a.file, a.block, c.versions[a.file][a.block])
	}
	switch {
	case a.mapped && a.write:
		err = touch(func() { copy(f.memory[at:], b) })
	case a.mapped:
		err = touch(func() { copy(b, f.memory[at:]) })
	case a.write:
		n, err = unix.Pwrite(f.fd, b, int64(at))
	default:
		n, err = unix.Pread(f.fd, b, int64(at))
	}
	if err := moved(n, len(b), err); err != nil || a.write {
		return err
	}
	return c.check(b, a.file, a.block)
}

func opChurn(args []string) (string, error) {
	n, err := numbers(args[1:])
	if err != nil {
		return "", err
	}
	return "", newChurn(args[0], n[0], n[1]).run(n[2])
}
