package memory

import "golang.org/x/sys/unix"

// Load copies the len(dst) bytes at the guest address out, RAM or window: ErrAddress
// when they do not lie in one of either, ErrFault when a page of a window is gone.
// dst then holds any bytes.
func (m *Map) Load(at GPA, dst []byte) error {
	b, err := find(m.all[:m.ram], at, GPA(len(dst)))
	if err != nil {
		return m.across(at, dst, false)
	}
	copy(dst, b)
	return nil
}

// Store is the opposite of Load: ErrFault is also a page that may not be written.
// Some of the bytes are stored then.
func (m *Map) Store(at GPA, src []byte) error {
	b, err := find(m.all[:m.ram], at, GPA(len(src)))
	if err != nil {
		return m.across(at, src, true)
	}
	copy(b, src)
	return nil
}

// across copies between p and a window by process_vm_readv(2) or process_vm_writev(2)
// on this process itself. They need no descriptor and, on oneself, no permission.
// Where a load or store of ours would be the end of the process they fail with
// EFAULT, and unlike /proc/self/mem they never write to what is mapped for reading
// only. The window is the remote side, which is named by a number: what Go owns must
// be named by a pointer.
//
// Whatever else the error is, as EPERM of a seccomp filter or ENOSYS of a kernel
// without CONFIG_CROSS_MEMORY_ATTACH: the bytes cannot be had, which is ErrFault.
func (m *Map) across(at GPA, p []byte, store bool) error {
	b, err := find(m.all[m.ram:], at, GPA(len(p)))
	if err != nil || len(p) == 0 {
		return err
	}
	local := [1]unix.Iovec{{Base: &p[0]}}
	local[0].SetLen(len(p))
	remote := [1]unix.RemoteIovec{{Base: address(b), Len: len(p)}}
	n := 0
	// Not by a variable that holds the function: p would escape, and with it the
	// buffers of all callers.
	if store {
		n, err = unix.ProcessVMWritev(m.pid, local[:], remote[:], 0)
	} else {
		n, err = unix.ProcessVMReadv(m.pid, local[:], remote[:], 0)
	}
	if err != nil || n != len(p) {
		return ErrFault
	}
	return nil
}
