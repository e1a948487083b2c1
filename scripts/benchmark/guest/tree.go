package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// fillAll makes the files whose contents are counted.
func fillAll(dir string, z sizes) error {
	for name, size := range map[string]int64{bigFile: z.Big, readFile: z.File, writeFile: z.File, fioFile: z.File} {
		if err := fill(filepath.Join(dir, name), size); err != nil {
			return err
		}
	}
	return nil
}

// furnish puts what else guests work on into a directory.
func furnish(dir string, z sizes) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, tinyFile), tinyInit(), 0o755); err != nil {
		return err
	}
	files := z.tree()
	if err := writeTar(filepath.Join(dir, treeTar), files); err != nil {
		return err
	}
	return makeRepository(filepath.Join(dir, gitDir), files)
}

// namedFile is a file to be.
type namedFile struct{ name, body string }

// tree is a source tree as a kernel's is, smaller: directories of small files, and a
// Makefile that makes one of each and then one of all of a directory. What it runs are
// programs that start quickly, as what is measured are the files.
func (z sizes) tree() []namedFile {
	var list []namedFile
	var all, rules strings.Builder
	for d := range z.Dirs {
		var objects []string
		for f := range z.PerDir {
			name := fmt.Sprintf("d%d/f%d", d, f)
			list = append(list, namedFile{name + ".c", strings.Repeat(fmt.Sprintf("int value_%d_%d; // %s\n", d, f, name), 1+(f*37)%200)})
			objects = append(objects, name+".o")
		}
		fmt.Fprintf(&all, " d%d/built-in", d)
		fmt.Fprintf(&rules, "d%d/built-in: %s\n\tcat $^ > $@\n", d, strings.Join(objects, " "))
	}
	makefile := "all:" + all.String() + "\n%.o: %.c\n\tcp $< $@\n" + rules.String()
	return append(list, namedFile{"Makefile", makefile})
}

func writeTar(path string, files []namedFile) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: "tree/" + f.name, Mode: 0o644, Size: int64(len(f.body)), ModTime: past, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write([]byte(f.body)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// past is when the files were changed: long before git's index was written, which so
// believes what stat says of them.
var past = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// makeRepository commits the files.
func makeRepository(dir string, files []namedFile) error {
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(path, []byte(f.body), 0o644), os.Chtimes(path, past, past)); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"init", "-q"}, {"add", "."},
		{"-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-q", "-m", "all"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
	}
	return nil
}
