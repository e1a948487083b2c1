package linuxtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// viewOps is what a party can be asked to do with memory that shows an open file, and
// with open files beside. Numbers are decimal or begin with 0x. A load or store that
// faults is EFAULT.
var viewOps = map[string]func(args []string) (string, error){
	"view":   opView,   // FILE OFFSET LENGTH r|rw shared|private: a number for the view
	"unview": opUnview, // VIEW
	"peek":   opPeek,   // VIEW OFFSET LENGTH: the bytes
	"poke":   opPoke,   // VIEW OFFSET DATA
	"msync": func(a []string) (string, error) {
		return "", openViews.call(a[0], func(b []byte) error { return unix.Msync(b, unix.MS_SYNC) })
	}, // VIEW
	"viewsum":     opViewSum,                                                  // VIEW OFFSET LENGTH
	"readinto":    opReadInto,                                                 // VIEW AT LENGTH FILE OFFSET: pread(2) to a view
	"writefrom":   opWriteFrom,                                                // VIEW AT LENGTH FILE OFFSET: pwrite(2) from one, or write(2) with an offset of -
	"throughpipe": opThroughPipe,                                              // VIEW AT LENGTH: write(2) from it, and what came out of the pipe
	"sendfile":    opSendfile,                                                 // FILE LENGTH: sendfile(2) from its beginning, and what came out
	"filesum":     opFileSum,                                                  // FILE: of all it holds, by read(2)
	"preads":      opPreads,                                                   // FILE OFFSET LENGTH: the bytes
	"pwrites":     opPwrites,                                                  // FILE OFFSET DATA
	"truncate":    opTruncate,                                                 // PATH SIZE
	"fallocate":   opFallocate,                                                // FILE MODE OFFSET LENGTH
	"mountdax":    opMountDAX,                                                 // TAG DIRECTORY rw|ro OPTIONS
	"window":      func(a []string) (string, error) { return windowOf(a[0]) }, // TAG: address and length of its DAX window, or nothing
	"churn":       opChurn,                                                    // DIRECTORY FILES SIZE ACCESSES
}

// views is files in memory between operations, by number.
type views struct {
	mu   sync.Mutex
	last int
	list map[int][]byte
}

var openViews = views{list: make(map[int][]byte)}

func (v *views) add(b []byte) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last++
	v.list[v.last] = b
	return strconv.Itoa(v.last)
}

func (v *views) call(number string, call func(b []byte) error) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	v.mu.Lock()
	b, ok := v.list[n]
	v.mu.Unlock()
	if !ok {
		return unix.EBADF
	}
	return call(b)
}

// piece calls with a part of a view.
func (v *views) piece(number, at, length string, call func(b []byte) error) error {
	from, err1 := strconv.ParseInt(at, 0, 64)
	n, err2 := strconv.ParseInt(length, 0, 64)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return v.call(number, func(b []byte) error {
		if from < 0 || n < 0 || from+n > int64(len(b)) {
			return fmt.Errorf("%d bytes at %d are not in a view of %d bytes", n, from, len(b))
		}
		return call(b[from : from+n])
	})
}

func opView(args []string) (string, error) {
	at, err1 := strconv.ParseInt(args[1], 0, 64)
	n, err2 := strconv.ParseInt(args[2], 0, 64)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	prot := map[string]int{"r": unix.PROT_READ, "rw": unix.PROT_READ | unix.PROT_WRITE}[args[3]]
	flags := map[string]int{"shared": unix.MAP_SHARED, "private": unix.MAP_PRIVATE}[args[4]]
	number := ""
	return number, openFiles.call(args[0], func(fd int) error {
		b, err := unix.Mmap(fd, at, int(n), prot, flags)
		if err == nil {
			number = openViews.add(b)
		}
		return err
	})
}

func opUnview(args []string) (string, error) {
	return "", openViews.call(args[0], func(b []byte) error {
		n, _ := strconv.Atoi(args[0])
		openViews.mu.Lock()
		delete(openViews.list, n)
		openViews.mu.Unlock()
		return unix.Munmap(b)
	})
}

// touch does what may fault.
func touch(f func()) error {
	if attempt(f) != noBus {
		return unix.EFAULT
	}
	return nil
}

func opPeek(args []string) (out string, err error) {
	err = openViews.piece(args[0], args[1], args[2], func(b []byte) error {
		return touch(func() { out = string(b) })
	})
	return out, err
}

func opPoke(args []string) (string, error) {
	return "", openViews.piece(args[0], args[1], fmt.Sprint(len(args[2])), func(b []byte) error {
		return touch(func() { copy(b, args[2]) })
	})
}

func opViewSum(args []string) (out string, err error) {
	err = openViews.piece(args[0], args[1], args[2], func(b []byte) error {
		return touch(func() { out = fmt.Sprintf("%x", sha256.Sum256(b)) })
	})
	return out, err
}

// moved is the error of a system call that moved n of so many bytes.
func moved(n, want int, err error) error {
	if err == nil && n != want {
		err = fmt.Errorf("%d of %d bytes", n, want)
	}
	return err
}

func opReadInto(args []string) (string, error) {
	at, err := strconv.ParseInt(args[4], 0, 64)
	if err != nil {
		return "", err
	}
	return "", openViews.piece(args[0], args[1], args[2], func(b []byte) error {
		return openFiles.call(args[3], func(fd int) error {
			n, err := unix.Pread(fd, b, at)
			return moved(n, len(b), err)
		})
	})
}

