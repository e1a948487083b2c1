package vhostuser

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// patience is the time a daemon has for each answer, and to end.
const patience = 10 * time.Second

// Daemon is a virtiofsd that can be started.
type Daemon struct {
	Name     string // in reports
	program  string
	args     func(dir string) []string // to listen on descriptor 3
	patience time.Duration
}

// C is QEMU's virtiofsd, which QEMU 7.2 was the last to have, at a path.
func C(program string) Daemon {
	return Daemon{"C virtiofsd 7.2", program, func(dir string) []string {
		return []string{"--fd=3", "-f", "-o", "source=" + dir, "-o", "sandbox=chroot", "-o", "cache=auto"}
	}, patience}
}

// Rust is the virtiofsd that came after it, of virtio-fs.gitlab.io, at a path.
func Rust(program string) Daemon {
	return Daemon{"Rust virtiofsd 1.13", program, func(dir string) []string {
		return []string{"--fd=3", "--shared-dir=" + dir, "--sandbox=none", "--seccomp=none", "--cache=auto",
			"--inode-file-handles=never", "--rlimit-nofile=0"}
	}, patience}
}

// Options are what it is started with, to be printed beside its figures.
func (d Daemon) Options() string { return strings.Join(d.args("DIR"), " ") }

// Find has scripts/peers find both daemons; the working directory is the root of the
// source tree. What cannot be had is an error; the others are returned nevertheless.
func Find() (list []Daemon, missing []error) {
	for _, peer := range []struct {
		name   string
		daemon func(string) Daemon
	}{{"c", C}, {"rust", Rust}} {
		program, err := find(peer.name)
		if err == nil && peer.name == "c" && os.Geteuid() != 0 {
			err = errors.New("virtiofsd in C runs as root only")
		}
		if err != nil {
			missing = append(missing, err)
			continue
		}
		list = append(list, peer.daemon(program))
	}
	return list, missing
}

// find is the path of a peer.
func find(name string) (string, error) {
	cmd := exec.Command("scripts/peers", name)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("scripts/peers %s: %w: %s", name, err, bytes.TrimSpace(said.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}
