package cli

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"tenon/vmm/machine"
)

// tell says on standard error what the command could not say itself and returns the
// exit status. asked is the signal by which the user ended the run, or 0: then that is
// how the run ended, whatever the command made of it.
func (s *session) tell(o machine.Outcome, asked unix.Signal) int {
	if asked != 0 && o.Kind != machine.TimedOut {
		return statusSignal + int(asked)
	}
	switch o.Kind {
	case machine.Exited:
		return o.Status
	case machine.Signaled:
		return statusSignal + o.Status
	case machine.NotFound:
		s.say("%s", o.Message)
		return statusNotFound
	case machine.NotExecutable:
		s.say("%s", o.Message)
		return statusNotExecutable
	case machine.TimedOut:
		s.say("timeout: the guest was ended after %s", s.config.Timeout)
		return statusTimeout
	case machine.PoweredOff:
		return 0
	case machine.SetupFailed:
		s.say("the guest could not be set up: %s", o.Message)
		s.kernelTail(o.KernelTail)
		return statusFailed
	default:
		s.say("the guest died: %s", o.Message)
		s.kernelTail(o.KernelTail)
		return statusDied
	}
}

// kernelTail shows the last lines of the kernel log, unless the user wants none or
// has seen them.
func (s *session) kernelTail(lines []string) {
	if s.config.Quiet || s.config.KernelLog == "-" {
		return
	}
	if len(lines) == 0 {
		s.say("the kernel said nothing: --console serial may show more")
		return
	}
	s.say("the kernel's last lines:")
	for _, line := range lines {
		fmt.Fprintln(s.stderr, printable(line))
	}
}

// printable keeps a guest from moving the user's cursor or worse.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
}
