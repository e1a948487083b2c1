package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// module is one module file of the image, decompressed.
type module struct {
	name string // as the kernel knows it
	file string // in the image
	data []byte
}

// collect decides for each driver and gathers the modules it takes.
func (m *Image) collect(o Options) error {
	for _, d := range drivers {
		status := Missing
		if o.Modules != nil {
			status, _ = o.Modules.Find(d.Name)
		} else if o.BuiltIn != nil && o.BuiltIn(d.Name) {
			status = BuiltIn
		}
		switch {
		case status == Module:
			order, err := m.closure(o.Modules, o.Cache, d.Name, nil)
			if err != nil {
				return fmt.Errorf("kernel %s: %s: %w", o.Release, d.What, err)
			}
			m.list = fmt.Appendf(m.list, "%s %s\n", d.Name, strings.Join(order, " "))
		case status == Missing && d.Required:
			return &MissingError{o.Release, d}
		}
	}
	return nil
}

// closure adds a module after everything it depends on and returns the files
// of all of them in load order. above is the path from the driver, to notice
// modules that need each other.
func (m *Image) closure(t *Modules, cache, name string, above []string) (files []string, err error) {
	status, path := t.Find(name)
	switch {
	case status == BuiltIn:
		return nil, nil
	case status == Missing:
		return nil, fmt.Errorf("module %s is missing", name)
	case slices.Contains(above, name):
		return nil, fmt.Errorf("module %s needs itself", name)
	}
	mod, err := m.module(t, cache, name, path)
	if err != nil {
		return nil, err
	}
	needs, err := depends(mod.data)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	for _, n := range needs {
		below, err := m.closure(t, cache, n, append(above, name))
		if err != nil {
			return nil, err
		}
		for _, f := range below {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return append(files, mod.file), nil
}

// module returns a module of the image, adding it when it is new.
func (m *Image) module(t *Modules, cache, name, path string) (module, error) {
	if i := slices.IndexFunc(m.modules, func(mod module) bool { return mod.name == name }); i >= 0 {
		return m.modules[i], nil
	}
	data, err := readModule(filepath.Join(t.dir, path), cache)
	if err != nil {
		return module{}, err
	}
	mod := module{name: name, file: name + ".ko", data: data}
	m.modules = append(m.modules, mod)
	return mod, nil
}

// depends returns the names in a module's "depends=" tag, what modpost found
// it to take symbols from.
func depends(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for tag := range bytes.SplitSeq(info, []byte{0}) {
		if names, ok := bytes.CutPrefix(tag, []byte("depends=")); ok && len(names) > 0 {
			return strings.Split(strings.ReplaceAll(string(names), "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// formats are the compressions of MODULE_COMPRESS, by file suffix.
var formats = []struct {
	suffix string
	open   func(io.Reader) (io.Reader, error)
}{
	{"", nil},
	{".xz", func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) }},
	{".zst", func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	}},
	{".gz", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
}

// readModule returns the module whose path, less the suffix of a compression,
// is given.
func readModule(path, cache string) ([]byte, error) {
	plain := path[:strings.LastIndex(path, ".ko")+len(".ko")]
	for _, f := range formats {
		info, err := os.Stat(plain + f.suffix)
		if err != nil {
			continue
		}
		if f.open == nil {
			return os.ReadFile(plain)
		}
		data, err := decompress(plain+f.suffix, info, cache, f.open)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", plain+f.suffix, err)
		}
		return data, nil
	}
	return nil, &fs.PathError{Op: "module", Path: plain, Err: fs.ErrNotExist}
}

// decompress goes through the cache: xz takes longer than the rest of a
// machine's start.
func decompress(path string, info fs.FileInfo, cache string, open func(io.Reader) (io.Reader, error)) ([]byte, error) {
	kept := ""
	if cache != "" {
		kept = filepath.Join(cache, fmt.Sprintf("%x-%x-%s.ko", info.ModTime().UnixNano(), info.Size(), moduleName(path)))
		if data, err := os.ReadFile(kept); err == nil {
			return data, nil
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := open(f)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if err == nil && kept != "" {
		keep(kept, data)
	}
	return data, err
}

// keep stores a file whole or not at all. A cache that cannot be written only
// costs time.
func keep(path string, data []byte) {
	dir := filepath.Dir(path)
	if os.MkdirAll(dir, 0o755) != nil {
		return
	}
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return
	}
	_, err = tmp.Write(data)
	if tmp.Close() != nil || err != nil || os.Rename(tmp.Name(), path) != nil {
		os.Remove(tmp.Name())
	}
}
