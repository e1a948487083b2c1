package figures

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is where and when figures were made.
type Host struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	KVM    string `json:"kvm"` // what runs guests
	Go     string `json:"go"`
	Commit string `json:"commit"`
	Date   string `json:"date"` // UTC
}

// ThisHost describes the machine the process runs on. What cannot be found out is
// "unknown".
func ThisHost() Host {
	var u unix.Utsname
	unix.Uname(&u)
	return Host{
		CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(),
		Kernel: unix.ByteSliceToString(u.Release[:]), KVM: backEnd(), Go: runtime.Version(),
		Commit: commit(), Date: time.Now().UTC().Format("2006-01-02"),
	}
}

func (h Host) String() string {
	return fmt.Sprintf("%s; %s, %d cores, Linux %s, KVM: %s, %s, commit %s", h.Date, h.CPU, h.Cores, h.Kernel, h.KVM, h.Go, h.Commit)
}

// field is the first value of a key in a file of "key : value" lines.
func field(file, key string) string {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// backEnd says what runs guests: the processor's extension, or that there is none.
func backEnd() string {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return "none"
	}
	flags := strings.Fields(field("/proc/cpuinfo", "flags"))
	for _, extension := range []string{"vmx", "svm"} {
		if slices.Contains(flags, extension) {
			return extension
		}
	}
	return "paravirtual (no vmx, no svm)"
}

// commit is what the working tree is at; "+" says that it has changes.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty=+").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
