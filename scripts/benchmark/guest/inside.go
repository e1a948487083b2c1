package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// setup is what the part on the machine with KVM is told. Paths are the host's; in the
// lab its file system is the root.
type setup struct {
	Rounds, FioRounds int
	Names             int // files that are created, looked at and removed
	Smoke             bool
	Only              string // rows
	Dir               string // for the shares; empty: TMPDIR there
	Stage             string
}

func (s setup) sizes() sizes {
	if s.Smoke {
		return smokeSizes
	}
	z := fullSizes
	z.Names = s.Names
	return z
}

// sample is one value of one round, or a note for the report.
type sample struct {
	Row, Side, Unit string
	Round           int
	Value           float64
	Note            string `json:",omitempty"`
}

// lab is the part on the machine with KVM.
type lab struct {
	setup
	only   *regexp.Regexp
	todo   sizes
	out    *json.Encoder
	tmp    string // programs and the like
	shared string // what guests share
	sides  []side
}

// Lab measures on the machine it is started on. Its argument is a setup; samples go to
// standard output as lines of JSON.
func Lab(args []string) error {
	if len(args) != 1 {
		return errors.New("guest-lab is what the guest harness starts")
	}
	l := &lab{out: json.NewEncoder(os.Stdout)}
	if err := json.Unmarshal([]byte(args[0]), &l.setup); err != nil {
		return err
	}
	l.only = regexp.MustCompile(l.Only)
	l.todo = l.setup.sizes()
	var err error
	if l.tmp, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(l.tmp)
	if l.shared, err = os.MkdirTemp(l.Dir, "bench-shared"); err != nil {
		return err
	}
	defer os.RemoveAll(l.shared)
	if os.Getenv("LAB_EMULATED") != "" {
		unix.Mount("debugfs", "/sys/kernel/debug", "debugfs", 0, "") // for exits
	}
	if err := l.prepare(); err != nil {
		return err
	}
	return l.measure()
}

func logf(format string, a ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", a...) }

// note puts a sentence into the report.
func (l *lab) note(format string, a ...any) {
	logf(format, a...)
	l.out.Encode(sample{Note: fmt.Sprintf(format, a...)})
}

// prepare copies the stage to memory and makes the big files.
func (l *lab) prepare() error {
	from := time.Now()
	if err := copyTree(l.Stage, l.tmp); err != nil {
		return err
	}
	if err := copyTree(filepath.Join(l.tmp, sharedDir), l.shared); err != nil {
		return err
	}
	if err := fillAll(l.shared, l.todo); err != nil {
		return err
	}
	// The copies are other files to git. Told so here, it needs not look into them there.
	cmd := exec.Command("git", "update-index", "--refresh")
	cmd.Dir = filepath.Join(l.shared, gitDir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git update-index: %w: %s", err, out)
	}
	l.makeSides()
	logf("prepared after %.1f s", time.Since(from).Seconds())
	return nil
}

// makeSides finds in the stage what there is to measure.
func (l *lab) makeSides() {
	at := func(name string) string { return filepath.Join(l.tmp, name) }
	os.Setenv("XDG_CACHE_HOME", at("cache"))
	kernel := kernels{at(kernelDir), at("vmlinux")}
	l.sides = []side{{name: tenon, tenon: at(tenonFile), kernel: kernel}}
	for _, peer := range []struct {
		name, qemu, daemon string
		server             func(program) server
	}{{qemuRust, qemu10Dir, rustDir, rustServer}, {qemuC, qemu7Dir, cDir, cServer}} {
		if _, err := os.Stat(at(peer.qemu)); err == nil {
			l.sides = append(l.sides, side{name: peer.name, kernel: kernel,
				qemu: program{at(peer.qemu), "qemu-system-x86_64"}, daemon: peer.server(program{at(peer.daemon), "virtiofsd"})})
		}
	}
}
