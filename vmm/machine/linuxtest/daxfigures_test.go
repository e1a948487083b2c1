package linuxtest

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"tenon/vmm/config"
)

// TestDAXMemory has guests read one file, each all of it: through windows the host
// holds it once, and without one every guest has a copy of its own besides. With
// TENON_TEST_GUESTS=8 TENON_TEST_SHARED_MIB=256 it needs LAB_MEMORY=8G.
func TestDAXMemory(t *testing.T) {
	withGuests(t, func(c *crew) {
		guests, mib := knob(t, "TENON_TEST_GUESTS", 2), knob(t, "TENON_TEST_SHARED_MIB", 32)
		dir := scratch(t)
		window := uint64(64 << 20) // twice what is read, and no less than the least
		for window < uint64(mib)<<21 {
			window *= 2
		}
		for range guests {
			c.start("-c", "1", "-m", fmt.Sprintf("%dM", 256+mib*3/2), "-v", fmt.Sprintf("%s:/dax,ro,dax=always,dax-window=%s", dir, config.FormatSize(window)),
				"-v", dir+":/plain,ro,dax=never,cache=always")
		}
		c.step("reading", func(t *testing.T) {
			var lines []string
			for _, mount := range []string{"dax", "plain"} {
				cached, anonymous := readEverywhere(t, c.guests, filepath.Join(dir, mount), "/"+mount+"/"+mount, mib)
				lines = append(lines, fmt.Sprintf("| %s | %d | %d | %d |", map[string]string{"dax": "`dax=always`", "plain": "`dax=never,cache=always`"}[mount], mib, cached, anonymous))
				if cached != mib {
					t.Errorf("%s: the host's page cache holds %d MiB of the file, want %d", mount, cached, mib)
				}
				if share := anonymous / guests; mount == "dax" && share > mib/4 || mount == "plain" && share < mib*3/4 {
					t.Errorf("%s: memory of its own grew by %d MiB a guest, which read %d MiB", mount, share, mib)
				}
			}
			t.Logf("memory that %d guests take by reading one file, in MiB:\n| share | file | host page cache | guests' own memory |\n|---|---|---|---|\n%s", guests, strings.Join(lines, "\n"))
		})
	})
}

// readEverywhere makes a file that is in no cache and has every guest read it. It
// returns how much of it the host's page cache then holds, and by how much the memory
// grew that belongs to the guests alone, in MiB.
func readEverywhere(t *testing.T, guests []*guest, path, there string, mib int) (cached, anonymous int) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 1<<20)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range mib {
		_, _ = random.Read(block)
		if _, err := f.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	want := must(t, host{}, "mapping", "sum", path)
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
	if n := cachedMiB(t, f); n != 0 {
		t.Fatalf("%d MiB of the file stay in the page cache", n)
	}
	before, from := anonymousMiB(t, guests), time.Now()
	for _, g := range guests {
		if got := must(t, g, "mapping", "sum", there); got != want {
			t.Errorf("a guest reads %s, the host %s", got, want)
		}
	}
	t.Logf("%s: all have read it after %v", there, time.Since(from).Round(10*time.Millisecond))
	return cachedMiB(t, f), anonymousMiB(t, guests) - before
}

// cachedMiB is how much of a file is in the page cache (cachestat(2)).
func cachedMiB(t *testing.T, f *os.File) int {
	t.Helper()
	var s unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &s, 0)
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("the host's kernel has no cachestat(2): it needs Linux 6.5")
	}
	if err != nil {
		t.Fatal(err)
	}
	return int(s.Cache * uint64(os.Getpagesize()) >> 20)
}

// anonymousMiB is the memory of guests' processes that no file backs, which is RAM
// of the guest for the most part.
func anonymousMiB(t *testing.T, guests []*guest) int {
	t.Helper()
	total := 0
	for _, g := range guests {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "\nRssAnon:")
		field, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		kib, err := strconv.Atoi(field)
		if err != nil {
			t.Fatalf("no RssAnon in %s", b)
		}
		total += kib
	}
	return total >> 10
}

// passSizes is the sizes of files in KiB whose throughput is measured.
var passSizes = []int{4, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384}

// pass is one way to go through files.
type pass struct {
	how  string // read or write
	cold bool   // the guest has nothing of them
}

var passes = []pass{{"read", true}, {"read", false}, {"write", true}, {"write", false}}

func (p pass) String() string {
	if p.cold {
		return p.how + " cold"
	}
	return p.how + " warm"
}

