// Tenon boots Linux microVMs on KVM and gives them host directories through a
// virtio-fs device inside the VMM process.
package main

import (
	"os"

	guestinit "tenon/guest/init"
	"tenon/vmm/cli"
)

// The same binary is the VMM outside and the init inside: a guest starts it as PID 1
// with a word of ours on the kernel command line. PID 1 of a container has no such word.
func main() {
	if os.Getpid() == 1 && guestinit.Marked() {
		os.Exit(guestinit.Main())
	}
	os.Exit(cli.Main(os.Args))
}
