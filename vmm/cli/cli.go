// Package cli is the command line: it turns flags into a config.Machine, runs
// the machine with the user's terminal and signals, and turns how it ended into
// an exit status. It is the only package that prints or exits.
//
// Standard output belongs to the command in the guest. Tenon's own words go to
// standard error, one line each, starting with "tenon: ".
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"tenon/vmm/config"
	"tenon/vmm/machine"
)

// Exit statuses of Tenon itself; every other one is the command's own.
const (
	statusTimeout       = 124 // as timeout(1)
	statusFailed        = 125 // Tenon's own failure, bad usage included, as docker run
	statusNotExecutable = 126 // as POSIX shells, this one and the next two
	statusNotFound      = 127
	statusSignal        = 128 // plus the signal's number
	statusDied          = 255 // the guest ended without reporting a status
)

// program is a process as the commands see it. Tests replace its parts.
type program struct {
	stdin          *os.File
	stdout, stderr io.Writer
	newMachine     func(config.Machine, machine.Options) (runner, error)
	probe          func() machine.Capabilities
	// inspect returns a kernel's release and how it has virtio-fs.
	inspect func(kernel) (release, how string, err error)

	status int // what the command that ran ends with
}

// Main runs the command line args, whose first element is the program's name, and
// returns the process's exit status.
func Main(args []string) int {
	p := &program{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		newMachine: newMachine, probe: machine.Probe, inspect: inspect,
	}
	return p.main(args)
}

func (p *program) main(args []string) int {
	if err := p.app().Run(args); err != nil {
		p.complain(err)
		return statusFailed
	}
	return p.status
}

func (p *program) app() *cli.App {
	return &cli.App{
		Name:      "tenon",
		HelpName:  "tenon",
		Commands:  []*cli.Command{p.runCommand(), p.doctorCommand(), p.versionCommand()},
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "version"}},
		Action:    p.noCommand,
		Writer:    p.stdout,
		ErrWriter: p.stderr,

		CustomAppHelpTemplate: appUsage,

		DisableSliceFlagSeparator: true, // a comma in a share starts its options
		OnUsageError:              usageError,
		ExitErrHandler:            func(*cli.Context, error) {}, // main decides on the status
	}
}

// noCommand answers a tenon without a command, or with one it does not know.
func (p *program) noCommand(c *cli.Context) error {
	name := c.Args().First()
	switch {
	case c.Bool("version"):
		return p.version(c)
	case name == "":
		return cli.ShowAppHelp(c)
	}
	return fmt.Errorf("unknown command %q%s: `tenon --help` lists the commands",
		name, didYouMean(name, cli.SuggestCommand(c.App.Commands, name)))
}

// say writes a line of Tenon's own.
func (p *program) say(format string, args ...any) {
	fmt.Fprintf(p.stderr, "tenon: "+format+"\n", args...)
}

// complain writes every error err joins on a line of its own.
func (p *program) complain(err error) {
	for _, line := range strings.Split(err.Error(), "\n") {
		p.say("%s", line)
	}
}

// usageError makes one clear line of a flag error. The flag package names a wrong
// flag only in its message.
func usageError(c *cli.Context, err error, _ bool) error {
	help := strings.TrimSpace(c.Command.HelpName) + " --help"
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		dashes := "--"
		if len(name) == 1 {
			dashes = "-"
		}
		return fmt.Errorf("unknown flag %s%s%s: `%s` lists the flags",
			dashes, name, didYouMean(name, cli.SuggestFlag(c.Command.Flags, name, false)), help)
	}
	if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: -"); ok {
		return fmt.Errorf("flag -%s needs a value: `%s` says which", name, help)
	}
	return errors.New(err.Error() + ": see `" + help + "`")
}

// didYouMean turns urfave/cli's closest name into a question. It always has one,
// however far: only names that begin alike are worth asking about.
func didYouMean(name, suggestion string) string {
	suggestion = strings.TrimSuffix(strings.TrimPrefix(suggestion, `Did you mean "`), `"?`)
	bare := strings.TrimLeft(suggestion, "-")
	if len(name) < 2 || len(bare) < 2 || name[0] != bare[0] {
		return ""
	}
	return " (did you mean " + suggestion + "?)"
}

// noArguments refuses arguments of a command that takes flags only.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("%s takes no argument %q: `%s --help` lists its flags", c.Command.HelpName, c.Args().First(), c.Command.HelpName)
	}
	return nil
}
