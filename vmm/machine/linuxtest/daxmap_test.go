package linuxtest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/dax"
)

const (
	pageSize = dax.PageSize
	pageWord = pageSize / 8 // words in a page
)

// mappingOps is what the operation "mapping" can be asked for: work on files that
// the agent maps into its memory.
var mappingOps = map[string]func(args []string) (string, error){
	"map":      opMap,                                                                 // PATH BYTES: a number for the mapping
	"load":     opLoad,                                                                // MAPPING PAGE: its first word, or what fault came
	"store":    opStore,                                                               // MAPPING PAGE WORD: what fault came
	"pread":    opPread,                                                               // FILE PAGE: the first word of an open file's page
	"sum":      opSum,                                                                 // PATH: of all bytes
	"count":    opIncrement,                                                           // PATH PAGES TIMES PARTIES: exchanges that came too late
	"counters": opCounters,                                                            // PATH: a line each
	"send":     opSend,                                                                // PATH TIMES
	"receive":  opReceive,                                                             // PATH TIMES
	"storm":    opMappedStorm,                                                         // PATH SEED SECONDS: a stormTally
	"progress": func([]string) (string, error) { return stormProgress.String(), nil }, // of the storm that runs
	"cool":     opCool,                                                                // DIRECTORY FILES
	"pass":     opPass,                                                                // read|write DIRECTORY BYTES FILES: nanoseconds
}

func opMapping(args []string) (string, error) {
	f, ok := mappingOps[args[0]]
	if !ok {
		return "", fmt.Errorf("there is no operation on mappings %q", args[0])
	}
	return f(args[1:])
}

// numbers reads all of them.
func numbers(args []string) (list []int, err error) {
	for _, a := range args {
		n, e := strconv.Atoi(a)
		list, err = append(list, n), errors.Join(err, e)
	}
	return list, err
}

// mapping is a file in memory, shared with whoever else maps it.
type mapping struct {
	bytes []byte
	words []atomic.Uint64
}

// mapShared maps so many bytes of a file, which may be shorter.
func mapShared(path string, size int) (*mapping, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &mapping{b, wordsOf(b)}, nil
}

// mapWhole maps a file from its beginning to its end.
func mapWhole(path string) (*mapping, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return mapShared(path, int(fi.Size()))
}

func (m *mapping) close() error { return unix.Munmap(m.bytes) }

// page is the first word of a page.
func (m *mapping) page(n int) *atomic.Uint64 { return &m.words[n*pageWord] }

// bus is a SIGBUS that a load or store caused.
type bus uint8

const (
	noBus      bus = iota
	machineBus     // it says no address: the kernel passed on a machine check, which comes from Tenon
	kernelBus      // it says the address: the guest's own kernel knows that there is nothing
)

func (b bus) String() string { return [...]string{"", "SIGBUS by machine check", "SIGBUS"}[b] }

// attempt does what may fault, and says whether it did.
func attempt(touch func()) (fault bus) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // runtime.Error of a fault
			if fault = kernelBus; r.Addr() == 0 {
				fault = machineBus
			}
		default:
			panic(r)
		}
	}()
	touch()
	return noBus
}

// mappings is what stays mapped between operations, by number.
type mappings struct {
	mu   sync.Mutex
	list []*mapping
}

var openMappings mappings

func (m *mappings) add(added *mapping) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, added)
	return strconv.Itoa(len(m.list) - 1)
}

// page is the first word of a page of a mapping, both given as numbers.
func (m *mappings) page(args []string) (*atomic.Uint64, error) {
	n, err := numbers(args)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n[0] >= len(m.list) || n[1] >= len(m.list[n[0]].words)/pageWord {
		return nil, unix.EBADF
	}
	return m.list[n[0]].page(n[1]), nil
}

func opMap(args []string) (string, error) {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	m, err := mapShared(args[0], size)
	if err != nil {
		return "", err
	}
	return openMappings.add(m), nil
}

func opLoad(args []string) (string, error) {
	at, err := openMappings.page(args)
	if err != nil {
		return "", err
	}
	var word uint64
	if fault := attempt(func() { word = at.Load() }); fault != noBus {
		return fault.String(), nil
	}
	return fmt.Sprint(word), nil
}

func opStore(args []string) (string, error) {
	at, err := openMappings.page(args[:2])
	if err != nil {
		return "", err
	}
	word, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return "", err
	}
	return attempt(func() { at.Store(word) }).String(), nil
}

func opPread(args []string) (string, error) {
	page, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	b := make([]byte, 8)
	err = openFiles.call(args[0], func(fd int) error {
		n, err := unix.Pread(fd, b, int64(page*pageSize))
		if err == nil && n != len(b) {
			err = fmt.Errorf("%d bytes were read", n)
		}
		return err
	})
	return fmt.Sprint(binary.NativeEndian.Uint64(b)), err
}

// opSum reads a file as cat(1) does.
func opSum(args []string) (string, error) {
	f, err := os.Open(args[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, make([]byte, 128<<10))
	return fmt.Sprintf("%d bytes, CRC-32C %08x", n, sum.Sum32()), err
}

// neighbour is an agent that is a process of the host: it maps files, which the test
// had better not do itself.
func (c *crew) neighbour() *guest {
	t := c.t
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{cmd: exec.Command(self), waiting: make(map[int]chan answer), gone: make(chan struct{})}
	g.cmd.Env = append(os.Environ(), "TENON_GUEST=agent")
	g.cmd.Stderr = &g.stderr
	if g.stdin, err = g.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.guests = append(c.guests, g)
	go g.listen(stdout)
	return g
}

// windows is the figures of a guest's windows, by mount point. The guest was ended.
func (g *guest) windows(t *testing.T) map[string]dax.Stats {
	t.Helper()
	var report struct {
		DAX map[string]dax.Stats `json:"dax"` // by tag
	}
	b, err := os.ReadFile(g.report)
	if err == nil {
		err = json.Unmarshal(b, &report)
	}
	if err != nil {
		t.Fatal(err)
	}
	windows := make(map[string]dax.Stats)
	for mount, tag := range g.tags {
		if s, ok := report.DAX[tag]; ok {
			windows[mount] = s
		}
	}
	return windows
}
