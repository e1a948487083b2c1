package virtiofs

import (
	"errors"
	"fmt"
	"time"

	"tenon/virtiofs/fuse"
)

// Policy is what a guest may cache and for how long, as data: the server has no
// code for single policies. The constructors give the known ones; a caller may
// change the three durations (0 or more) of what they return.
type Policy struct {
	Name       string        // as ParsePolicy takes it, for messages
	EntryValid time.Duration // a name stays bound to its node
	AttrValid  time.Duration // attributes are believed
	Negative   time.Duration // a missing name stays missing; 0: the guest asks every time
	OpenFlags  uint32        // in replies to OPEN and CREATE: fuse.OpenDirectIO, fuse.OpenKeepCache, ...
	DirFlags   uint32        // in replies to OPENDIR: fuse.OpenCacheDir, fuse.OpenKeepCache
	InitFlags  uint64        // taken in INIT, where the guest offers them, beside those of every policy
	// Compare adds fuse.OpenKeepCache to the reply to OPEN when the contents are
	// for certain those of the node's last close.
	Compare bool
	// NoOpen lets a guest that can do so use files and directories without
	// opening them. Only a file system that is ReadOnly and takes handle 0 may
	// be served like this.
	NoOpen bool
}

// longValid is "until the guest drops it by itself".
const longValid = 86400 * time.Second

const (
	readdirplus = fuse.DoReaddirplus | fuse.ReaddirplusAuto
	// direct bypasses the guest's page cache. Writes to one file need no order
	// among them that the host would not keep.
	direct     = fuse.OpenDirectIO | fuse.OpenParallelDirectWrites
	keepDir    = fuse.OpenCacheDir | fuse.OpenKeepCache
	directInit = fuse.DirectIOAllowMmap | fuse.AutoInvalData
)

// Never has every operation reach the host. Shared mappings work in guests from
// Linux 6.6 on (FUSE_DIRECT_IO_ALLOW_MMAP) and go through the guest's page cache.
func Never() Policy {
	return Policy{Name: "never", OpenFlags: direct, InitFlags: directInit}
}

// Metadata caches names, attributes and listings for a day and no data: what
// the host writes is seen at once, what it creates, removes or renames is not.
func Metadata() Policy {
	return Policy{
		Name: "metadata", EntryValid: longValid, AttrValid: longValid, Negative: longValid,
		OpenFlags: direct, DirFlags: keepDir, InitFlags: directInit | readdirplus,
	}
}

// Auto is close-to-open consistency: what the host changes is seen after a
// second at most, and at every open. Data stays cached from one open to the
// next when the file did not change in between.
func Auto() Policy {
	return Policy{
		Name: "auto", EntryValid: time.Second, AttrValid: time.Second,
		InitFlags: fuse.AutoInvalData | readdirplus, Compare: true,
	}
}

// Always caches everything for a day: for a guest that has the share to itself.
// What the host changes may not be seen before the guest drops it.
func Always() Policy {
	return Policy{
		Name: "always", EntryValid: longValid, AttrValid: longValid, Negative: longValid,
		OpenFlags: fuse.OpenKeepCache, DirFlags: keepDir, InitFlags: fuse.ExplicitInvalData | readdirplus,
	}
}

// Immutable is Always for a read-only share that nobody changes while it is
// shared, such as a package store: files and directories are not even opened.
func Immutable() Policy {
	p := Always()
	p.Name, p.NoOpen = "immutable", true
	return p
}

// ParsePolicy returns the policy with a name: never (or none), metadata, auto,
// always, immutable. The error names these.
func ParsePolicy(name string) (Policy, error) {
	if name == "none" {
		return Never(), nil
	}
	for _, p := range []Policy{Never(), Metadata(), Auto(), Always(), Immutable()} {
		if p.Name == name {
			return p, nil
		}
	}
	return Policy{}, fmt.Errorf("cache policy %q: want never (or none), metadata, auto, always or immutable", name)
}

// Check says why the options contradict each other or the share, which may be
// read-only; nil if they do not. It names both options.
func (o Options) Check(readOnly bool) error {
	var list []error
	if o.Policy.NoOpen && !readOnly {
		list = append(list, fmt.Errorf("cache=%s contradicts rw: what may change has to be opened (use ro or cache=always)", o.Policy.Name))
	}
	if o.Writeback && readOnly {
		list = append(list, errors.New("writeback contradicts ro: nothing is ever written (use no-writeback or rw)"))
	}
	if o.Writeback && o.Policy.OpenFlags&fuse.OpenDirectIO != 0 {
		list = append(list, fmt.Errorf("writeback contradicts cache=%s: no data is cached that could be written later (use no-writeback, cache=auto or cache=always)", o.Policy.Name))
	}
	if o.Writeback && o.DAX == DAXAlways {
		list = append(list, errors.New("writeback contradicts dax=always: no file is cached that could be written later (use no-writeback or dax=inode)"))
	}
	return errors.Join(list...)
}

func timeout(d time.Duration) fuse.Timeout {
	return fuse.Timeout{Sec: uint64(d / time.Second), Nsec: uint32(d % time.Second)}
}
