package scale

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// resident is memory of a process in MiB.
type resident struct {
	rss, pss float64 // of all but the guest's
	guest    float64 // its RAM
	file     float64 // of a file, what is shared divided by its users
}

func residentOf(pid int, file string) (resident, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	return add(string(b), file), err
}

// add adds up the mappings of a process. Guest RAM is what it keeps out of its core
// dumps and its children.
func add(smaps, file string) (m resident) {
	for _, v := range mappings(smaps) {
		switch {
		case v.name == file:
			m.file += v.pss
		case v.guest:
			m.guest += v.rss
		default:
			m.rss += v.rss
			m.pss += v.pss
		}
	}
	return m
}

// mapping is one entry of smaps, sizes in MiB.
type mapping struct {
	name     string
	rss, pss float64
	guest    bool
}

// mappings reads smaps (proc_pid_smaps(5)).
func mappings(smaps string) (list []mapping) {
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		key, isField := strings.CutSuffix(f[0], ":")
		if !isField { // addresses, permissions, offset, device, inode, name
			list = append(list, mapping{name: strings.Join(f[min(5, len(f)):], " ")})
			continue
		}
		if len(list) == 0 {
			continue
		}
		v := &list[len(list)-1]
		switch key {
		case "Rss":
			v.rss = mib(f)
		case "Pss":
			v.pss = mib(f)
		case "VmFlags":
			v.guest = slices.Contains(f, "dc") && slices.Contains(f, "dd")
		}
	}
	return list
}

// mib is the value of a field in kB; 0 for one that is none.
func mib(f []string) float64 {
	kb, err := strconv.ParseFloat(f[min(1, len(f)-1)], 64)
	if err != nil {
		return 0
	}
	return kb / 1024
}