func opWriteFrom(args []string) (string, error) {
	return "", openViews.piece(args[0], args[1], args[2], func(b []byte) error {
		return openFiles.call(args[3], func(fd int) error {
			if args[4] == "-" {
				n, err := unix.Write(fd, b)
				return moved(n, len(b), err)
			}
			at, err := strconv.ParseInt(args[4], 0, 64)
			if err != nil {
				return err
			}
			n, err := unix.Pwrite(fd, b, at)
			return moved(n, len(b), err)
		})
	})
}

// drained returns the sum of what f writes to a pipe.
func drained(f func(w *os.File) error) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	wrote := make(chan error, 1)
	go func() { wrote <- errors.Join(f(w), w.Close()) }()
	sum := sha256.New()
	_, err = io.Copy(sum, r)
	return fmt.Sprintf("%x", sum.Sum(nil)), errors.Join(err, <-wrote)
}

func opThroughPipe(args []string) (out string, err error) {
	err = openViews.piece(args[0], args[1], args[2], func(b []byte) error {
		out, err = drained(func(w *os.File) error {
			_, err := w.Write(b)
			return err
		})
		return err
	})
	return out, err
}

func opSendfile(args []string) (out string, err error) {
	n, err := strconv.ParseInt(args[1], 0, 64)
	if err != nil {
		return "", err
	}
	err = openFiles.call(args[0], func(fd int) error {
		out, err = drained(func(w *os.File) error {
			for at := int64(0); at < n; {
				sent, err := unix.Sendfile(int(w.Fd()), fd, &at, int(n-at))
				if err != nil && err != unix.EINTR {
					return err
				}
				if err == nil && sent == 0 {
					return io.ErrUnexpectedEOF
				}
			}
			return nil
		})
		return err
	})
	return out, err
}

func opFileSum(args []string) (out string, err error) {
	err = openFiles.call(args[0], func(fd int) error {
		sum, b := sha256.New(), make([]byte, 256<<10)
		for at := int64(0); ; {
			n, err := unix.Pread(fd, b, at)
			if err != nil || n == 0 {
				out = fmt.Sprintf("%x", sum.Sum(nil))
				return err
			}
			sum.Write(b[:n])
			at += int64(n)
		}
	})
	return out, err
}

func opPreads(args []string) (string, error) {
	at, err1 := strconv.ParseInt(args[1], 0, 64)
	n, err2 := strconv.ParseInt(args[2], 0, 64)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	b := make([]byte, n)
	got := 0
	err := openFiles.call(args[0], func(fd int) (err error) {
		got, err = unix.Pread(fd, b, at)
		return err
	})
	return string(b[:max(got, 0)]), err
}

func opPwrites(args []string) (string, error) {
	at, err := strconv.ParseInt(args[1], 0, 64)
	if err != nil {
		return "", err
	}
	return "", openFiles.call(args[0], func(fd int) error {
		n, err := unix.Pwrite(fd, []byte(args[2]), at)
		return moved(n, len(args[2]), err)
	})
}

func opTruncate(args []string) (string, error) {
	n, err := strconv.ParseInt(args[1], 0, 64)
	if err != nil {
		return "", err
	}
	return "", retry(func() error { return unix.Truncate(args[0], n) })
}

func opFallocate(args []string) (string, error) {
	mode, err1 := strconv.ParseUint(args[1], 0, 32)
	at, err2 := strconv.ParseInt(args[2], 0, 64)
	n, err3 := strconv.ParseInt(args[3], 0, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return "", err
	}
	return "", openFiles.call(args[0], func(fd int) error {
		return retry(func() error { return unix.Fallocate(fd, uint32(mode), at, n) })
	})
}

// opMountDAX mounts a share and makes the directory for it.
func opMountDAX(args []string) (string, error) {
	if err := os.MkdirAll(args[1], 0o755); err != nil {
		return "", err
	}
	flags := map[string]uintptr{"rw": 0, "ro": unix.MS_RDONLY}[args[2]]
	return "", unix.Mount(args[0], args[1], "virtiofs", flags, args[3])
}

// windowOf finds a share's device by its tag, and the biggest of its BARs: the window
// if it is a window's size.
func windowOf(tag string) (string, error) {
	tags, err := filepath.Glob("/sys/fs/virtiofs/*/tag")
	if err != nil {
		return "", err
	}
	for _, file := range tags {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if strings.TrimSpace(string(b)) != tag {
			continue
		}
		device, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(file), "device"))
		if err != nil {
			return "", err
		}
		return biggestBAR(filepath.Dir(device))
	}
	return "", fmt.Errorf("no device with the tag %q among %v", tag, tags)
}

// biggestBAR reads a PCI device's list of BARs; nothing is one below 2 MiB.
func biggestBAR(device string) (string, error) {
	b, err := os.ReadFile(filepath.Join(device, "resource"))
	if err != nil {
		return "", err
	}
	found := ""
	most := uint64(2<<20 - 1)
	for line := range strings.Lines(string(b)) {
		var first, last, flags uint64
		if _, err := fmt.Sscanf(line, "%v %v %v", &first, &last, &flags); err != nil {
			return "", err
		}
		if last > first && last-first+1 > most {
			found, most = fmt.Sprintf("%d %d", first, last-first+1), last-first+1
		}
	}
	return found, nil
}

// touchMapped is a program that maps a file, loads or stores one byte and ends; or is
// killed by it: Go's runtime then says by which signal.
func touchMapped(args []string) error {
	at, err := strconv.ParseInt(args[1], 0, 64)
	if err != nil {
		return err
	}
	fd, err := unix.Open(args[0], unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	b, err := unix.Mmap(fd, at&^4095, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if args[2] == "store" {
		b[at&4095] = 'S'
		return nil
	}
	fmt.Println(b[at&4095])
	return nil
}
