package machine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/virtiofs/dax"
	"tenon/vmm/config"
	"tenon/vmm/vcpu"
)

// threeWindows is a machine with a window of each policy, one after the other from
// windowAt on, each of which shows a file of two pages and, to its end, lost ones.
func threeWindows(t *testing.T) (*faults, string) {
	t.Helper()
	f, dir := &faults{}, t.TempDir()
	for i, policy := range []config.DAXFault{config.DAXFaultSigbus, config.DAXFaultZero, config.DAXFaultStop} {
		w, err := dax.New(dax.RangeSize)
		must(t, err)
		t.Cleanup(func() { w.Close() })
		path := filepath.Join(dir, string(policy))
		must(t, os.WriteFile(path, make([]byte, 2*page), 0o600))
		files := testFiles{7: path}
		w.Attach(files)
		fd, e := files.Reopen(7, true)
		if e != 0 {
			t.Fatal(e)
		}
		defer unix.Close(fd)
		if e := w.Map(fd, dax.Mapping{File: 7, Len: dax.RangeSize, Write: policy != config.DAXFaultZero}); e != 0 {
			t.Fatal(e)
		}
		f.windows = append(f.windows, faultWindow{string(policy), windowAt + uint64(i)*dax.RangeSize, w, policy})
	}
	return f, dir
}

// Pages of the three windows: one that is there, and one that is lost.
const (
	sigbusGood, sigbusLost = windowAt + page, windowAt + 2*page
	zeroGood, zeroLost     = sigbusGood + dax.RangeSize, sigbusLost + dax.RangeSize
	stopLost               = zeroLost + dax.RangeSize
	elsewhere              = windowAt + 3*dax.RangeSize
)

func TestFaultAnswers(t *testing.T) {
	load := func(at ...uint64) (list []vcpu.Access) {
		for _, a := range at {
			list = append(list, vcpu.Access{GPA: a})
		}
		return list
	}
	store := func(at ...uint64) (list []vcpu.Access) {
		for _, a := range at {
			list = append(list, vcpu.Access{GPA: a, Write: true})
		}
		return list
	}
	for _, c := range []struct {
		name   string
		fault  vcpu.Fault
		want   vcpu.Answer
		window int       // that is to count it, from 1 on
		stats  dax.Stats // only the figures of faults
	}{
		{"signal", vcpu.Fault{Accesses: load(sigbusLost), Signal: true}, vcpu.Signal, 1, dax.Stats{Truncated: 1, Signaled: 1}},
		{"no signal", vcpu.Fault{Accesses: load(sigbusLost)}, vcpu.Mended, 1, dax.Stats{Truncated: 1, Zeroed: 1}},
		{"done", vcpu.Fault{Accesses: load(sigbusLost), Done: true}, vcpu.Mended, 1, dax.Stats{Truncated: 1, Zeroed: 1}},
		{"zeros", vcpu.Fault{Accesses: load(zeroLost), Signal: true}, vcpu.Mended, 2, dax.Stats{Truncated: 1, Zeroed: 1}},
		{"may not be written", vcpu.Fault{Accesses: store(zeroGood)}, vcpu.Mended, 2, dax.Stats{Protected: 1, Zeroed: 1}},
		{"the second", vcpu.Fault{Accesses: load(elsewhere, sigbusGood, sigbusLost), Signal: true}, vcpu.Signal, 1, dax.Stats{Truncated: 1, Signaled: 1}},
		// What cannot be read comes before what cannot be written.
		{"the unreadable", vcpu.Fault{Accesses: append(store(zeroGood), load(sigbusLost)...), Signal: true}, vcpu.Signal, 1, dax.Stats{Truncated: 1, Signaled: 1}},
		{"all is well", vcpu.Fault{Accesses: store(sigbusGood)}, vcpu.Again, 0, dax.Stats{}},
		{"a device's", vcpu.Fault{Accesses: load(elsewhere), Done: true}, vcpu.Again, 0, dax.Stats{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, _ := threeWindows(t)
			got, err := f.Fault(&c.fault)
			if got != c.want || err != nil {
				t.Errorf("answer %v, %v; want %v", got, err, c.want)
			}
			for i := range f.windows {
				want := dax.Stats{}
				if i+1 == c.window {
					want = c.stats
				}
				if got := faultStats(f, i); got != want {
					t.Errorf("window %s counts %+v, want %+v", f.windows[i].name, got, want)
				}
			}
		})
	}
}

func faultStats(f *faults, i int) dax.Stats {
	s := f.windows[i].window.Stats()
	return dax.Stats{
		Truncated: s.Truncated, Failed: s.Failed, Protected: s.Protected,
		Mended: s.Mended, Signaled: s.Signaled, Zeroed: s.Zeroed,
	}
}

