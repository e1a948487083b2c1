package virtiofs

import (
	"time"

	"tenon/virtiofs/fuse"
)

// Policy is what a guest may cache and for how long, as data: the server has no
// code for single policies.
type Policy struct {
	EntryValid time.Duration // a name stays bound to its node
	AttrValid  time.Duration // attributes are believed
	Negative   time.Duration // a missing name stays missing; 0: the guest asks every time
	OpenFlags  uint32        // in replies to OPEN and CREATE: fuse.OpenDirectIO, fuse.OpenKeepCache
	DirFlags   uint32        // in replies to OPENDIR: fuse.OpenCacheDir, fuse.OpenKeepCache
	InitFlags  uint64        // taken in INIT, where the guest offers them, beside those of every policy
}

// Auto is close-to-open consistency: what the host changes is seen after a
// second at most, and at every open.
func Auto() Policy {
	return Policy{
		EntryValid: time.Second,
		AttrValid:  time.Second,
		InitFlags:  fuse.AutoInvalData | fuse.DoReaddirplus | fuse.ReaddirplusAuto,
	}
}

func timeout(d time.Duration) fuse.Timeout {
	return fuse.Timeout{Sec: uint64(d / time.Second), Nsec: uint32(d % time.Second)}
}
