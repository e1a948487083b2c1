package machine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/dax"
	"tenon/vmm/config"
)

const page = dax.PageSize

// soon waits until something is so.
func soon(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 seconds: %s", what)
		}
	}
}

// contents is what is in a file.
func contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// TestGuestReadsWindow: every kind of page a window can show, as a guest sees it.
func TestGuestReadsWindow(t *testing.T) {
	g := newDAXGuest(t, guestOptions{policy: config.DAXFaultZero})
	path := g.file(1, 4*page)
	g.file(2, 8*page)
	if got := g.load(3 * page); got != 0 {
		t.Errorf("an unmapped page reads %#x", got)
	}
	g.show(1, 0, dax.RangeSize, true)
	for i := range 4 {
		if got := g.load(uint64(i)*page + 17); got != pageName(i) {
			t.Errorf("page %d reads %#x, want %#x", i, got, pageName(i))
		}
	}
	if got := g.load(4 * page); got != 0 {
		t.Errorf("beyond the end of the file is %#x", got)
	}
	if s := g.window.Stats(); s.Truncated != 1 || s.Zeroed != 1 || s.Signaled != 0 {
		t.Errorf("figures after one fault: %+v", s)
	}

	must(t, os.Truncate(path, page))
	soon(t, "a page that was cut off reads zeros", func() bool { return g.load(2*page) == 0 })
	if got := g.load(0); got != pageName(0) {
		t.Errorf("the page that is left reads %#x", got)
	}
	must(t, os.WriteFile(path, bytes.Repeat([]byte{0x77}, 6*page), 0o600))
	for _, at := range []uint64{0, 2 * page, 4 * page, 5 * page} {
		soon(t, "the file that has grown is shown", func() bool { return g.load(at) == 0x77 })
	}

	g.show(2, page, 2*page, false) // in the place of two pages
	want := []byte{0x77, pageName(0), pageName(1), 0x77}
	for i, w := range want {
		if got := g.load(uint64(i) * page); got != w {
			t.Errorf("page %d after a part was replaced reads %#x, want %#x", i, got, w)
		}
	}
	if e := g.window.Unmap(0, dax.RangeSize); e != 0 {
		t.Fatal(e)
	}
	for i := range want {
		if got := g.load(uint64(i) * page); got != 0 {
			t.Errorf("page %d reads %#x after it was unmapped", i, got)
		}
	}
}

// TestGuestStoresToWindow: stores reach files that may be written, and no others.
func TestGuestStoresToWindow(t *testing.T) {
	g := newDAXGuest(t, guestOptions{policy: config.DAXFaultZero})
	writable, readonly := g.file(1, 2*page), g.file(2, 2*page)
	g.show(1, 0, 2*page, true)
	g.show(2, dax.RangeSize, 2*page, false)

	g.store(page+5, 0xa5)
	if got := contents(t, writable)[page+5]; got != 0xa5 {
		t.Errorf("the file has %#x where the guest stored", got)
	}
	must(t, os.WriteFile(writable, bytes.Repeat([]byte{0x33}, 2*page), 0o600))
	soon(t, "the host's bytes are the guest's", func() bool { return g.load(page+5) == 0x33 })

	before := contents(t, readonly)
	g.store(dax.RangeSize+3, 0xa5)       // shown for reading only
	g.store(2*dax.RangeSize+page+3, 0x5) // shows nothing
	g.do(doStack, windowAt+dax.RangeSize+page+8, 0, 0, 1)
	if !bytes.Equal(contents(t, readonly), before) {
		t.Error("a file that is mapped for reading only has changed")
	}
	if s := g.window.Stats(); s.Protected < 3 || s.Zeroed < 3 {
		t.Errorf("figures after three refused stores: %+v", s)
	}
	soon(t, "the file is shown again", func() bool { return g.load(dax.RangeSize+3) == pageName(0) })
	soon(t, "nothing is shown again", func() bool { return g.load(2*dax.RangeSize+page+3) == 0 })
	if !g.window.Lost(2) || g.window.Lost(1) {
		t.Error("the files of which stores were lost are not those")
	}
}