// TestDAXThroughput measures whole files, opened, read or written over, and closed,
// through a window and by requests. In an emulated machine only the ratio of the two
// tells something. The default of dax-min-size comes from here. Without
// TENON_TEST_FIGURES it only goes through one size once.
func TestDAXThroughput(t *testing.T) {
	sizes, rounds := passSizes, knob(t, "TENON_TEST_ROUNDS", 5)
	if os.Getenv("TENON_TEST_FIGURES") == "" {
		sizes, rounds = []int{256}, 1 // the whole table takes minutes
	}
	withGuests(t, func(c *crew) {
		dirs := map[string]string{"/dax": scratch(t), "/requests": scratch(t)}
		const remember = ",entry-timeout=1h,attr-timeout=1h" // lookups are not what is measured
		g := c.start("-c", "1", "-m", "1G", "-v", dirs["/dax"]+":/dax,dax=always,dax-window=256M"+remember,
			"-v", dirs["/requests"]+":/requests,dax=never,cache=auto"+remember)
		var table bytes.Buffer
		w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(w, "KiB\tfiles\tpass\tDAX MiB/s\tleast\tmost\trequests MiB/s\tleast\tmost\tratio\tleast\tmost\t\n")
		wanted := 0
		for _, kib := range sizes {
			files := max(1, min(48, 16<<10/kib)) // 16 MiB, and no more files than the window has ranges for
			c.step(fmt.Sprint(kib, "K"), func(t *testing.T) {
				for _, dir := range dirs {
					fillPass(t, filepath.Join(dir, fmt.Sprint(kib)), kib, files)
				}
				for _, p := range passes {
					p.measure(t, g, kib, files, rounds, w)
				}
				for mount, dir := range dirs {
					checkPass(t, g, mount, dir, kib, files)
				}
			})
			wanted += rounds * files
		}
		w.Flush()
		t.Logf("%d rounds, medians; ratios of the rates, DAX : requests\n%s", rounds, &table)
		c.step("figures", func(t *testing.T) {
			g.end(t)
			if s := g.windows(t)["/dax"]; s.Setups < uint64(wanted) {
				t.Errorf("%d mappings, though %d files were new to the guest", s.Setups, wanted)
			}
			requests := g.figures(t).Requests
			if n := requests[g.tags["/requests"]]["READ"]; n < wanted {
				t.Errorf("%d READ requests, though %d files were new to the guest", n, wanted)
			}
			if n := requests[g.tags["/dax"]]["READ"]; n != 0 {
				t.Errorf("%d READ requests on the share with DAX", n)
			}
		})
	})
}

// The bytes of files before and after they were written over.
const passOld, passNew = 'o', 'n'

// fillPass makes the files of one size.
func fillPass(t *testing.T, dir string, kib, files int) {
	t.Helper()
	must(t, host{}, "mkdir", dir)
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), bytes.Repeat([]byte{passOld}, kib<<10), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	unix.Sync()
}

// measure goes through the files, by turns with DAX and without it, and adds a line
// to the table.
func (p pass) measure(t *testing.T, g *guest, kib, files, rounds int, table *tabwriter.Writer) {
	t.Helper()
	var rates [2][]float64 // MiB/s
	var ratios []float64
	for round := range rounds {
		for i, mount := range []string{"/dax", "/requests"} {
			dir := fmt.Sprint(mount, "/", kib)
			args := []string{"pass", p.how, dir, fmt.Sprint(kib << 10), fmt.Sprint(files)}
			if p.cold {
				must(t, g, "mapping", "cool", dir, fmt.Sprint(files))
			} else {
				must(t, g, "mapping", args...)
			}
			ns, err := strconv.Atoi(must(t, g, "mapping", args...))
			if err != nil {
				t.Fatal(err)
			}
			rates[i] = append(rates[i], float64(files*kib)/1024/time.Duration(ns).Seconds())
		}
		ratios = append(ratios, rates[0][round]/rates[1][round])
	}
	spread := func(list []float64) string {
		slices.Sort(list)
		return fmt.Sprintf("%.3g\t%.3g\t%.3g", list[len(list)/2], list[0], list[len(list)-1])
	}
	fmt.Fprintf(table, "%d\t%d\t%v\t%s\t%s\t%s\t\n", kib, files, p, spread(rates[0]), spread(rates[1]), spread(ratios))
}

// checkPass wants the bytes right that were written over, there and here.
func checkPass(t *testing.T, g *guest, mount, dir string, kib, files int) {
	t.Helper()
	sum := crc32.Checksum(bytes.Repeat([]byte{passNew}, kib<<10), crc32.MakeTable(crc32.Castagnoli))
	want := fmt.Sprintf("%d bytes, CRC-32C %08x", kib<<10, sum)
	for _, p := range []place{{g, "the guest", mount}, {host{}, "the host", dir}} {
		for i := range files {
			path := fmt.Sprintf("%s/%d/%d", p.dir, kib, i)
			if got := must(t, p, "mapping", "sum", path); got != want {
				t.Errorf("%s reads %s as %s, want %s", p.name, path, got, want)
			}
		}
	}
}

// opCool empties the caches but for the names and attributes of files.
func opCool(args []string) (string, error) {
	files, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	unix.Sync() // what is dirty is not dropped
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return "", err
	}
	for i := range files {
		if _, err := os.Stat(filepath.Join(args[0], strconv.Itoa(i))); err != nil {
			return "", err
		}
	}
	return "", nil
}

// opPass goes through files once, as fast as it can, and returns how long it took.
func opPass(args []string) (string, error) {
	how, dir := args[0], args[1]
	n, err := numbers(args[2:])
	if err != nil {
		return "", err
	}
	size, files := n[0], n[1]
	flags, move := unix.O_RDONLY, unix.Read
	if how == "write" {
		flags, move = unix.O_WRONLY, unix.Write
	}
	buffer := bytes.Repeat([]byte{passNew}, min(size, 128<<10))
	from := time.Now()
	for i := range files {
		if err := passFile(filepath.Join(dir, strconv.Itoa(i)), flags, size, buffer, move); err != nil {
			return "", err
		}
	}
	return strconv.FormatInt(time.Since(from).Nanoseconds(), 10), nil
}

// passFile moves all bytes of a file.
func passFile(path string, flags, size int, buffer []byte, move func(fd int, p []byte) (int, error)) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for done := 0; done < size && err == nil; {
		var n int
		if n, err = move(fd, buffer); n == 0 && err == nil {
			err = io.ErrUnexpectedEOF
		}
		done += n
	}
	return errors.Join(err, unix.Close(fd))
}
