package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultKernel and hostKernel are names --kernel knows without a file of that name.
const (
	defaultKernel = "default" // the cache's own link, made by scripts/kernel
	hostKernel    = "host"
)

// kernel is a kernel found on the host, with absolute paths.
type kernel struct {
	Image   string
	Modules string // lib/modules/RELEASE; empty: none found
}

// kernelNames are the files a directory's kernel can be, in the order they are
// tried: the cache and Debian's packages, a copied kernel, a build tree (its
// bzImage before the vmlinux full of debug information).
var kernelNames = []string{"vmlinuz", "bzImage", "arch/x86/boot/bzImage", "vmlinux"}

// findKernel resolves what --kernel names: a file, a directory that holds a kernel,
// host, or a kernel of the cache. Empty is the cache's default. An image that does
// not exist is not its error but Validate's.
func findKernel(name string) (kernel, error) {
	switch name {
	case hostKernel:
		return runningKernel()
	case "":
		return cachedKernel(defaultKernel)
	}
	info, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) && !strings.Contains(name, "/") {
		if k, err := cachedKernel(name); err == nil && exists(k.Image) {
			return k, nil
		}
	}
	image, err2 := filepath.Abs(name)
	if err2 != nil {
		return kernel{}, fmt.Errorf("kernel %s: %w: write its absolute path", name, err2)
	}
	if err == nil && info.IsDir() {
		return kernelIn(image)
	}
	return kernel{Image: image, Modules: modulesFor(image)}, nil
}

// kernelIn finds the kernel in a directory.
func kernelIn(dir string) (kernel, error) {
	for _, name := range kernelNames {
		if image := filepath.Join(dir, name); exists(image) {
			return kernel{Image: image, Modules: modulesFor(image)}, nil
		}
	}
	return kernel{}, fmt.Errorf("kernel directory %s holds none of %s: name the file with -k FILE", dir, strings.Join(kernelNames, ", "))
}

// runningKernel is the kernel this host runs: in /boot, or beside its modules where
// distributions keep it there.
func runningKernel() (kernel, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return kernel{}, fmt.Errorf("uname, for the running kernel: %w: name a kernel with -k FILE", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	modules := filepath.Join("/lib/modules", release)
	k := kernel{Image: "/boot/vmlinuz-" + release}
	if beside := filepath.Join(modules, "vmlinuz"); !exists(k.Image) && exists(beside) {
		k.Image = beside
	}
	if exists(modules) {
		k.Modules = modules
	}
	return k, nil
}

// cachedKernel is the kernel the cache knows by a release or by one of its links.
func cachedKernel(name string) (kernel, error) {
	cache, err := cacheDir()
	if err != nil {
		return kernel{}, err
	}
	dir := filepath.Join(cache, "kernels", name)
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // reports and the kernel's modules go by its release
	}
	image := filepath.Join(dir, "vmlinuz")
	return kernel{Image: image, Modules: modulesFor(image)}, nil
}

// modulesFor finds the modules of a kernel image: lib/modules/RELEASE below its
// directory, as in the cache, or beside its directory, as in a system's /boot.
// RELEASE is what follows "vmlinuz-" or the only directory there.
func modulesFor(image string) string {
	dir := filepath.Dir(image)
	_, release, named := strings.Cut(filepath.Base(image), "-")
	for _, base := range []string{dir, filepath.Dir(dir)} {
		all := filepath.Join(base, "lib/modules")
		if named && exists(filepath.Join(all, release)) {
			return filepath.Join(all, release)
		}
		entries, err := os.ReadDir(all)
		if base == dir && err == nil && len(entries) == 1 {
			return filepath.Join(all, entries[0].Name())
		}
	}
	return ""
}

// cacheDir is where kernels and what is made of them are kept.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory for kernels: %w: set HOME or XDG_CACHE_HOME, or name a kernel with -k FILE", err)
	}
	return filepath.Join(dir, "tenon"), nil
}

// unpackedDir is where unpacked kernels are kept; empty: nowhere, as without a home.
func unpackedDir() string {
	dir, err := cacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "vmlinux")
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
