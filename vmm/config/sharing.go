package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"tenon/virtiofs"
	"tenon/virtiofs/idmap"
	"tenon/virtiofs/xattrmap"
)

// Sharing is how a directory is shared, beyond which one it is.
type Sharing struct {
	Cache string `json:"cache"` // name of a virtiofs.Policy: what the guest may remember
	// The timeouts take the place of the policy's own; nil: the policy's.
	EntryTimeout    *Duration `json:"entry_timeout,omitempty"`
	AttrTimeout     *Duration `json:"attr_timeout,omitempty"`
	NegativeTimeout *Duration `json:"negative_timeout,omitempty"`
	Writeback       bool      `json:"writeback"`            // the guest delays writes
	Locks           Locks     `json:"locks"`                // who keeps file locks
	InodeHandles    Handles   `json:"inode_handles"`        // how inodes are kept
	Owner           Owner     `json:"owner"`                // whose the files are
	UIDMap          []string  `json:"uid_map,omitempty"`    // rules of virtiofs/idmap
	GIDMap          []string  `json:"gid_map,omitempty"`    // rules of virtiofs/idmap
	XattrMap        string    `json:"xattr_map,omitempty"`  // rules of virtiofs/xattrmap
	ACL             bool      `json:"posix_acl"`            // POSIX ACLs
	SecurityLabel   bool      `json:"security_label"`       // the guest's labels on what it creates
	Submounts       bool      `json:"submounts"`            // mounts below the directory have their own st_dev
	Devices         bool      `json:"devices"`              // the guest may make device nodes
	DAX             DAX       `json:"dax"`                  // which files the guest maps
	DAXWindow       *uint64   `json:"dax_window,omitempty"` // bytes, a power of two from 2 MiB; 0: none; nil: as RAM and kernel allow
	DAXMinSize      uint64    `json:"dax_min_size"`         // bytes from which DAXInode maps a file
	DAXFault        DAXFault  `json:"dax_fault"`            // what a lost page of a mapped file is to the guest
}

// Locks chooses who keeps file locks.
type Locks string

// LocksGuest keeps them inside each guest, LocksHost on the host's files.
const (
	LocksGuest Locks = "guest"
	LocksHost  Locks = "host"
)

// Handles chooses how inodes are kept that the guest knows and nothing uses.
type Handles string

// HandlesAuto keeps file handles where the host permits it, HandlesAlways insists
// on them, HandlesNever keeps descriptors.
const (
	HandlesAuto   Handles = "auto"
	HandlesAlways Handles = "always"
	HandlesNever  Handles = "never"
)

// Owner chooses whose the files are.
type Owner string

// OwnerGuest gives files the guest's ids, OwnerSquash makes all of them the user's
// on the host and root's in the guest.
const (
	OwnerGuest  Owner = "guest"
	OwnerSquash Owner = "squash"
)

// DAX chooses the files that a guest maps through the share's window instead of
// reading them into its page cache.
type DAX string

// DAXAlways maps every regular file, DAXInode those from a size on, DAXNever none.
const (
	DAXAlways DAX = "always"
	DAXInode  DAX = "inode"
	DAXNever  DAX = "never"
)

// DAXFault chooses what happens when a guest uses a page of a mapped file that the
// host has taken away, by truncating the file above all.
type DAXFault string

// DAXFaultSigbus sends the guest's program SIGBUS, as a local file would; where that
// cannot be done, and for DAXFaultZero, zeros stand in. DAXFaultStop ends the machine.
const (
	DAXFaultSigbus DAXFault = "sigbus"
	DAXFaultZero   DAXFault = "zero"
	DAXFaultStop   DAXFault = "stop"
)

const (
	// MinDAXWindow is the smallest DAX window in bytes: one range of Linux's.
	MinDAXWindow = 2 << 20
	// MaxDAXWindow is the largest: what is mapped in it must fit into one process.
	MaxDAXWindow = 16 << 30
	// defaultDAXMinSize is where mapping a file begins to pay, see the README.
	defaultDAXMinSize = 1 << 20
)

// maxTimeout is the longest a guest may be told to remember something: Linux counts
// it in jiffies.
const maxTimeout = math.MaxInt32 * time.Second

// Duration is a time.Duration that JSON shows as people write it.
type Duration time.Duration

// MarshalText writes it as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// DefaultSharing is how a directory is shared that has no options.
func DefaultSharing() Sharing {
	return Sharing{
		Cache: virtiofs.Auto().Name, Locks: LocksGuest, InodeHandles: HandlesAuto, Owner: OwnerGuest, Submounts: true,
		DAX: DAXInode, DAXMinSize: defaultDAXMinSize, DAXFault: DAXFaultSigbus,
	}
}

// ShareOption is one option of a share, for help and messages.
type ShareOption struct {
	Form    string // as it is written: a word, alternatives, or NAME=VALUES
	Help    string
	Default string // "": as the policy has it, or not
	set     func(s *Share, name, value string) error
	many    bool // may be given more than once, with different values
}

