package cli

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"tenon/vmm/machine"
)

// statusUnfit is what doctor ends with when a check failed.
const statusUnfit = 1

func (p *program) doctorCommand() *cli.Command {
	return withHelp(&cli.Command{
		Name:            "doctor",
		UsageText:       "tenon doctor [--kvm-only]",
		HideHelpCommand: true,
		OnUsageError:    usageError,
		Flags: []cli.Flag{&cli.BoolFlag{Category: groupFlags, Name: "kvm-only",
			Usage: "for scripts: only check that KVM runs stock kernels, and print nothing when it does"}},
		Action: p.doctor,
	}, doctorSummary, doctorDetails)
}

// check is one line of doctor.
type check struct {
	what string
	good string // what was found
	err  error  // or what is wrong, and what to do about it
}

func (p *program) doctor(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	kvm := p.probe()
	if c.Bool("kvm-only") {
		if !kvm.StockKernels {
			p.say("%s", kvm.Reason)
			p.status = statusUnfit
		}
		return nil
	}
	for _, k := range append(kvmChecks(kvm), p.kernelChecks()...) {
		verdict := "ok"
		if k.err != nil {
			verdict, k.good, p.status = "FAIL", k.err.Error(), statusUnfit
		}
		fmt.Fprintf(p.stdout, "%-4s  %-13s  %s\n", verdict, k.what, k.good)
	}
	return nil
}

// kvmChecks stops at the first failure: the others follow from it.
func kvmChecks(c machine.Capabilities) []check {
	var list []check
	for _, step := range []struct {
		ok         bool
		what, good string
	}{
		{c.Present, "KVM", "/dev/kvm is there"},
		{c.Permitted, "permission", "this user may open /dev/kvm"},
		{c.StockKernels, "stock kernels", "KVM runs what they need"},
	} {
		if !step.ok {
			return append(list, check{what: step.what, err: errors.New(c.Reason)})
		}
		list = append(list, check{what: step.what, good: step.good})
	}
	return list
}

// kernelChecks looks at the kernel that run boots by default.
func (p *program) kernelChecks() []check {
	found := check{what: "kernel"}
	k, err := findKernel("")
	if err == nil && !exists(k.Image) {
		err = fmt.Errorf("there is no %s: run scripts/kernel", k.Image)
	}
	if found.err = err; err != nil {
		return []check{found}
	}
	release, how, err := p.inspect(k)
	if release == "" {
		found.err = err
		return []check{found}
	}
	found.good = release + ", " + k.Image
	return []check{found, {what: "virtio-fs", good: how, err: err}}
}