// TestGuestCopiesAcrossEnd: an instruction with two operands, of which one runs off
// the file's end.
func TestGuestCopiesAcrossEnd(t *testing.T) {
	g := newDAXGuest(t, guestOptions{policy: config.DAXFaultZero})
	g.file(1, 2*page)
	g.show(1, 0, dax.RangeSize, true)
	// An operand of which only the end is lost.
	if got, want := g.do(doLoad8, windowAt+2*page-4, 0, 0, 0), uint64(0x02020202); got != want {
		t.Errorf("across the end is %#x, want %#x", got, want)
	}
	g.do(doCopy, 0, windowAt+page, bufferAt, 3*page)
	want := append(bytes.Repeat([]byte{pageName(1)}, page), make([]byte, 2*page)...)
	if got := g.ram[bufferAt : bufferAt+3*page]; !bytes.Equal(got, want) {
		t.Errorf("copied %#x.. %#x.. %#x..", got[:4], got[page:page+4], got[2*page:2*page+4])
	}
	copy(g.ram[bufferAt:], bytes.Repeat([]byte{0x44}, 3*page))
	g.do(doCopy, 0, bufferAt, windowAt+page, 3*page)
	if got := contents(t, g.files[1]); got[0] != pageName(0) || got[page] != 0x44 || len(got) != 2*page {
		t.Errorf("the file has %d bytes, %#x.. %#x..", len(got), got[0], got[page])
	}
}

// TestGuestFaultIsSignal: the guest's kernel is told to send SIGBUS, again and again,
// and what was gone can come back.
func TestGuestFaultIsSignal(t *testing.T) {
	g := newDAXGuest(t, guestOptions{policy: config.DAXFaultSigbus, amd: true})
	path := g.file(1, 2*page)
	must(t, os.WriteFile(path, append([]byte{0xb8, 0x44, 0x33, 0x22, 0x11, 0xc3}, make([]byte, 2*page)...), 0o600)) // mov eax, 0x11223344; ret
	g.show(1, 0, dax.RangeSize, true)
	g.file(2, page)
	g.show(2, dax.RangeSize, page, false)
	if got := g.do(doFetch, windowAt, 0, 0, 0); got != 0x11223344 {
		t.Fatalf("a program in the window returns %#x", got)
	}
	const readonly = windowAt + dax.RangeSize
	for _, c := range []struct {
		name                        string
		routine, rbx, rsi, rdi, rcx uint64
	}{
		{"load", doLoad, windowAt + 3*page, 0, 0, 0},
		{"load across the end", doLoad8, windowAt + 3*page - 4, 0, 0, 0},
		{"load again", doLoad, windowAt + 3*page, 0, 0, 0},
		{"store", doStore, windowAt + 4*page, 0, 0, 1},
		{"copy from there", doCopy, 0, windowAt + 3*page, bufferAt, 8},
		{"copy to there", doCopy, 0, bufferAt, windowAt + 3*page, 8},
		{"fetch", doFetch, windowAt + 5*page, 0, 0, 0},
		{"store where nothing may be", doStore, readonly, 0, 0, 1},
		{"push there", doStack, readonly + 8, 0, 0, 1},
	} {
		if got := g.do(c.routine, c.rbx, c.rsi, c.rdi, c.rcx); got != signaled {
			t.Errorf("%s: %#x instead of a machine check", c.name, got)
		}
		const uncorrected, inProgress = 0xb << 60, 1<<2 | 1<<1
		if g.word(mceStatusAt) != uncorrected || g.word(mcgStatusAt) != inProgress {
			t.Errorf("%s: bank %#x, MCG_STATUS %#x", c.name, g.word(mceStatusAt), g.word(mcgStatusAt))
		}
	}
	if s := g.window.Stats(); s.Signaled != 9 || s.Truncated != 7 || s.Protected != 2 || s.Zeroed != 0 {
		t.Errorf("figures after nine signals: %+v", s)
	}
	must(t, os.Truncate(path, 5*page))
	soon(t, "the file that has grown is shown", func() bool { return g.do(doLoad, windowAt+3*page, 0, 0, 0) == 0 })
	if !bytes.Equal(contents(t, g.files[2]), bytes.Repeat([]byte{pageName(0)}, page)) {
		t.Error("a file that is mapped for reading only has changed")
	}
}

