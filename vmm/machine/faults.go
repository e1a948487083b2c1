package machine

import (
	"errors"
	"fmt"
	"time"

	"tenon/devices/memory"
	"tenon/virtiofs/dax"
	"tenon/vmm/config"
	"tenon/vmm/vcpu"
)

// faultWindow is a share's DAX window as the guest sees it.
type faultWindow struct {
	name   string
	gpa    uint64
	window *dax.Window
	policy config.DAXFault
}

// faults answers for the windows (vcpu.Memory): a host that truncates a file takes
// pages from under the guest.
type faults struct {
	mem     *memory.Map // with the windows
	windows []faultWindow
	coming  coming
}

const (
	// After patience fruitless attempts an access waits before the next, and after
	// maxAttempts the machine ends: whatever is wrong there is beyond us.
	patience    = 8
	maxAttempts = 64
	pause       = time.Millisecond
)

var errNoPage = errors.New("the host cannot provide the memory, and no file that is mapped there says why")

// Covers says whether a guest-physical address lies in a window.
func (f *faults) Covers(gpa uint64) bool {
	_, _, ok := f.find(gpa)
	return ok
}

// Load copies guest-physical memory; bytes in a window are copied by the kernel.
func (f *faults) Load(gpa uint64, p []byte) error { return f.mem.Load(memory.GPA(gpa), p) }

// Ready names what the guest is about to read.
func (f *faults) Ready() (gpa, n uint64) { return f.coming.take() }

// find returns the window that an address lies in, and where.
func (f *faults) find(gpa uint64) (w *faultWindow, at uint64, ok bool) {
	for i := range f.windows {
		w := &f.windows[i]
		if gpa >= w.gpa && gpa-w.gpa < w.window.Size() {
			return w, gpa - w.gpa, true
		}
	}
	return nil, 0, false
}

// Fault finds the page that the host could not provide, and does what the policy of
// its share says.
func (f *faults) Fault(x *vcpu.Fault) (vcpu.Answer, error) {
	c, hit := f.culprit(x.Accesses)
	switch {
	case x.Suspected:
		// KVM tells of all others: then it is a loop of the guest's own.
		if c.cause == dax.Failed {
			c.window.Trip(c.at) // and it tells of this one from now on
		}
		return vcpu.Again, nil
	case c.cause != dax.Usable:
		return c.answer(x)
	case x.Done, hit && x.Attempts == 0: // it is mended by now, perhaps by another processor
		return vcpu.Again, nil
	}
	if swept, err := f.sweep(); swept || err != nil {
		return vcpu.Mended, err
	}
	switch {
	case x.Obscure && x.Attempts >= patience:
		return vcpu.Deny, nil // a scatter, as zeros to read have not helped
	case x.Attempts >= maxAttempts:
		return vcpu.Again, errNoPage
	case x.Attempts >= patience:
		time.Sleep(pause)
	}
	return vcpu.Again, nil
}

// inspectTime is between two looks at processors that do not come out of KVM.
const inspectTime = 250 * time.Millisecond

// inspect looks after processors that may be caught in pages which the host cannot
// provide, until the end.
func (f *faults) inspect(cpus []*vcpu.CPU, end <-chan struct{}) {
	tick := time.NewTicker(inspectTime)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return
		case <-tick.C:
		}
		if !f.shows() {
			continue
		}
		for _, c := range cpus {
			c.Inspect()
		}
	}
}

// shows says whether any window shows anything of a file.
func (f *faults) shows() bool {
	for i := range f.windows {
		if f.windows[i].window.Stats().Mapped > 0 {
			return true
		}
	}
	return false
}

// culprit is a page of a window that cannot be used.
type culprit struct {
	*faultWindow
	at    uint64
	store bool // the guest stores there, or may
	cause dax.Cause
}

// culprit looks for the page that cannot be used among those accessed: one that cannot
// be read before one that cannot be written. hit says that any lies in a window.
func (f *faults) culprit(list []vcpu.Access) (c culprit, hit bool) {
	for _, write := range []bool{false, true} {
		for _, a := range list {
			w, at, ok := f.find(a.GPA)
			hit = hit || ok
			if !ok || write && !a.Write {
				continue
			}
			if cause := w.window.Examine(at, write); cause != dax.Usable {
				return culprit{w, at, a.Write, cause}, true
			}
		}
	}
	return culprit{}, hit
}

// answer does what the share's policy says.
func (c culprit) answer(x *vcpu.Fault) (vcpu.Answer, error) {
	switch {
	case c.policy == config.DAXFaultStop:
		return vcpu.Again, c.stop(c.cause)
	case c.policy == config.DAXFaultSigbus && x.Signal:
		c.window.Count(c.cause, dax.Signaled)
		return vcpu.Signal, nil
	}
	if e := c.window.Plug(c.at, c.store); e != 0 {
		if x.Attempts >= maxAttempts {
			return vcpu.Again, fmt.Errorf("share %s: a page of zeros in the place of one that is gone: %w", c.name, e)
		}
		time.Sleep(pause)
		return vcpu.Again, nil
	}
	c.window.Count(c.cause, dax.Zeroed)
	return vcpu.Mended, nil
}

// why says what became of a page.
var why = map[dax.Cause]string{
	dax.Truncated: "the guest uses a part of a mapped file that the host has cut off",
	dax.Failed:    "the host cannot read or write a part of a mapped file that the guest uses: an I/O error, or no space",
	dax.Protected: "the guest stores where a file is mapped for reading only, or none at all",
}

// stop is the end of the machine because of a fault.
func (w *faultWindow) stop(cause dax.Cause) error {
	w.window.Count(cause, dax.Stopped)
	advice := "choose dax-fault=sigbus or zero"
	if cause == dax.Truncated {
		advice = "leave mapped files as long as they are, or " + advice
	}
	return fmt.Errorf("share %s: %s, and its policy is dax-fault=stop: %s", w.name, why[cause], advice)
}

// sweep is for a fault of which nobody knows the page. Windows of which one more page
// of zeros does no harm come first.
func (f *faults) sweep() (any bool, err error) {
	for i := range f.windows {
		if w := &f.windows[i]; w.policy != config.DAXFaultStop {
			swept, zeroed := w.sweep()
			any = any || swept
			if zeroed {
				w.window.Count(dax.Truncated, dax.Zeroed)
			}
		}
	}
	for i := 0; i < len(f.windows) && !any; i++ {
		if w := &f.windows[i]; w.policy == config.DAXFaultStop {
			swept, zeroed := w.sweep()
			if zeroed {
				return false, w.stop(dax.Truncated)
			}
			any = swept
		}
	}
	return any, nil
}

// sweep says whether anything could be done, and whether that was no more than zeros.
func (w *faultWindow) sweep() (swept, zeroed bool) {
	mended := w.window.Stats().Mended
	swept = w.window.Sweep()
	return swept, swept && w.window.Stats().Mended == mended
}
