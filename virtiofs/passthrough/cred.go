package passthrough

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// identity is who this process is: what a thread goes back to after it has
// created something for a guest's process.
//
// The other way to create for others, chown(2) afterwards, is cheaper (0.4 us
// against 2.3 us on the host that BenchmarkCreate was written on) and wrong:
// the kernel's rules for the group, the set-group-id bit and quotas would be
// those for this process, and the guest's file would be root's for a moment, or
// for good after a crash.
type identity struct {
	uid, gid uint32
	groups   []uint32 // dropping them when the process starts saves two calls each time
	switches bool     // whether a thread may take on another identity
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

// guise is the identity that a thread has taken on.
type guise struct {
	on       bool // the goroutine stays on its thread until leave
	groups   bool // supplementary groups were set
	override bool // capabilities were taken back
}

// become gives the calling thread the file system identity of the guest's
// caller, in the host's ids, so that what it creates belongs to that one by the
// kernel's own rules (set-group-id directories, quotas); leave takes it back.
// Between them the goroutine stays on its thread, and there may be nothing but
// the one call that creates. An ordinary user creates everything as itself.
//
// Without groups the thread has none: those of this process, if it has kept
// any, must not let a guest's user make set-group-id files (CVE-2022-0358).
//
// Only raw system calls do this for certain: what package syscall offers changes
// every thread of the process.
func (id *identity) become(uid, gid uint32, groups []uint32) (g guise, e unix.Errno) {
	if !id.switches || uid == id.uid && gid == id.gid {
		return guise{}, 0
	}
	runtime.LockOSThread()
	g.on = true
	if len(groups) > 0 || len(id.groups) > 0 {
		g.groups = true
		e = setgroups(groups)
	}
	if e == 0 && !(setfsid(unix.SYS_SETFSGID, gid) && setfsid(unix.SYS_SETFSUID, uid)) {
		e = unix.EPERM
	}
	if e != 0 {
		id.leave(g)
		return guise{}, e
	}
	return g, 0
}

// mayRetry says that the creating call, which was refused, is to be made once
// more: whether the caller may create the file was for the guest's kernel to
// say, which knows the caller's groups and capabilities and is not to be
// contradicted with half that knowledge. The thread lost its capabilities with
// the file system user id 0; most callers never need them back.
func (id *identity) mayRetry(g *guise, e unix.Errno) bool {
	if !g.on || g.override || e != unix.EACCES && e != unix.EPERM {
		return false
	}
	g.override = true
	return takeOverrides() == 0
}

// leave undoes become. The calls cannot be refused, as they name the thread's
// own effective ids; for lack of memory they are tried again, because a thread
// with a guest's identity must not go on to other work. Going back to user id 0
// restores the capabilities.
func (id *identity) leave(g guise) {
	if !g.on {
		return
	}
	for !setfsid(unix.SYS_SETFSUID, id.uid) || !setfsid(unix.SYS_SETFSGID, id.gid) || g.groups && setgroups(id.groups) == unix.ENOMEM {
		runtime.Gosched()
	}
	runtime.UnlockOSThread()
}

// setfsid sets one of the thread's file system ids. The call tells no failure:
// it answers with the id before it, so asking twice tells.
func setfsid(nr uintptr, id uint32) bool {
	unix.RawSyscall(nr, uintptr(id), 0, 0)
	now, _, _ := unix.RawSyscall(nr, uintptr(noID), 0, 0)
	return uint32(now) == id
}
