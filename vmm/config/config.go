// Package config is the machine as the user asked for it: plain structs with
// defaults, grammars for sizes and shares, and Validate, which reports every
// error at once. It opens nothing and has no behaviour.
package config

import (
	"bytes"
	"encoding/json"
	"runtime"
	"time"
)

// Machine is one machine, resolved: every path absolute, every default filled in.
type Machine struct {
	Kernel    string        `json:"kernel"`               // bzImage or vmlinux ELF
	Modules   string        `json:"modules,omitempty"`    // the kernel's lib/modules/RELEASE on the host; empty: none found
	Initrd    string        `json:"initrd,omitempty"`     // the user's own initrd; then no command runs, its /init is in charge
	NoInitrd  bool          `json:"no_initrd"`            // boot straight from the root share
	Append    string        `json:"append,omitempty"`     // added to the kernel command line
	Cmdline   string        `json:"cmdline,omitempty"`    // replaces the kernel command line
	CPUs      int           `json:"cpus"`                 // 1..MaxCPUs
	Memory    uint64        `json:"memory"`               // bytes of guest RAM
	Root      Share         `json:"root"`                 // the guest's /
	Volumes   []Share       `json:"volumes,omitempty"`    // mounted at Share.Guest before the command runs
	Shares    []Share       `json:"shares,omitempty"`     // devices only: the guest mounts them itself
	Console   Console       `json:"console"`              //
	Service   Service       `json:"service"`              //
	Timeout   time.Duration `json:"timeout,omitempty"`    // 0: none
	Quiet     bool          `json:"quiet"`                // no kernel lines even on failure
	KernelLog string        `json:"kernel_log,omitempty"` // file for the whole kernel log; "-" is standard error
	Report    string        `json:"report,omitempty"`     // file for the JSON report
	Command   []string      `json:"command,omitempty"`    // argv; empty: a login shell
	Dir       string        `json:"dir,omitempty"`        // working directory inside the guest
	Env       []string      `json:"env,omitempty"`        // KEY=VALUE
}

// Share is one host directory given to the guest by one virtio-fs device.
type Share struct {
	Tag      string `json:"tag"`             // 1-36 bytes UTF-8
	Dir      string `json:"dir"`             // host directory
	Guest    string `json:"guest,omitempty"` // mount point inside the guest
	ReadOnly bool   `json:"read_only"`       // enforced by the device
	Sharing
}

// Console chooses what carries the kernel's console.
type Console string

// The consoles: virtio-console as hvc0, or the 16550 as ttyS0.
const (
	ConsoleHVC    Console = "hvc"
	ConsoleSerial Console = "serial"
)

// Service chooses where file requests are served.
type Service string

// ServiceExit serves on the vCPU's own exit, ServiceWorker in the pool,
// ServiceAuto on the exit what is short and in the pool what may block, ServicePoll
// in a thread that looks for requests itself for a while after each doorbell, and in
// the pool what may block.
const (
	ServiceExit   Service = "exit"
	ServiceWorker Service = "worker"
	ServiceAuto   Service = "auto"
	ServicePoll   Service = "poll"
)

const (
	// MaxCPUs is what 8-bit local APIC ids can name: 255 is the broadcast id
	// (Intel SDM volume 3, 12.6.1).
	MaxCPUs = 255
	// MinMemory in bytes is the least RAM worth trying; the kernel's own need
	// is checked when it is loaded.
	MinMemory = 64 << 20
	// MaxShares is how many volumes and shares fit beside the root: PCI bus 0
	// has 32 slots, of which the host bridge, the console, the random number
	// source and the root take four.
	MaxShares = 28
	// MaxCmdline is the longest kernel command line in bytes on x86
	// (COMMAND_LINE_SIZE less its NUL).
	MaxCmdline = 2047
	// RootTag is the tag of the root's device. The dot keeps it away from tags
	// people choose, and the letters from what the kernel reads as a device number.
	RootTag = "tenon.root"
)

// Default is the machine of a plain `tenon run`: the host's / read-only, all of
// the host's CPUs and 1 GiB. Its Kernel is empty: finding one is the caller's.
func Default() Machine {
	return Machine{
		CPUs:    min(runtime.NumCPU(), MaxCPUs),
		Memory:  1 << 30,
		Root:    Share{Tag: RootTag, Dir: "/", ReadOnly: true, Sharing: DefaultSharing()},
		Console: ConsoleHVC,
		Service: ServiceAuto,
	}
}

// MarshalJSON writes the machine with its timeout as people write it ("1m30s").
func (m Machine) MarshalJSON() ([]byte, error) {
	type plain Machine // without this method
	out := struct {
		plain
		Timeout string `json:"timeout,omitempty"` // hides plain.Timeout
	}{plain: plain(m)}
	if m.Timeout != 0 {
		out.Timeout = m.Timeout.String()
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // a command's <, > and & stay legible
	err := e.Encode(out)
	return b.Bytes(), err
}
