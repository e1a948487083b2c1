package guest

import (
	"path/filepath"
	"strings"
)

// share is a directory that a guest mounts.
type share struct {
	Tag   string // and where the guest mounts it, below /mnt
	Dir   string // on the host
	Cache string // never, auto or always; all servers have these three
	DAX   bool   // all files through a window; only Tenon can
}

// mounted is where the guest has the share.
func (s share) mounted() string { return "/mnt/" + s.Tag }

// scratch stands for the directory of a share that the guest works in, and the host
// removes afterwards.
const scratch = "@"

// dir is where the guest has a directory of the share.
func (s share) dir(name string) string {
	return filepath.Join(s.mounted(), strings.Replace(name, scratch, scratchPrefix+s.Tag, 1))
}

const scratchPrefix = "scratch-"

// action is what a step does.
type action string

const (
	transfer action = "transfer" // pread or pwrite, one after the other
	touch    action = "touch"    // loads from a mapping
	create   action = "create"   // Count empty files, which the next two need
	stat     action = "stat"
	unlink   action = "unlink"
	command  action = "command"
	fio      action = "fio"
	idle     action = "idle" // says so and waits for the host to look
)

// step is one thing a guest does and measures. What it works on was put there by the
// host.
type step struct {
	Row string // of the report, without the cache policy
	Do  action
	// Of transfers, touches and names; a file is named relative to the share.
	File                  string
	Block, Count          int
	Random, Direct, Write bool
	Warm                  bool // touch every page once before
	// Of commands, which run in the directory Dir of the share: what is run and how
	// many lines that is to print.
	Dir   string
	Args  []string
	Lines int
	Jobs  []job // of fio
	// Caches are the policies under which there is something to see; nil: all.
	Caches []string
	Total  bool // the time adds to the metadata's
}

// plan is what a guest finds in its first share: what to do on each.
type plan struct {
	Shares []share
	Steps  map[string][]step // by tag
}

// Files of a share that host and guest talk through.
const (
	planFile   = "plan.json"
	resultFile = "result.json"
)

// Lines a guest says on its console.
const (
	saidInit = "BENCH-INIT" // init's first instruction, but for loading the text
	saidWork = "BENCH-WORK" // begins
	saidIdle = "BENCH-IDLE"
	saidDone = "BENCH-DONE"
)

// outcome is what came of a step on a share.
type outcome struct {
	Row, Tag string
	Unit     string
	Value    float64
	Err      string `json:",omitempty"`
}
