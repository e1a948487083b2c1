package passthrough

import (
	"testing"

	"tenon/virtiofs"
	"tenon/virtiofs/fuse"
)

// TestAllocNames: to look up what is known allocates nothing. One that is forgotten
// and looked up again allocates what it is opened by, and not the table it is in, even
// where it is the only one.
func TestAllocNames(t *testing.T) {
	f := share(t, 1, 100)
	n := name(t, "f0")
	var e virtiofs.Entry
	again := func() {
		if err := f.Lookup(fuse.RootID, n, &e); err != 0 {
			t.Fatal(err)
		}
	}
	again()
	if a := testing.AllocsPerRun(100, again); a != 0 {
		t.Errorf("LOOKUP of a known name: %v allocations", a)
	}
	f.Forget(e.Node, ^uint64(0))
	if a := testing.AllocsPerRun(100, func() { again(); f.Forget(e.Node, 1) }); a > 1 {
		t.Errorf("LOOKUP of a new name: %v allocations", a)
	}
}
