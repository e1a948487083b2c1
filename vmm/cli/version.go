package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

func (p *program) versionCommand() *cli.Command {
	return withHelp(&cli.Command{
		Name:            "version",
		UsageText:       "tenon version [--verbose]",
		HideHelpCommand: true,
		OnUsageError:    usageError,
		Flags: []cli.Flag{&cli.BoolFlag{Category: groupFlags, Name: "verbose",
			Usage: "also print the commit, the Go version, the modules built in and what this host's KVM can do"}},
		Action: p.version,
	}, "Prints Tenon's version.\n", "")
}

func (p *program) version(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	fmt.Fprintf(p.stdout, "tenon %s\n", versionOf(info))
	if !c.Bool("verbose") {
		return nil
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			fmt.Fprintf(p.stdout, "commit   %s\n", s.Value)
		case "vcs.time":
			fmt.Fprintf(p.stdout, "date     %s\n", s.Value)
		}
	}
	fmt.Fprintf(p.stdout, "go       %s %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, d := range info.Deps {
		fmt.Fprintf(p.stdout, "module   %s %s\n", d.Path, d.Version)
	}
	kvm := "runs stock kernels"
	if c := p.probe(); !c.StockKernels {
		kvm = c.Reason
	}
	fmt.Fprintf(p.stdout, "kvm      %s\n", kvm)
	return nil
}

// versionOf is what the Go toolchain stamped in: the tag of the commit that was
// built, or a pseudo-version with its time and hash, "+dirty" when files had changed.
func versionOf(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return "(built without version control)"
}
