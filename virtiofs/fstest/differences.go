package fstest

import (
	"slices"
	"strings"
)

// Difference is an answer that may differ from the control's.
type Difference struct {
	Case   string
	Call   string // the line up to " = ", or its beginning if it ends in "*"
	Answer string // the subject's; "" is any
	// On names where it occurs: all labels of an element must be given to Compare,
	// for one element at least. A label after "!" must not be given. Labels in use:
	// raw (a Client), guest, ro, devices, locks, writeback, the policy's name, and tmpfs for
	// what is shared.
	On     []string
	Reason string
}

func (d *Difference) applies(labels []string) bool {
	return slices.ContainsFunc(d.On, func(all string) bool {
		for _, l := range strings.Fields(all) {
			if no, negated := strings.CutPrefix(l, "!"); negated == slices.Contains(labels, no) {
				return false
			}
		}
		return true
	})
}

func (d *Difference) allows(want, got string) bool {
	call, _ := split(want)
	subject, answer := split(got)
	prefix, open := strings.CutSuffix(d.Call, "*")
	return call == subject && (call == d.Call || open && strings.HasPrefix(call, prefix)) &&
		(d.Answer == "" || d.Answer == answer)
}

// Differences is what differs from a local file system, and why.
func Differences() []Difference { return slices.Clone(differences) }

const keepsSetgid = "FUSE_HANDLE_KILLPRIV_V2 leaves the set-group-id bit on files without group execution permission; " +
	"a local file system takes it too when the writer is not in the file's group"

var differences = []Difference{
	{
		Case: "devices", Call: "*", On: []string{"!devices"},
		Reason: "a share makes no device nodes unless it is told to: a host that mounts the directory would honour them",
	},
	{
		Case: "fallocate-shift", Call: `fd1("f") fallocate*`, Answer: "ENOTSUP", On: []string{"!tmpfs"},
		Reason: "Linux's FUSE driver refuses all modes but KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE, and so does the server",
	},
	{
		Case: "setid-write", Call: `stat "6767-*`, On: []string{"raw", "guest"},
		Reason: keepsSetgid,
	},
	{
		Case: "setid-write", Call: `stat "2766-*`, On: []string{"raw", "guest"},
		Reason: keepsSetgid,
	},
	{
		Case: "times", Call: `chown-nothing: changed in "f"`, Answer: "nothing", On: []string{"raw", "guest !writeback"},
		Reason: "chown(2) of -1:-1 comes as an empty SETATTR, which changes nothing: POSIX leaves the times to the system",
	},
	{
		Case: "times", Call: `truncate-same: changed in "f"`, Answer: "nothing", On: []string{"guest writeback"},
		Reason: "with a writeback cache the guest keeps the times, and Linux's FUSE driver lets truncate(2) to the same size leave them",
	},
	{
		Case: "utimens-far", Call: "times*", On: []string{"guest writeback"},
		Reason: "with a writeback cache the guest keeps the times, and does not know which ones the host cannot store",
	},
	{
		Case: "holes", Call: "blocks*", On: []string{"guest writeback"},
		Reason: "with a writeback cache the guest does not ask for a file's blocks again after it has written its pages",
	},
	{
		Case: "seek-dirty", Call: `fd1("f") lseek*`, On: []string{"guest writeback"},
		Reason: "with a writeback cache Linux asks the host for data and holes before it has written its own pages",
	},
	{
		Case: "read-only", Call: "*", Answer: "EROFS", On: []string{"raw"},
		Reason: "the server refuses changes before it looks at names and handles, a guest's kernel looks before it asks",
	},
}
