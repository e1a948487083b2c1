// Package image makes the initramfs that turns the running tenon binary into
// the guest's init: the binary as /init, and the modules of those drivers the
// kernel has not built in.
package image

import (
	"fmt"
	"io"
	"os"
	"strings"

	guestinit "tenon/guest/init"
)

// Options say what goes into an image.
type Options struct {
	Init    string   // the tenon binary, on the host
	Release string   // of the kernel, for messages
	Modules *Modules // of the kernel; nil: it has none
	// BuiltIn says whether the kernel image contains a driver, by its name in
	// Drivers. It is asked only when Modules is nil; nil means no.
	BuiltIn func(driver string) bool
	Cache   string // directory for decompressed modules; empty: none is kept
}

// MissingError is a kernel without a driver that a guest cannot do without.
type MissingError struct {
	Release string
	Driver  Driver
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("kernel %s has no %s (%s)", e.Release, e.Driver.What, e.Driver.Config)
}

// Image is an initramfs: a newc cpio archive, not compressed. Memory for it is
// the caller's, so that it can be written straight into guest RAM.
type Image struct {
	path    string // the init
	initLen int64
	modules []module
	list    []byte // which to load for which driver, in what order
	size    int
}

// New collects what the image needs. The error is a *MissingError when the
// kernel lacks a required driver.
func New(o Options) (*Image, error) {
	info, err := os.Stat(o.Init)
	if err != nil {
		return nil, fmt.Errorf("the guest's init: %w", err)
	}
	m := &Image{path: o.Init, initLen: info.Size()}
	if err := m.collect(o); err != nil {
		return nil, err
	}
	var count archive
	if err := m.write(&count, func([]byte) error { return nil }); err != nil {
		return nil, err
	}
	m.size = count.n
	return m, nil
}

// Build returns a whole image in memory of its own.
func Build(o Options) ([]byte, error) {
	m, err := New(o)
	if err != nil {
		return nil, err
	}
	b := make([]byte, m.Size())
	return b, m.Fill(b)
}

// Size is the length of the image in bytes.
func (m *Image) Size() int { return m.size }

// Fill writes the image to the first Size bytes of dst. The init goes from its
// file to dst without a copy in between.
func (m *Image) Fill(dst []byte) error {
	if len(dst) < m.size {
		return fmt.Errorf("initramfs: %d bytes do not fit into %d", m.size, len(dst))
	}
	f, err := os.Open(m.path)
	if err != nil {
		return fmt.Errorf("the guest's init: %w", err)
	}
	defer f.Close()
	return m.write(&archive{dst: dst[:m.size]}, func(body []byte) error {
		if _, err := io.ReadFull(f, body); err != nil {
			return fmt.Errorf("the guest's init %s: %w", m.path, err)
		}
		return nil
	})
}

// write puts the entries in the order the kernel unpacks them: directories
// before what is in them.
func (m *Image) write(a *archive, readInit func(body []byte) error) error {
	for _, dir := range []string{"dev", "proc", "sys"} {
		a.entry(entry{name: dir, mode: modeDir | 0o755})
	}
	// The kernel opens it for init's standard streams before devtmpfs is there.
	a.entry(entry{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1})
	if len(m.modules) > 0 {
		dir := strings.TrimPrefix(guestinit.ModuleDir, "/")
		a.entry(entry{name: dir, mode: modeDir | 0o755})
		a.file(dir+"/"+guestinit.ModuleList, 0o644, m.list)
		for _, mod := range m.modules {
			a.file(dir+"/"+mod.file, 0o644, mod.data)
		}
	}
	body := a.entry(entry{name: "init", mode: modeFile | 0o755, size: m.initLen})
	if err := readInit(body); err != nil {
		return err
	}
	a.end()
	return nil
}
