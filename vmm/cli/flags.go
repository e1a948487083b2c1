package cli

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	guestinit "tenon/guest/init"
	"tenon/vmm/config"
)

// Groups of flags in the help.
const (
	groupKernel  = "Kernel"
	groupMachine = "Machine"
	groupFiles   = "Files"
	groupOutput  = "Run and report"
	groupFlags   = "Flags" // of commands with few
)

// runFlags are plain strings where they carry a grammar: config reads them, so that
// one run reports the errors of all of them.
func runFlags() []cli.Flag {
	d := config.Default()
	return []cli.Flag{
		&cli.StringFlag{Category: groupKernel, Name: "kernel", Aliases: []string{"k"}, DefaultText: "the cache's",
			Usage: "boot `FILE` (bzImage or vmlinux), the kernel in a directory, a kernel of the cache by its name, or host: the running kernel"},
		&cli.StringFlag{Category: groupKernel, Name: "initrd", Aliases: []string{"i"},
			Usage: "boot with the initrd `FILE`, whose own init is in charge: no COMMAND, no volumes"},
		&cli.BoolFlag{Category: groupKernel, Name: "no-initrd",
			Usage: "let the kernel mount the root itself: virtio-fs must be built into it"},
		&cli.StringFlag{Category: groupKernel, Name: "append", Aliases: []string{"a"},
			Usage: "add `TEXT` to the kernel's command line"},
		&cli.StringFlag{Category: groupKernel, Name: "cmdline",
			Usage: "replace the kernel's command line by `TEXT`; for a COMMAND it must hold " + guestinit.Marker},
		&cli.StringFlag{Category: groupKernel, Name: "console", DefaultText: string(d.Console),
			Usage: "`hvc|serial`: carry the kernel's console over virtio, or a 16550, which also serves where virtio-console is a module"},

		&cli.StringFlag{Category: groupMachine, Name: "cpus", Aliases: []string{"c"}, DefaultText: "as many as the host",
			Usage: fmt.Sprintf("`N`: how many CPUs, 1 to %d", config.MaxCPUs)},
		&cli.StringFlag{Category: groupMachine, Name: "memory", Aliases: []string{"m"}, DefaultText: config.FormatSize(d.Memory),
			Usage: "`SIZE`: how much RAM, in MiB or a whole number with K, M, G or T"},

		&cli.StringFlag{Category: groupFiles, Name: "root", DefaultText: "/,ro",
			Usage: "`DIR[,OPTION]`: the host directory that is the guest's /; read-only under a throw-away writable layer unless it says rw"},
		&cli.StringSliceFlag{Category: groupFiles, Name: "volume", Aliases: []string{"v"},
			Usage: "`HOST:GUEST[,OPTION]`: mount the host directory HOST at GUEST, writable unless it says ro; may be repeated"},
		&cli.StringSliceFlag{Category: groupFiles, Name: "share",
			Usage: "`TAG=DIR[,OPTION]`: offer the host directory DIR to a mount -t virtiofs TAG in the guest, writable unless it says ro; may be repeated"},
		&cli.StringFlag{Category: groupFiles, Name: "service", DefaultText: string(d.Service),
			Usage: "`exit|worker|poll|auto`: serve file requests on the vCPU's exit, in a pool of workers, in threads that look for more of them for a while (for deep queues and free CPUs), or the short ones on the exit"},

		&cli.StringFlag{Category: groupOutput, Name: "timeout",
			Usage: "end the guest after `TIME` (90, 90s, 5m) with status 124"},
		&cli.BoolFlag{Category: groupOutput, Name: "quiet", Aliases: []string{"q"},
			Usage: "no kernel lines, not even when the guest died"},
		&cli.StringFlag{Category: groupOutput, Name: "kernel-log",
			Usage: "write the whole kernel log to `FILE`; - is standard error"},
		&cli.StringFlag{Category: groupOutput, Name: "report",
			Usage: "write stage times, memory use and each share's requests and mappings to `FILE` as JSON"},
		&cli.BoolFlag{Category: groupOutput, Name: "dry-run",
			Usage: "print the resolved machine as JSON and start nothing"},
	}
}

// resolve makes a machine of the command line, or reports everything wrong with it.
func resolve(c *cli.Context) (config.Machine, error) {
	m := config.Default()
	m.NoInitrd, m.Quiet = c.Bool("no-initrd"), c.Bool("quiet")
	m.Append, m.Cmdline = c.String("append"), c.String("cmdline")
	m.Command = c.Args().Slice()
	k, err := findKernel(c.String("kernel"))
	m.Kernel, m.Modules = k.Image, k.Modules
	err = errors.Join(
		err,
		set(c, "initrd", &m.Initrd, filepath.Abs),
		set(c, "console", &m.Console, as[config.Console]),
		set(c, "cpus", &m.CPUs, config.ParseCPUs),
		set(c, "memory", &m.Memory, config.ParseSize),
		set(c, "root", &m.Root, config.ParseRoot),
		each(c, "volume", &m.Volumes, config.ParseVolume),
		each(c, "share", &m.Shares, config.ParseShare),
		set(c, "service", &m.Service, as[config.Service]),
		set(c, "timeout", &m.Timeout, config.ParseTimeout),
		set(c, "kernel-log", &m.KernelLog, logFile),
		set(c, "report", &m.Report, filepath.Abs),
	)
	for i := range m.Volumes {
		m.Volumes[i].Tag = config.VolumeTag(i)
	}
	m.Dir, m.Env = workingDir(&m), environment(&m)
	return m, errors.Join(err, m.Validate())
}

// set reads the flag's value into dst when the flag was given.
func set[T any](c *cli.Context, flag string, dst *T, parse func(string) (T, error)) error {
	if !c.IsSet(flag) {
		return nil
	}
	v, err := parse(c.String(flag))
	if err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	*dst = v
	return nil
}

// each reads every value of a flag that may be repeated; good ones count even
// beside bad ones, so that Validate sees them.
func each[T any](c *cli.Context, flag string, dst *[]T, parse func(string) (T, error)) error {
	var errs []error
	for _, s := range c.StringSlice(flag) {
		v, err := parse(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
			continue
		}
		*dst = append(*dst, v)
	}
	return errors.Join(errs...)
}

// as takes a word as it is; Validate knows which words there are.
func as[T ~string](s string) (T, error) { return T(s), nil }

// logFile makes a file name absolute and leaves "-" for standard error.
func logFile(s string) (string, error) {
	if s == "-" {
		return s, nil
	}
	return filepath.Abs(s)
}
