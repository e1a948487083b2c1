package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs/dax"
)

// mend is for a system call that failed with EFAULT, which is to fill the buffers or
// not. They may lie in the window, in pages behind what was the end of their file: it
// has grown, and the window does not show that yet. mend says whether all of them can
// be used now; the guest's processors have the same from a fault.
func (f *FS) mend(buffers []unix.Iovec, fill bool) bool {
	if f.window == nil {
		return false
	}
	for i := range buffers {
		at, ok := offsetIn(&buffers[i], f.window.Reservation())
		if !ok {
			continue
		}
		for end := at + buffers[i].Len; at < end; at = at&^(dax.PageSize-1) + dax.PageSize {
			if f.window.Examine(at, fill) != dax.Usable {
				return false
			}
		}
	}
	return true
}
