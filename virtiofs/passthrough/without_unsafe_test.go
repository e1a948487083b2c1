package passthrough

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// without runs the test on a thread for which a system call has another answer, as on
// an older kernel or in a sandbox.
func without(t *testing.T, nr uint32, e unix.Errno, test func()) {
	t.Helper()
	const load, jump, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	code := []unix.SockFilter{
		{Code: load}, // seccomp_data.nr
		{Code: jump, K: nr, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(e)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if failed = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); failed != nil {
			return
		}
		failed = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
		if failed == nil {
			test()
		}
	}()
	<-done
	if failed != nil {
		t.Skipf("SKIPPED: no system calls can be taken away here: %v", failed)
	}
}
