package linuxtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ops is what a party can be asked to do. Arguments that are no paths or data are
// numbers; the name says which.
var ops = map[string]func(args []string) (string, error){
	"sh":       opShell,                                                                                 // SCRIPT: standard output and error
	"stat":     func(a []string) (string, error) { return statx(a[0]) },                                 // PATH: attributes as JSON
	"read":     func(a []string) (string, error) { b, err := os.ReadFile(a[0]); return string(b), err }, // PATH
	"write":    func(a []string) (string, error) { return "", os.WriteFile(a[0], []byte(a[1]), 0o644) }, // PATH DATA
	"patch":    func(a []string) (string, error) { return "", patch(a[0], a[1]) },                       // PATH DATA: over the first bytes, the size stays
	"append":   func(a []string) (string, error) { return "", appendTimes(a[0], a[1], 1) },              // PATH DATA
	"readlink": func(a []string) (string, error) { return os.Readlink(a[0]) },                           // PATH
	"mkdir":    func(a []string) (string, error) { return "", unix.Mkdir(a[0], 0o755) },                 // PATH
	"unlink":   func(a []string) (string, error) { return "", unix.Unlink(a[0]) },                       // PATH
	"rename":   func(a []string) (string, error) { return "", unix.Rename(a[0], a[1]) },                 // FROM TO
	"list":     func(a []string) (string, error) { return list(a[0]) },                                  // PATH: its names, sorted
	"sync":     func(a []string) (string, error) { return "", syncFile(a[0]) },                          // PATH: fsync
	"syncfs":   func(a []string) (string, error) { return "", syncFS(a[0]) },                            // PATH
	"appends":  opAppends,                                                                               // PATH DATA N: through one open file
	"open":     opOpen,                                                                                  // PATH FLAGS: a number for the open file
	"close":    func(a []string) (string, error) { return "", openFiles.close(a[0]) },                   // FILE
	"flink":    opFlink,                                                                                 // FILE PATH: gives an open file a name
	"fread":    opFread,                                                                                 // FILE: from its beginning
	"fwrite":   opFwrite,                                                                                // FILE DATA
	"fsync":    func(a []string) (string, error) { return "", openFiles.call(a[0], unix.Fsync) },        // FILE
	"flock":    opFlock,                                                                                 // FILE HOW
	"fcntl":    opFcntl,                                                                                 // FILE TYPE WAIT: a lock on all of it
	"openmany": opOpenMany,                                                                              // DIRECTORY N: how many files could be made and stay open
	"closeall": func([]string) (string, error) { return "", openFiles.closeAll() },                      //
	"fill":     opFill,                                                                                  // PATH: writes until that fails
	"storm":    opStorm,                                                                                 // DIRECTORY SEED SECONDS
	"tree":     func(a []string) (string, error) { return tree(a[0]) },                                  // DIRECTORY: everything in it, a line each
	"mapping":  opMapping,                                                                               // WHAT ARG...: see mappingOps
	"count":    opCount,                                                                                 // DIRECTORY: how many entries are below it
}

// perform does an operation; times N OP ARG... does OP so often, and its outcome is
// the last one's.
func perform(op string, args ...string) (out string, err error) {
	if op == "times" {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		for range n {
			out, err = perform(args[1], args[2:]...)
		}
		return out, err
	}
	for _, table := range []map[string]func([]string) (string, error){ops, viewOps} {
		if f, ok := table[op]; ok {
			return f(args)
		}
	}
	return "", fmt.Errorf("there is no operation %q", op)
}

func opShell(args []string) (string, error) {
	cmd := exec.Command("sh", "-c", args[0])
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "TENON_GUEST=") })
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// attributes is what statx(2) told.
type attributes struct {
	Size, Ino, Device   uint64
	Mode, Links         uint32
	UID, GID            uint32
	Modified, Born      int64 // ns since 1970
	HasBirth, MountRoot bool
	DAX                 bool
}

func statx(path string) (string, error) {
	var x unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x); err != nil {
		return "", err
	}
	b, err := json.Marshal(attributes{
		Size: x.Size, Ino: x.Ino, Device: unix.Mkdev(x.Dev_major, x.Dev_minor),
		Mode: uint32(x.Mode), Links: x.Nlink, UID: x.Uid, GID: x.Gid,
		Modified: nanoseconds(x.Mtime), Born: nanoseconds(x.Btime),
		HasBirth: x.Mask&unix.STATX_BTIME != 0, MountRoot: x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		DAX: x.Attributes&unix.STATX_ATTR_DAX != 0,
	})
	return string(b), err
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*int64(time.Second) + int64(t.Nsec) }

// stat is the attributes of a path as the party sees them.
func stat(t *testing.T, p party, path string) attributes {
	t.Helper()
	var a attributes
	if err := json.Unmarshal([]byte(must(t, p, "stat", path)), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func patch(path, data string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(data), 0)
	return errors.Join(err, f.Close())
}

func appendTimes(path, data string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	for range n {
		if _, err = f.WriteString(data); err != nil {
			break
		}
	}
	return errors.Join(err, f.Close())
}

func opAppends(args []string) (string, error) {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return "", err
	}
	return "", appendTimes(args[0], args[1], n)
}