// name is what stands before the equals sign, "" for an option of words.
func (o *ShareOption) name() string {
	name, _, ok := strings.Cut(o.Form, "=")
	if !ok {
		return ""
	}
	return name
}

// ShareOptions is every option of a share, in the order help shows them.
func ShareOptions() []ShareOption {
	return []ShareOption{
		{Form: "ro|rw", Default: "rw; --root: ro", Help: "refuse every change, or not",
			set: func(s *Share, name, _ string) error { s.ReadOnly = name == "ro"; return nil }},
		{Form: "cache=never|metadata|auto|always|immutable", Default: "auto",
			Help: "what the guest may remember: nothing, names and attributes, all for a second and data until the file is opened anew, all, or all of a directory that nobody changes (ro); none is never",
			set:  func(s *Share, _, v string) error { return setCache(&s.Cache, v) }},
		{Form: "entry-timeout=TIME", Help: "how long a name is believed, in seconds or with a unit",
			set: func(s *Share, _, v string) error { return setTimeout(&s.EntryTimeout, v) }},
		{Form: "attr-timeout=TIME", Help: "how long attributes are",
			set: func(s *Share, _, v string) error { return setTimeout(&s.AttrTimeout, v) }},
		{Form: "negative-timeout=TIME", Help: "how long a name is believed to be missing",
			set: func(s *Share, _, v string) error { return setTimeout(&s.NegativeTimeout, v) }},
		{Form: "writeback|no-writeback", Default: "no-writeback", Help: "let the guest delay writes: only for a share nobody else writes to",
			set: func(s *Share, name, _ string) error { s.Writeback = name == "writeback"; return nil }},
		{Form: "locks=guest|host", Default: "guest", Help: "whether file locks hold in this guest, or against other guests and the host too; a process that waits for one then cannot be killed",
			set: func(s *Share, _, v string) error { return choose(&s.Locks, v, LocksGuest, LocksHost) }},
		{Form: "inode-handles=auto|always|never", Default: "auto", Help: "keep inodes by file handle (needs CAP_DAC_READ_SEARCH) where possible, in any case, or not",
			set: func(s *Share, _, v string) error {
				return choose(&s.InodeHandles, v, HandlesAuto, HandlesAlways, HandlesNever)
			}},
		{Form: "owner=guest|squash", Default: "guest", Help: "whether files have the guest's owners, or are all yours on the host and root's in the guest",
			set: func(s *Share, _, v string) error { return choose(&s.Owner, v, OwnerGuest, OwnerSquash) }},
		{Form: "uid-map=RULE", many: true, Help: "translate user ids: map:GUEST:HOST:COUNT, guest:, host:, squash-guest:, squash-host:, forbid-guest:GUEST:COUNT; may be repeated",
			set: func(s *Share, _, v string) error { return addRule(&s.UIDMap, v) }},
		{Form: "gid-map=RULE", many: true, Help: "the same for group ids",
			set: func(s *Share, _, v string) error { return addRule(&s.GIDMap, v) }},
		{Form: "xattr-map=RULES", Help: "translate names of extended attributes, by virtiofsd's rules: :TYPE:SCOPE:KEY:PREPEND: or :map:KEY:PREPEND:",
			set: setXattrMap},
		{Form: "posix-acl", Help: "show and keep POSIX ACLs",
			set: func(s *Share, _, _ string) error { s.ACL = true; return nil }},
		{Form: "security-label", Help: "give new files the label of the guest's security module",
			set: func(s *Share, _, _ string) error { s.SecurityLabel = true; return nil }},
		{Form: "submounts|no-submounts", Default: "submounts", Help: "whether mounts below the directory are file systems of their own to the guest (never under --root's throw-away layer)",
			set: func(s *Share, name, _ string) error { s.Submounts = name == "submounts"; return nil }},
		{Form: "devices", Help: "let the guest make device nodes, as far as the host lets Tenon",
			set: func(s *Share, _, _ string) error { s.Devices = true; return nil }},
		{Form: "dax=always|inode|never", Default: "inode", Help: "which files the guest maps instead of reading them into its own page cache: all, those from dax-min-size on, none",
			set: func(s *Share, _, v string) error { return choose(&s.DAX, v, DAXAlways, DAXInode, DAXNever) }},
		{Form: "dax-window=SIZE", Default: "1G, less where RAM is small, 0 under kernels before 6.0", Help: "how much of its files the guest can have mapped at a time: a power of two from 2M to 16G, best twice of what it works on; 1/64 of it is lost to the guest as memory; 0 is no window",
			set: func(s *Share, _, v string) error { return setWindow(&s.DAXWindow, v) }},
		{Form: "dax-min-size=SIZE", Default: "1M", Help: "the smallest file that dax=inode maps",
			set: func(s *Share, _, v string) (err error) { s.DAXMinSize, err = ParseSize(v); return err }},
		{Form: "dax-fault=sigbus|zero|stop", Default: "sigbus", Help: "what the guest meets where the host has truncated a mapped file: SIGBUS for its program where that can be done (AMD processors; zeros elsewhere, and for its kernel), zeros, or the end of the machine",
			set: func(s *Share, _, v string) error {
				return choose(&s.DAXFault, v, DAXFaultSigbus, DAXFaultZero, DAXFaultStop)
			}},
	}
}

