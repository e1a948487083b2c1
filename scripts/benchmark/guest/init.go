package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Init is the guest's init. Its argument is the tag of the share with the plan.
func Init(args []string) error {
	if os.Getpid() != 1 || len(args) != 1 {
		return errors.New("guest-init is what guests start")
	}
	if err := doPlan(args[0]); err != nil {
		fmt.Println("bench: guest:", err)
	}
	fmt.Println(saidDone)
	time.Sleep(100 * time.Millisecond) // a console may need interrupts to get it out
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func doPlan(tag string) error {
	if err := prepare(); err != nil {
		return err
	}
	first := share{Tag: tag}
	if err := first.mount(); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(first.mounted(), planFile))
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	for _, s := range p.Shares[1:] {
		if err := s.mount(); err != nil {
			return err
		}
	}
	fmt.Println(saidWork)
	from := time.Now()
	list := p.perform()
	list = append(list, outcome{Row: clockRow, Unit: "ns", Value: float64(time.Since(from))})
	out, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(first.mounted(), resultFile), out, 0o644)
}

// prepare makes a system of the initramfs.
func prepare() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := errors.Join(os.MkdirAll(m.at, 0o755), unix.Mount(m.kind, m.at, m.kind, 0, "")); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	os.Setenv("PATH", "/bin")
	os.Setenv("HOME", "/tmp")
	return exec.Command("/bin/busybox", "--install", "-s", "/bin").Run()
}

func (s share) mount() error {
	options := ""
	if s.DAX {
		options = "dax=always" // fails where there is no window
	}
	if err := os.MkdirAll(s.mounted(), 0o755); err != nil {
		return err
	}
	if err := unix.Mount(s.Tag, s.mounted(), "virtiofs", 0, options); err != nil {
		return fmt.Errorf("mount %s: %w", s.Tag, err)
	}
	return nil
}

// perform does all steps, share by share.
func (p plan) perform() []outcome {
	var list []outcome
	for _, s := range p.Shares {
		for _, todo := range p.Steps[s.Tag] {
			list = append(list, todo.perform(s)...)
		}
	}
	return list
}

func (t step) perform(s share) []outcome {
	o := outcome{Row: t.Row, Tag: s.Tag, Unit: "ns"}
	var err error
	switch t.Do {
	case transfer:
		o.Value, err = t.transfer(s)
	case touch:
		o.Value, err = t.touch(s)
	case create, stat, unlink:
		o.Value, err = t.names(s)
	case command:
		o.Unit = "ms"
		o.Value, err = t.command(s)
	case fio:
		return t.fio(s)
	case idle:
		err = t.idle()
	default:
		err = fmt.Errorf("no action %q", t.Do)
	}
	if err != nil {
		o.Err = err.Error()
	}
	return []outcome{o}
}

// idle lets the machine come to rest while the host looks at its processes.
func (t step) idle() error {
	fmt.Println(saidIdle)
	time.Sleep(3 * time.Second)
	return nil
}

// dropCaches has the guest forget what it knows of files.
func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}