func list(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return strings.Join(names, " "), err
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// files is files that stay open between operations, by number.
type files struct {
	mu   sync.Mutex
	last int
	fds  map[int]int
}

var openFiles = files{fds: make(map[int]int)}

func (f *files) add(fd int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	f.fds[f.last] = fd
	return strconv.Itoa(f.last)
}

func (f *files) get(number string) (int, error) {
	n, err := strconv.Atoi(number)
	if err != nil {
		return -1, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fd, ok := f.fds[n]
	if !ok {
		return -1, unix.EBADF
	}
	return fd, nil
}

func (f *files) call(number string, call func(fd int) error) error {
	fd, err := f.get(number)
	if err != nil {
		return err
	}
	return call(fd)
}

func (f *files) close(number string) error {
	fd, err := f.get(number)
	if err != nil {
		return err
	}
	n, _ := strconv.Atoi(number)
	f.mu.Lock()
	delete(f.fds, n)
	f.mu.Unlock()
	return unix.Close(fd)
}

func (f *files) closeAll() (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, fd := range f.fds {
		err = errors.Join(err, unix.Close(fd))
		delete(f.fds, n)
	}
	return err
}

// retry calls a system call until no signal interrupts it: Go's runtime sends some.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func opOpen(args []string) (string, error) {
	flags, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	fd := -1
	err = retry(func() (err error) {
		fd, err = unix.Open(args[0], flags|unix.O_CLOEXEC, 0o644)
		return err
	})
	if err != nil {
		return "", err
	}
	return openFiles.add(fd), nil
}

func opFlink(args []string) (string, error) {
	return "", openFiles.call(args[0], func(fd int) error {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, args[1], unix.AT_SYMLINK_FOLLOW)
	})
}

func opFread(args []string) (string, error) {
	b := make([]byte, 64<<10)
	n := 0
	err := openFiles.call(args[0], func(fd int) (err error) {
		n, err = unix.Pread(fd, b, 0)
		return err
	})
	return string(b[:max(n, 0)]), err
}

func opFwrite(args []string) (string, error) {
	return "", openFiles.call(args[0], func(fd int) error {
		n, err := unix.Write(fd, []byte(args[1]))
		if err == nil && n != len(args[1]) {
			err = fmt.Errorf("%d bytes were written", n)
		}
		return err
	})
}

func opFlock(args []string) (string, error) {
	how, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	return "", openFiles.call(args[0], func(fd int) error {
		return retry(func() error { return unix.Flock(fd, how) })
	})
}

func opFcntl(args []string) (string, error) {
	kind, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	command := unix.F_SETLK
	if args[2] == "wait" {
		command = unix.F_SETLKW
	}
	return "", openFiles.call(args[0], func(fd int) error {
		return retry(func() error { return unix.FcntlFlock(uintptr(fd), command, &unix.Flock_t{Type: int16(kind)}) })
	})
}

// opOpenMany makes files that stay open until one cannot be; its errno is the error.
func opOpenMany(args []string) (string, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	for i := range n {
		fd, err := unix.Open(filepath.Join(args[0], fmt.Sprintf("open-%05d", i)), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return strconv.Itoa(i), err
		}
		openFiles.add(fd)
	}
	return args[1], nil
}

// opFill writes and syncs until that fails, and says how much was written by then.
func opFill(args []string) (string, error) {
	f, err := os.Create(args[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	block := bytes.Repeat([]byte("full "), 64<<10/5)
	for total := 0; ; {
		n, err := f.Write(block)
		total += n
		if err == nil {
			err = f.Sync()
		}
		if err != nil || total > 1<<30 {
			return strconv.Itoa(total), err
		}
	}
}

// opStorm creates, writes, links, renames and removes files for so many seconds, in a
// directory where others do the same: that names are missing or there already is
// part of it. It returns how much it did.
func opStorm(args []string) (string, error) {
	seed, err1 := strconv.ParseUint(args[1], 10, 64)
	seconds, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	random := rand.New(rand.NewPCG(seed, seed))
	done, refused := 0, 0
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); done++ {
		what, err := stormOnce(args[0], seed, random)
		switch {
		case err == nil:
		case expectedInStorm(err):
			refused++
		default:
			return fmt.Sprintf("%s, after %d operations", what, done), err
		}
	}
	return fmt.Sprintf("%d operations, %d of them refused", done, refused), nil
}

func stormOnce(dir string, seed uint64, random *rand.Rand) (what string, err error) {
	sub := func() string { return filepath.Join(dir, fmt.Sprintf("d%d", random.IntN(4))) }
	name := func() string { return filepath.Join(sub(), fmt.Sprintf("f%d", random.IntN(24))) }
	from, to := name(), name()
	switch random.IntN(10) {
	case 0:
		from = sub()
		return "mkdir " + from, unix.Mkdir(from, 0o755)
	case 1:
		from, to = sub(), sub()
		return "rename " + from + " " + to, unix.Rename(from, to)
	case 2, 3, 4:
		return "write " + from, os.WriteFile(from, bytes.Repeat([]byte{byte('a' + seed)}, random.IntN(9000)), 0o644)
	case 5, 6:
		return "rename " + from + " " + to, unix.Rename(from, to)
	case 7:
		return "link " + from + " " + to, unix.Link(from, to)
	case 8:
		return "symlink " + from + " " + to, unix.Symlink(from, to)
	default:
		return "unlink " + from, unix.Unlink(from)
	}
}

func expectedInStorm(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.EEXIST, unix.ENOTEMPTY, unix.EISDIR, unix.ENOTDIR, unix.EINVAL, unix.ELOOP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// tree describes everything below a directory: type and mode, size, content.
func tree(root string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		content, size := "", info.Size()
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%x", sha256.Sum256(data))
			if int64(len(data)) != size {
				content += fmt.Sprintf(" but %d bytes", len(data))
			}
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		default:
			size = 0
		}
		fmt.Fprintf(&b, "%s %v %d %s\n", name, info.Mode(), size, content)
		return nil
	})
	return b.String(), err
}

func opCount(args []string) (string, error) {
	n := 0
	err := filepath.WalkDir(args[0], func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			n++
			_, err = e.Info() // lstat(2)
		}
		return err
	})
	return strconv.Itoa(n), err
}