// TestGuestWithoutSignals reads zeros, rather than die of a machine check.
func TestGuestWithoutSignals(t *testing.T) {
	for name, o := range map[string]guestOptions{
		"kernel code":             {amd: true, kernel: true},
		"machine checks disabled": {amd: true, noMCE: true},
		"another vendor":          {},
	} {
		t.Run(name, func(t *testing.T) {
			o.policy = config.DAXFaultSigbus
			g := newDAXGuest(t, o)
			g.file(1, page)
			g.show(1, 0, 4*page, true)
			if got := g.load(2 * page); got != 0 {
				t.Errorf("beyond the end of the file is %#x", got)
			}
			if s := g.window.Stats(); s.Zeroed != 1 || s.Signaled != 0 {
				t.Errorf("figures: %+v", s)
			}
		})
	}
}

// TestGuestTakesNoMore: a kernel that has not done with one machine check, or has
// switched them off, gets no other: KVM would end it, or do nothing for ever.
func TestGuestTakesNoMore(t *testing.T) {
	const nothing = 0x402 // MC0_ADDR
	for name, c := range map[string]struct {
		at       int
		register uint32
	}{
		"in progress":   {clears2, nothing},
		"bank full":     {clears1, nothing},
		"bank disabled": {clears3, 0x400},
		"all disabled":  {clears3, 0x17b},
	} {
		t.Run(name, func(t *testing.T) {
			g := newDAXGuest(t, guestOptions{policy: config.DAXFaultSigbus, amd: true})
			binary.LittleEndian.PutUint32(g.ram[c.at:], c.register)
			g.file(1, page)
			g.show(1, 0, 4*page, true)
			if got := g.do(doLoad, windowAt+page, 0, 0, 0); got != signaled {
				t.Fatalf("the first is %#x", got)
			}
			if got := g.do(doLoad, windowAt+page, 0, 0, 0); got != 0 {
				t.Errorf("the second is %#x, want zeros", got)
			}
		})
	}
}

// TestGuestFaultStops: the machine ends, and says why.
func TestGuestFaultStops(t *testing.T) {
	g := newDAXGuest(t, guestOptions{policy: config.DAXFaultStop, amd: true})
	g.file(1, page)
	g.show(1, 0, 4*page, true)
	if got := g.load(0); got != pageName(0) {
		t.Errorf("the page that is there reads %#x", got)
	}
	_, err := g.try(doLoad, windowAt+page, 0, 0, 0)
	if err == nil {
		t.Fatal("the machine went on")
	}
	for _, word := range []string{"share data", "cut off", "dax-fault=stop", "0x10040"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

// TestGuestFaultLoopEnds: what no window can answer for is tried a number of times.
func TestGuestFaultLoopEnds(t *testing.T) {
	g := newDAXGuest(t, guestOptions{policy: config.DAXFaultZero})
	must(t, unix.Mprotect(g.ram[64<<20:64<<20+page], unix.PROT_NONE))
	_, err := g.try(doLoad, 64<<20, 0, 0, 0)
	if !errors.Is(err, errNoPage) || !errors.Is(err, unix.EFAULT) {
		t.Fatalf("the machine ended with %v", err)
	}
}

// TestGuestPolls: a program that looks at a lost page all the time, while that comes
// and goes, is no fault loop.
func TestGuestPolls(t *testing.T) {
	g := newDAXGuest(t, guestOptions{policy: config.DAXFaultZero})
	path := g.file(1, page)
	g.show(1, 0, dax.RangeSize, true)
	for i := range 200 {
		must(t, os.Truncate(path, int64(page*(1+i%2))))
		g.do(doScan, windowAt+page, 0, 0, 64)
	}
	if s := g.window.Stats(); s.Truncated+s.Mended == 0 {
		t.Errorf("no fault at all: %+v", s)
	}
}
