package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// What is in a shared directory.
const (
	known    = 64   // files in "known"
	unknown  = 1024 // files in "many"
	listed   = 1000 // files in "list"
	dataSize = 16 << 20
)

// Files: sizes say which is which, for what is to be checked.
func knownName(i int) string { return fmt.Sprintf("known%04d", i) }
func manyName(i int) string  { return fmt.Sprintf("many%05d", i) }
func listName(i int) string  { return fmt.Sprintf("listed%04d", i) }
func madeName(i int) string  { return fmt.Sprintf("made%04d", i) }

// makeTree makes the shared directory.
func makeTree(dir string) error {
	for _, d := range []struct {
		name  string
		files int
		file  func(int) string
	}{{"known", known, knownName}, {"many", unknown, manyName}, {"list", listed, listName}, {"made", 0, nil}} {
		if err := os.MkdirAll(filepath.Join(dir, d.name), 0o755); err != nil {
			return err
		}
		for i := range d.files {
			if err := os.WriteFile(filepath.Join(dir, d.name, d.file(i)), make([]byte, i), 0o644); err != nil {
				return err
			}
		}
	}
	data := make([]byte, dataSize)
	stamp(data, 0, dataStamp)
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "written"), make([]byte, dataSize), 0o644)
}

// The kinds of data that stamp makes.
const (
	dataStamp uint64 = 0x1111 << 48
	sentStamp uint64 = 0x2222 << 48
)

// stamp fills p, which is at an offset, with words that say where and what they are.
func stamp(p []byte, off int, kind uint64) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], kind|uint64(off+i))
	}
}

// stamped says whether p is what stamp made.
func stamped(p []byte, off int, kind uint64) error {
	for i := 0; i+8 <= len(p); i += 8 {
		if got, want := binary.LittleEndian.Uint64(p[i:]), kind|uint64(off+i); got != want {
			return fmt.Errorf("byte %d is in %#x, not in %#x", off+i, got, want)
		}
	}
	return nil
}

// stampData stamps the data of requests for one piece of a file each.
func stampData(data [][][]byte, size int, kind uint64) {
	for i, pieces := range data {
		off := i * size
		for _, p := range pieces {
			stamp(p, off, kind)
			off += len(p)
		}
	}
}

// checkData says whether the data of requests is what stampData would make.
func checkData(data [][][]byte, size int, kind uint64) error {
	for i, pieces := range data {
		off := i * size
		for _, p := range pieces {
			if err := stamped(p, off, kind); err != nil {
				return err
			}
			off += len(p)
		}
	}
	return nil
}

// blank overwrites the file of a row's writes, where it lies: what is in it later, the
// side has written.
func blank(dir string, x row) error {
	f, err := os.OpenFile(filepath.Join(dir, "written"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, x.n*x.size), 0)
	return errors.Join(err, f.Close())
}

// checkWritten says whether the file of a row's writes is what they should have made.
func checkWritten(dir string, x row) error {
	p, err := os.ReadFile(filepath.Join(dir, "written"))
	if err != nil {
		return err
	}
	return stamped(p[:x.n*x.size], 0, x.kind())
}
