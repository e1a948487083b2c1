package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is a guest that is to be started.
type machine struct {
	Memory  int // MiB
	Shares  []share
	Initrd  string // a file
	Root    bool   // the first share is the root, there is no initrd
	Append  string // to the kernel's command line
	Board   string // of QEMU; empty: microvm
	BzImage bool   // QEMU gets the compressed kernel, as it is installed
	Dir     string // of this guest, for sockets
}

// server is a virtiofsd beside its guest.
type server struct {
	program program
	args    func(s share, socket string) []string
}

// side starts guests.
type side struct {
	name   string
	tenon  string // the program; empty: QEMU
	qemu   program
	daemon server
	kernel kernels
}

// kernels is one kernel: the directory with its vmlinuz, and the same unpacked.
type kernels struct{ dir, vmlinux string }

// cmdline is what both sides have in common. Tenon's own comes before it.
const cmdline = "quiet panic=-1 reboot=t 8250.nr_uarts=1 random.trust_cpu=on cryptomgr.notests"

// commands are what a user starts for a guest, in order; the last is the one that has
// the guest's console as its standard output. Before it starts, all sockets are there.
func (s side) commands(m machine) (list [][]string, sockets []string) {
	if s.tenon != "" {
		return [][]string{s.tenonCommand(m)}, nil
	}
	for _, sh := range m.Shares {
		socket := filepath.Join(m.Dir, sh.Tag+".sock")
		sockets = append(sockets, socket)
		list = append(list, s.daemon.program.args(s.daemon.args(sh, socket)...))
	}
	return append(list, s.qemuCommand(m, sockets)), sockets
}

// tenonKnob is the environment variable with more arguments for tenon run.
const tenonKnob = "TENON_BENCH_ARGS"

func (s side) tenonCommand(m machine) []string {
	args := []string{s.tenon, "run", "-k", s.kernel.dir, "-c", "1", "-m", fmt.Sprintf("%dM", m.Memory), "--kernel-log", "-"}
	shares := m.Shares
	if m.Root {
		args = append(args, "--no-initrd", "--root", shares[0].Dir+",rw"+tenonOptions(shares[0]))
		shares = shares[1:]
	} else {
		args = append(args, "-i", m.Initrd)
	}
	for _, sh := range shares {
		args = append(args, "--share", sh.Tag+"="+sh.Dir+tenonOptions(sh))
	}
	args = append(args, strings.Fields(os.Getenv(tenonKnob))...)
	return append(args, "-a", cmdline+" "+m.Append)
}

func tenonOptions(s share) string {
	if s.DAX {
		return fmt.Sprintf(",cache=%s,dax=always,dax-window=1G", s.Cache)
	}
	return fmt.Sprintf(",cache=%s,dax=never,dax-window=0", s.Cache)
}

func (s side) qemuCommand(m machine, sockets []string) []string {
	board := m.Board
	if board == "" {
		board = "microvm,pcie=on,rtc=off,pit=off,pic=off"
	}
	line := cmdline + " console=ttyS0 "
	if m.Root {
		line += fmt.Sprintf("root=%s rootfstype=virtiofs rw ", m.Shares[0].Tag)
	}
	kernel := s.kernel.vmlinux
	if m.BzImage {
		kernel = filepath.Join(s.kernel.dir, "vmlinuz")
	}
	args := []string{"-L", filepath.Join(s.qemu.dir, "share"),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-M", board + ",accel=kvm,memory-backend=ram", "-cpu", "host", "-smp", "1", "-m", fmt.Sprintf("%dM", m.Memory),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", m.Memory),
		"-kernel", kernel, "-append", line + m.Append}
	if !m.Root {
		args = append(args, "-initrd", m.Initrd)
	}
	for i, sh := range m.Shares {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=c%d,path=%s", i, sockets[i]),
			"-device", fmt.Sprintf("vhost-user-fs-pci,chardev=c%d,tag=%s,queue-size=1024", i, sh.Tag))
	}
	return s.qemu.args(args...)
}

// cServer and rustServer are the two virtiofsds, as their manuals say to start them.
func cServer(p program) server {
	return server{p, func(s share, socket string) []string {
		cache := s.Cache
		if cache == "never" {
			cache = "none"
		}
		return []string{"--socket-path=" + socket, "-o", "source=" + s.Dir, "-o", "cache=" + cache}
	}}
}

func rustServer(p program) server {
	return server{p, func(s share, socket string) []string {
		return []string{"--socket-path=" + socket, "--shared-dir=" + s.Dir, "--cache=" + s.Cache}
	}}
}

// running is a guest that was started, with what serves it.
type running struct {
	cmds    []*exec.Cmd
	console *console
	started time.Time     // before the first of them
	gone    chan struct{} // closed when the last of them has ended; nil before it is started
}

// start starts a guest the way its users do.
func (s side) start(m machine) (*running, error) {
	commands, sockets := s.commands(m)
	r := &running{console: newConsole()}
	log, err := os.Create(filepath.Join(m.Dir, "servers.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.started = time.Now()
	for i, args := range commands {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
		cmd.Stdout, cmd.Stderr = log, log
		if i == len(commands)-1 {
			cmd.Stdout, cmd.Stderr = r.console, r.console
			if err := await(sockets); err != nil {
				r.stop()
				return nil, errors.Join(err, tail(log.Name()))
			}
		}
		if err := cmd.Start(); err != nil {
			r.stop()
			return nil, err
		}
		r.cmds = append(r.cmds, cmd)
	}
	r.gone = make(chan struct{})
	go func() {
		r.cmds[len(r.cmds)-1].Wait()
		r.console.end()
		close(r.gone)
	}()
	return r, nil
}

// await waits until sockets are there.
func await(sockets []string) error {
	limit := time.Now().Add(20 * time.Second)
	for _, path := range sockets {
		for {
			if _, err := os.Stat(path); err == nil {
				break
			}
			if time.Now().After(limit) {
				return fmt.Errorf("%s did not appear", filepath.Base(path))
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// tail is the end of a log as an error.
func tail(path string) error {
	b, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return errors.New(strings.Join(lines[max(0, len(lines)-15):], "\n"))
}

// stop ends everything.
func (r *running) stop() {
	for i := len(r.cmds) - 1; i >= 0; i-- {
		for _, pid := range family(r.cmds[i].Process.Pid) {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	if r.gone == nil { // nobody waits for the last one
		for _, cmd := range r.cmds {
			cmd.Wait()
		}
		return
	}
	for _, cmd := range r.cmds[:len(r.cmds)-1] {
		cmd.Wait()
	}
	<-r.gone
}
