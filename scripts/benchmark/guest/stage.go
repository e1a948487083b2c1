package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// stage is a directory with all that the lab needs: made on the host, where programs
// run at full speed, and copied to the lab's memory, so that no side waits for a disk.
type stage struct{ dir string }

// What is in it.
const (
	kernelDir   = "kernel" // vmlinuz and lib/modules, as scripts/kernel leaves them
	tenonFile   = "tenon"
	sharedDir   = "shared" // what guests share, but for the big files
	imageSuffix = ".cpio"

	tinyImage = "tiny" + imageSuffix // an init that says that it is there
	fullImage = "full" + imageSuffix // all programs
	fioImage  = "fio" + imageSuffix  // and fio
)

// Names of programs' directories in it.
const (
	qemu7Dir, cDir, qemu10Dir, rustDir = "qemu7", "c", "qemu10", "rust"
)

// make fills the stage.
func (g stage) make(s setup, f found) error {
	at := func(name string) string { return filepath.Join(g.dir, name) }
	err := errors.Join(copyFile(f.tenon, at(tenonFile)), g.kernel(f.kernel), g.images(f, s.FioRounds > 0),
		furnish(at(sharedDir), s.sizes()))
	if f.has(qemuC) {
		err = errors.Join(err, stageInstalled(f.peers["qemu7"], at(qemu7Dir)), stageInstalled(f.peers["c"], at(cDir)),
			stageFirmware(at(qemu7Dir), "/usr/share/qemu", "/usr/share/seabios"))
	}
	if f.has(qemuRust) {
		data := filepath.Join(filepath.Dir(f.peers["qemu10"]), "share")
		err = errors.Join(err, stagePeer(f.peers["qemu10"], at(qemu10Dir)), stagePeer(f.peers["rust"], at(rustDir)),
			stageFirmware(at(qemu10Dir), filepath.Join(data, "qemu"), filepath.Join(data, "seabios")))
	}
	return err
}

// kernel copies a kernel with the lists of its modules, by which Tenon knows what is
// built in.
func (g stage) kernel(vmlinuz string) error {
	lists, err := filepath.Glob(filepath.Join(filepath.Dir(vmlinuz), "lib/modules/*/modules.*"))
	for _, path := range append(lists, vmlinuz) {
		rel, relErr := filepath.Rel(filepath.Dir(vmlinuz), path)
		err = errors.Join(err, relErr, copyFile(path, filepath.Join(g.dir, kernelDir, rel)))
	}
	return err
}

// images makes the initramfs.
func (g stage) images(f found, withFio bool) error {
	tiny, full := newInitramfs(), newInitramfs()
	tiny.add("init", tinyInit())
	if err := full.copy("init", f.bench); err != nil {
		return err
	}
	for _, name := range []string{"busybox", "git", "make"} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = full.program(path)
		}
		if err != nil {
			return err
		}
	}
	err := errors.Join(g.image(tinyImage, tiny), g.image(fullImage, full))
	if withFio && f.peers["fio"] != "" {
		err = errors.Join(err, full.tree(fioDir, filepath.Dir(f.peers["fio"])), g.image(fioImage, full))
	}
	return err
}

// image writes an archive as it is now.
func (g stage) image(name string, a *initramfs) error {
	return os.WriteFile(filepath.Join(g.dir, name), a.finished(), 0o644)
}

// copyTree copies a directory with the modes and times of its files.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return copyFile(path, filepath.Join(to, rel))
	})
}

// libraries returns the loader and the shared libraries of a program; nothing of a
// static one.
func libraries(path string) ([]string, error) {
	out, err := exec.Command("ldd", path).CombinedOutput()
	if strings.Contains(string(out), "not a dynamic executable") || strings.Contains(string(out), "statically linked") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", path, err, out)
	}
	var list []string
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) { // "libc.so.6 => /path/libc.so.6 (0x...)", "/lib64/ld... (0x...)"
			if strings.HasPrefix(word, "/") {
				list = append(list, word)
			}
		}
	}
	return list, nil
}

// program is one in the stage, with its libraries in lib/ and its data in share/ beside
// bin/.
type program struct{ dir, name string }

const loader = "ld-linux-x86-64.so.2"

// args is how to start it.
func (p program) args(more ...string) []string {
	lib := filepath.Join(p.dir, "lib")
	return append([]string{filepath.Join(lib, loader), "--library-path", lib, filepath.Join(p.dir, "bin", p.name)}, more...)
}

// stageInstalled copies an installed program to a directory.
func stageInstalled(path, dir string) error {
	list, err := libraries(path)
	if err != nil {
		return err
	}
	for _, lib := range list {
		if err := copyFile(lib, filepath.Join(dir, "lib", filepath.Base(lib))); err != nil {
			return err
		}
	}
	return copyFile(path, filepath.Join(dir, "bin", filepath.Base(path)))
}

// stagePeer copies what scripts/peers has made: bin/NAME and lib/ beside the NAME that
// starts them.
func stagePeer(path, dir string) error {
	from := filepath.Dir(path)
	return errors.Join(copyTree(filepath.Join(from, "lib"), filepath.Join(dir, "lib")),
		copyFile(filepath.Join(from, "bin", filepath.Base(path)), filepath.Join(dir, "bin", filepath.Base(path))))
}

// firmware is what QEMU loads on the way to a kernel that is given to it.
var firmware = []string{"bios-microvm.bin", "bios-256k.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"}

// stageFirmware copies QEMU's firmware from where its packages have it to share/.
func stageFirmware(dir string, from ...string) error {
	for _, name := range firmware {
		err := os.ErrNotExist
		for _, d := range from {
			if err = copyFile(filepath.Join(d, name), filepath.Join(dir, "share", name)); !errors.Is(err, os.ErrNotExist) {
				break
			}
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) { // not every version has each
			return err
		}
	}
	return nil
}

// copyFile copies a file with its mode and time, and makes the directories above it.
func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return errors.Join(dst.Close(), os.Chtimes(to, info.ModTime(), info.ModTime()))
}
