package passthrough

import (
	"runtime"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// identity is who this process is: what a thread goes back to after it has
// created something for a guest's process.
type identity struct {
	uid, gid uint32
	groups   []uint32
	switches bool // whether a thread may take on another identity
}

func currentIdentity() identity {
	id := identity{uid: uint32(unix.Geteuid()), gid: uint32(unix.Getegid())}
	groups, err := unix.Getgroups()
	if err != nil {
		groups = nil
	}
	for _, g := range groups {
		id.groups = append(id.groups, uint32(g))
	}
	// The root of a user namespace with one id may not: it creates as itself,
	// as an ordinary user does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id.switches = id.root() && setgroups(id.groups) == 0
	return id
}

// root reports whether files can be created for others at all.
func (id *identity) root() bool { return id.uid == 0 }

// become gives the calling thread the file system identity of the guest's
// caller, so that what it creates belongs to that one by the kernel's own rules
// (set-group-id directories, quotas); leave takes it back. Between them the
// goroutine stays on its thread, and there may be nothing but the one call that
// creates. An ordinary user creates everything as itself.
//
// Only raw system calls do this: those of x/sys and syscall would change every
// thread of the process.
func (id *identity) become(c *virtiofs.Caller) (switched bool, e unix.Errno) {
	if !id.switches || c.UID == 0 && c.GID == 0 {
		return false, 0
	}
	if c.UID == ^uint32(0) || c.GID == ^uint32(0) {
		return false, unix.EINVAL
	}
	runtime.LockOSThread()
	e = setgroups(c.Groups)
	if e == 0 && !(setfsid(unix.SYS_SETFSGID, c.GID) && setfsid(unix.SYS_SETFSUID, c.UID)) {
		e = unix.EPERM
	}
	if e == 0 && c.UID != 0 {
		e = keepOverride()
	}
	if e != 0 {
		id.leave(true)
		return false, e
	}
	return true, 0
}

// leave undoes become. The calls cannot be refused, as they name the thread's
// own effective ids; for lack of memory they are tried again, because a thread
// with a guest's identity must not go on to other work.
func (id *identity) leave(switched bool) {
	if !switched {
		return
	}
	for !setfsid(unix.SYS_SETFSUID, id.uid) || !setfsid(unix.SYS_SETFSGID, id.gid) || setgroups(id.groups) == unix.ENOMEM {
		runtime.Gosched()
	}
	runtime.UnlockOSThread()
}

// setfsid sets one of the thread's file system ids. The call tells no failure:
// it answers with the id before it, so asking twice tells.
func setfsid(nr uintptr, id uint32) bool {
	unix.RawSyscall(nr, uintptr(id), 0, 0)
	now, _, _ := unix.RawSyscall(nr, uintptr(^uint32(0)), 0, 0)
	return uint32(now) == id
}
