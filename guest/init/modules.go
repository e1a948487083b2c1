package guestinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ModuleDir is the initramfs directory of the kernel modules to load. Its file
// ModuleList has one line for each driver: the driver's name, then the files
// to load in that order. A driver without a line is built in, or missing.
const (
	ModuleDir  = "/modules"
	ModuleList = "list"
)

// modules are the drivers that came with the initramfs.
type modules struct {
	dir    string
	files  map[string][]string // by driver
	loaded map[string]bool     // files: drivers share dependencies
}

// open reads the list. No list means no modules: everything is built in, or
// the kernel was booted straight from the root share.
func (m *modules) open(dir string) error {
	m.dir, m.files, m.loaded = dir, make(map[string][]string), make(map[string]bool)
	list, err := os.ReadFile(dir + "/" + ModuleList)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for line := range strings.Lines(string(list)) {
		if words := strings.Fields(line); len(words) > 0 {
			m.files[words[0]] = words[1:]
		}
	}
	return err
}

// load loads a driver and what it depends on. It does nothing for a driver
// that is not in the list.
func (m *modules) load(driver string) error {
	for _, file := range m.files[driver] {
		if m.loaded[file] {
			continue
		}
		if err := loadModule(m.dir + "/" + file); err != nil {
			return fmt.Errorf("load module %s for %s: %w", file, driver, err)
		}
		m.loaded[file] = true
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