// TestFaultOfUnknownPage: windows that bear zeros are tried before the machine ends.
func TestFaultOfUnknownPage(t *testing.T) {
	f, dir := threeWindows(t)
	if got, err := f.Fault(&vcpu.Fault{}); got != vcpu.Mended || err != nil {
		t.Errorf("with pages of windows that bear zeros: %v, %v", got, err)
	}
	if got := faultStats(f, 2); got != (dax.Stats{}) {
		t.Errorf("the window that ends the machine counts %+v", got)
	}
	f.windows = f.windows[2:]
	path := filepath.Join(dir, string(config.DAXFaultStop))
	_, err := f.Fault(&vcpu.Fault{})
	if err == nil || !strings.Contains(err.Error(), "share stop") {
		t.Errorf("with a page of another: %v", err)
	}
	f.windows[0].window.Reset()
	fd, e := testFiles{7: path}.Reopen(7, false)
	if e != 0 {
		t.Fatal(e)
	}
	defer unix.Close(fd)
	if e := f.windows[0].window.Map(fd, dax.Mapping{File: 7, Len: 2 * page}); e != 0 {
		t.Fatal(e)
	}
	for attempt := range maxAttempts + 1 {
		got, err := f.Fault(&vcpu.Fault{Attempts: attempt})
		if ended := errors.Is(err, errNoPage); got != vcpu.Again || ended != (attempt == maxAttempts) {
			t.Fatalf("attempt %d with no lost page anywhere: %v, %v", attempt, got, err)
		}
		// A program of which nobody knows where it stores does not end the machine.
		got, err = f.Fault(&vcpu.Fault{Attempts: attempt, Obscure: true})
		if want := map[bool]vcpu.Answer{true: vcpu.Deny}[attempt >= patience]; got != want || err != nil {
			t.Fatalf("attempt %d of an obscure program: %v, %v, want %v", attempt, got, err, want)
		}
	}
}

// TestFaultStopSays names the share and the cause.
func TestFaultStopSays(t *testing.T) {
	for _, c := range []struct {
		access vcpu.Access
		word   string
		length bool // the advice is about the length of files
	}{
		{vcpu.Access{GPA: stopLost}, "cut off", true},
		{vcpu.Access{GPA: elsewhere - page, Write: true}, "reading only", false},
	} {
		f, _ := threeWindows(t)
		if c.access.Write {
			f.windows[2].window.Reset()
		}
		_, err := f.Fault(&vcpu.Fault{Accesses: []vcpu.Access{c.access}, Signal: true})
		if err == nil || !strings.Contains(err.Error(), "share stop") || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%+v: %v", c.access, err)
		} else if strings.Contains(err.Error(), "as long as they are") != c.length {
			t.Errorf("%+v: the advice does not fit: %v", c.access, err)
		}
	}
}

// TestFaultsAtOnce: several processors meet lost pages, while the file comes and goes.
func TestFaultsAtOnce(t *testing.T) {
	f, dir := threeWindows(t)
	path := filepath.Join(dir, string(config.DAXFaultZero))
	var group sync.WaitGroup
	for cpu := range uint64(4) {
		group.Go(func() {
			for i := range uint64(50) {
				at := zeroLost + (cpu+i)%8*page
				got, err := f.Fault(&vcpu.Fault{Accesses: []vcpu.Access{{GPA: at}}})
				if err != nil || got == vcpu.Signal {
					t.Errorf("%v, %v", got, err)
				}
			}
		})
	}
	for i := range 50 {
		must(t, os.Truncate(path, int64(1+i%10)*page))
	}
	group.Wait()
}

// TestCovers: the windows, to the byte.
func TestCovers(t *testing.T) {
	f, _ := threeWindows(t)
	for at, want := range map[uint64]bool{
		0: false, windowAt - 1: false, windowAt: true, elsewhere - 1: true, elsewhere: false, 1<<64 - 1: false,
	} {
		if got := f.Covers(at); got != want {
			t.Errorf("%#x: %v", at, got)
		}
	}
}

// TestLoadFromWindow: an instruction may be in a page that is lost.
func TestLoadFromWindow(t *testing.T) {
	f, dir := threeWindows(t)
	file, err := os.OpenFile(filepath.Join(dir, string(config.DAXFaultZero)), os.O_WRONLY, 0)
	must(t, err)
	defer file.Close()
	_, err = file.WriteString("tenon")
	must(t, err)
	mem, err := memory.New(memory.Region{Data: []byte("memory")})
	must(t, err)
	must(t, mem.AddWindow(memory.Region{GPA: windowAt + dax.RangeSize, Data: f.windows[1].window.Reservation()}))
	f.mem = mem
	b := make([]byte, 5)
	if err := f.Load(1, b); err != nil || string(b) != "emory" {
		t.Errorf("from RAM: %q, %v", b, err)
	}
	if err := f.Load(windowAt+dax.RangeSize, b); err != nil || string(b) != "tenon" {
		t.Errorf("from a window: %q, %v", b, err)
	}
	if err := f.Load(zeroLost, b); err == nil {
		t.Errorf("from a lost page: %q", b)
	}
}