// matches says whether an option's part before the equals sign is o's.
func (o *ShareOption) matches(name string, hasValue bool) bool {
	if want := o.name(); want != "" {
		return name == want
	}
	return !hasValue && slices.Contains(strings.Split(o.Form, "|"), name)
}

// apply sets one option. given has what was said before, by the option's form.
func (s *Share) apply(option string, given map[string]string) error {
	name, value, hasValue := strings.Cut(option, "=")
	for _, o := range ShareOptions() {
		if !o.matches(name, hasValue) {
			continue
		}
		if o.name() != "" && !hasValue {
			return fmt.Errorf("option %q has no value: write %s", option, o.Form)
		}
		if before, ok := given[o.Form]; ok && before != option && !o.many {
			return fmt.Errorf("it says both %s and %s: choose one", before, option)
		}
		given[o.Form] = option
		if err := o.set(s, name, value); err != nil {
			return fmt.Errorf("option %q: %w", option, err)
		}
		return nil
	}
	var known []string
	for _, o := range ShareOptions() {
		known = append(known, o.Form)
	}
	return fmt.Errorf(`unknown option %q: known are %s; write "\\," for a comma in a path`, option, strings.Join(known, ", "))
}

// settle gives what was not said the value that follows from the rest: a share
// that nobody changes is read-only without saying so.
func (s *Share) settle(given map[string]string) error {
	p, err := virtiofs.ParsePolicy(s.Cache)
	if p.NoOpen && given["ro|rw"] != "rw" {
		s.ReadOnly = true
	}
	return err
}

// choose sets dst to one of the words.
func choose[T ~string](dst *T, value string, words ...T) error {
	if !slices.Contains(words, T(value)) {
		var known []string
		for _, w := range words {
			known = append(known, string(w))
		}
		return fmt.Errorf("%q is not known: choose %s", value, strings.Join(known, ", "))
	}
	*dst = T(value)
	return nil
}

func setCache(dst *string, value string) error {
	p, err := virtiofs.ParsePolicy(value)
	*dst = p.Name
	return err
}

func setTimeout(dst **Duration, value string) error {
	d, err := ParseTimeout(value)
	switch {
	case err != nil:
		return err
	case d < 0 || d > maxTimeout:
		return fmt.Errorf("%q is out of range: choose 0 to %d seconds", value, maxTimeout/time.Second)
	}
	t := Duration(d)
	*dst = &t
	return nil
}

func setWindow(dst **uint64, value string) error {
	n, err := ParseSize(value)
	switch {
	case err != nil:
		return err
	case n != 0 && (n < MinDAXWindow || n > MaxDAXWindow || n&(n-1) != 0):
		return fmt.Errorf("%q is no size of a window: choose 0 or a power of two from %s to %s", value, FormatSize(MinDAXWindow), FormatSize(MaxDAXWindow))
	}
	*dst = &n
	return nil
}

func addRule(dst *[]string, rule string) error {
	*dst = append(*dst, rule)
	_, err := idmap.Parse(*dst...)
	return err
}

func setXattrMap(s *Share, _, rules string) error {
	_, err := xattrmap.Parse(rules)
	s.XattrMap = rules
	return err
}

// checkSharing refuses options that contradict each other.
func checkSharing(name string, s Share) error {
	p, err := virtiofs.ParsePolicy(s.Cache)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var errs []error
	o := virtiofs.Options{Policy: p, Writeback: s.Writeback}
	if s.DAX == DAXAlways {
		o.DAX = virtiofs.DAXAlways
	}
	if err := o.Check(s.ReadOnly); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	mapped := len(s.UIDMap)+len(s.GIDMap) > 0
	if s.Owner == OwnerSquash && mapped {
		errs = append(errs, fmt.Errorf("%s: owner=squash contradicts uid-map and gid-map: squash maps every id (drop one)", name))
	}
	if s.ACL && (mapped || s.Owner == OwnerSquash) {
		errs = append(errs, fmt.Errorf("%s: posix-acl contradicts owner=squash, uid-map and gid-map: the ids in ACLs are not translated (drop one)", name))
	}
	if w := s.DAXWindow; w != nil {
		switch {
		case s.DAX == DAXNever && *w != 0:
			errs = append(errs, fmt.Errorf("%s: dax=never contradicts dax-window=%s: a window that maps nothing only costs memory (drop one)", name, FormatSize(*w)))
		case s.DAX == DAXAlways && *w == 0:
			errs = append(errs, fmt.Errorf("%s: dax=always contradicts dax-window=0: there is nothing to map files in (drop one)", name))
		}
	}
	return errors.Join(errs...)
}
