// Package guestinit is Tenon as PID 1 of a guest: it mounts the root and the
// shares, runs one command with the standard streams the channel carries, and
// reports how it ended. Whatever goes wrong, the machine ends.
//
// (The folder is called init; Go forbids importing a package under that name.)
package guestinit

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
)

// Marker is the word on the kernel command line that makes a tenon binary
// with PID 1 the guest's init.
const Marker = "tenon.init=1"

// Marked reports whether the kernel command line has the Marker. The kernel
// keeps dotted words from init's arguments and environment, and /proc is not
// mounted when it starts init, so a missing /proc is mounted here. Only PID 1
// should ask.
func Marked() bool {
	if mountProc() != nil {
		return false
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false
	}
	for _, word := range bytes.Fields(line) {
		if string(word) == Marker {
			return true
		}
	}
	return false
}

// Main is the life of the guest. It powers the machine off, or restarts it
// when there was no way to tell the host what happened; it returns only if
// the kernel refuses both.
func Main() int {
	if err := run(stopRequests()); err != nil {
		lastWords(err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	return 1
}

// stopRequests catches the signals by which programs such as poweroff(8) ask
// init to end. Those that mean nothing to init are caught too: without a
// handler they would end the program, and the kernel panics when init ends.
// Ignoring them instead would leave them ignored in the command.
func stopRequests() <-chan os.Signal {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR)
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGPIPE, unix.SIGALRM, unix.SIGABRT)
	return stop
}

// run is Main up to the power switch. The error is what the host could not be told.
func run(stop <-chan os.Signal) error {
	if err := mountProc(); err != nil {
		return err
	}
	for _, m := range []fsMount{sysMount, devMount} {
		if err := mountAt(m); err != nil {
			return err
		}
	}
	var drivers modules
	if err := drivers.open(ModuleDir); err != nil {
		return err
	}
	for _, d := range []string{"virtio_pci", "virtio_console"} {
		if err := drivers.load(d); err != nil {
			return err
		}
	}
	port, err := openPort(channel.PortName)
	if err != nil {
		return err
	}
	s := &session{
		guest:   channel.NewGuest(port),
		drivers: &drivers,
		share:   shareMounter(unix.Mount),
		stop:    stop,
	}
	return s.run()
}

// lastWords puts an error where the host may still see it: the kernel log and
// the console.
func lastWords(err error) {
	for _, out := range []struct{ path, prefix string }{
		{"/dev/kmsg", "<2>"}, // KERN_CRIT: shown in spite of "quiet"
		{"/dev/console", ""},
	} {
		if f, openErr := os.OpenFile(out.path, os.O_WRONLY, 0); openErr == nil {
			fmt.Fprintf(f, "%stenon init: %v\n", out.prefix, err)
			f.Close()
		}
	}
}
