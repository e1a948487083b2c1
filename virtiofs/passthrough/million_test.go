package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
)

// filesPerDirectory of TestMillion.
const filesPerDirectory = 1000

// manyFiles is how many files TestMillion walks: TENON_TEST_FILES, which it takes
// 1,000,000 to be, or fewer so that the test is quick.
func manyFiles(t *testing.T) int {
	s := os.Getenv("TENON_TEST_FILES")
	if s == "" {
		return 50 * filesPerDirectory
	}
	n, err := strconv.Atoi(s)
	check(t, err)
	return n / filesPerDirectory * filesPerDirectory
}

// forest makes a tree of so many files, on a file system in memory if it can.
func forest(t *testing.T, files int) string {
	parent := ""
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Type == typeTmpfs && st.Bavail > uint64(files) && st.Ffree > uint64(files)+uint64(files)/50 {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "tenon-forest-")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	for d := range files / filesPerDirectory {
		sub := filepath.Join(dir, fmt.Sprintf("directory-%04d", d))
		check(t, os.Mkdir(sub, 0o755))
		for i := range filesPerDirectory {
			check(t, unix.Mknod(filepath.Join(sub, fmt.Sprintf("file-%06d.c", i)), unix.S_IFREG|0o644, 0))
		}
	}
	return dir
}

// heapInUse and resident are bytes of memory after a garbage collection: what is in
// use, and what the system has given to the process.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func resident(t *testing.T) int64 {
	b, err := os.ReadFile("/proc/self/statm")
	check(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	check(t, err)
	return pages * int64(os.Getpagesize())
}

// list reads a directory with attributes, as find(1) does, and looks some of the
// names up once more. Every lookup is noted.
func list(t *testing.T, c *fstest.Conn, dir virtiofs.NodeID, told *[]virtiofs.NodeID) (found []fstest.Dirent) {
	h, e := c.Opendir(dir)
	if e != 0 {
		t.Fatal("OPENDIR: ", e)
	}
	for cookie := uint64(0); ; {
		part, e := c.Readdir(dir, h, cookie, 32<<10, true)
		if e != 0 {
			t.Fatal("READDIRPLUS: ", e)
		}
		if len(part) == 0 {
			break
		}
		cookie = part[len(part)-1].Next
		for i, d := range part {
			if d.Entry.Node == 0 {
				continue // "." and ".."
			}
			*told = append(*told, d.Entry.Node)
			found = append(found, d)
			if i%10 == 0 {
				again, e := c.Lookup(dir, d.Name)
				if e != 0 || again.Node != d.Entry.Node {
					t.Fatalf("LOOKUP %s: node %d, in READDIRPLUS %d, %v", d.Name, again.Node, d.Entry.Node, e)
				}
				*told = append(*told, again.Node)
			}
		}
	}
	if e := c.Release(dir, h, true); e != 0 {
		t.Fatal("RELEASEDIR: ", e)
	}
	return found
}

// TestMillion: a guest walks many more files than the process may have
// descriptors, uses them, and forgets them.
func TestMillion(t *testing.T) {
	files := manyFiles(t)
	dir := forest(t, files)
	eachMode(t, func(t *testing.T, o Options) {
		limit := int64(512)
		if b, err := NewBudget(); err == nil && b.limit < limit {
			limit = b.limit
		}
		f := shareDir(t, dir, limit, o)
		c := fstest.Dial(t, virtiofs.NewServer(f, virtiofs.Options{}))
		if _, e := c.Init(fstest.AllFlags); e != 0 {
			t.Fatal(e)
		}
		nodes := files + files/filesPerDirectory
		told := make([]virtiofs.NodeID, nodes+nodes/8)
		for i := range told {
			told[i] = 1 // resident from now on
		}
		told = told[:0]
		held, resided, start := heapInUse(), resident(t), time.Now()
		for _, d := range list(t, c, fuse.RootID, &told) {
			for i, x := range list(t, c, d.Entry.Node, &told) {
				if a, e := c.Getattr(x.Entry.Node); i%10 == 0 && (e != 0 || a.Ino != x.Ino) {
					t.Fatalf("GETATTR %s: inode %d for %d, %v", x.Name, a.Ino, x.Ino, e)
				}
			}
		}
		took := time.Since(start)
		grown := resident(t) - resided
		used := heapInUse() - held
		s := f.Stats()
		if s.Nodes != int64(nodes) || s.Descriptors > limit || s.Files != 0 || descriptors(t) > int(limit)+100 {
			t.Errorf("%+v, %d descriptors; want %d nodes", s, descriptors(t), nodes)
		}
		each := used / int64(nodes)
		t.Logf("%d files, at most %d descriptors: %.1f s; %d bytes of heap for each inode, %d resident before collection",
			files, limit, took.Seconds(), each, grown/int64(nodes))
		if each > 200 {
			t.Errorf("%d bytes for each inode", each)
		}
		for _, id := range told {
			c.Forget(id, 1)
		}
		if s := f.Stats(); s != (Stats{}) || f.budget.Used() != 0 {
			t.Errorf("after FORGET: %+v, %d descriptors", s, f.budget.Used())
		}
		if left := heapInUse() - held; left > used/4 {
			t.Errorf("%d bytes are left of %d", left, used)
		}
	})
}
