package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"tenon/vmm/config"
	"tenon/vmm/machine"
)

// runner is the machine as run drives it.
type runner interface {
	Run(context.Context) (machine.Outcome, error)
	Signal(sig int)
	Resize(rows, cols uint16)
	Report() machine.Report
	Figures() machine.Figures
	Close() error
}

func (p *program) runCommand() *cli.Command {
	return withHelp(&cli.Command{
		Name:            "run",
		UsageText:       "tenon run [flags] [--] [COMMAND ARG...]",
		Flags:           runFlags(),
		HideHelpCommand: true, // "help" is a COMMAND like any other
		OnUsageError:    usageError,
		Action:          p.run,
	}, runSummary, shareOptionsHelp()+runDetails)
}

// run is `tenon run`. An error it returns is Tenon's own failure.
func (p *program) run(c *cli.Context) error {
	m, err := resolve(c)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return writeJSON(p.stdout, m)
	}
	s := &session{program: p, config: m}
	defer s.closeFiles()
	if err := s.openFiles(); err != nil {
		return err
	}
	p.status, err = s.run()
	return err
}

// session is one run of one machine.
type session struct {
	*program
	config    config.Machine
	kernelLog io.Writer // nil: only the tail is kept
	report    *os.File  // nil: none
	files     []*os.File
}

// openFiles creates the files of the run before anything starts, so that no run is
// lost to a wrong path at its end.
func (s *session) openFiles() error {
	var err error
	switch s.config.KernelLog {
	case "":
	case "-":
		s.kernelLog = s.stderr
	default:
		if s.kernelLog, err = s.create("--kernel-log", s.config.KernelLog); err != nil {
			return err
		}
	}
	if s.config.Report != "" {
		s.report, err = s.create("--report", s.config.Report)
	}
	return err
}

func (s *session) create(flag, name string) (*os.File, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: name a file this user may write", flag, err)
	}
	s.files = append(s.files, f)
	return f, nil
}

func (s *session) closeFiles() {
	for _, f := range s.files {
		_ = f.Close()
	}
}

// run builds the machine, runs it to its end and tells how that was.
func (s *session) run() (int, error) {
	o := machine.Options{
		Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr,
		KernelLog: s.kernelLog,
	}
	term := s.terminal()
	keys := &escapes{src: s.stdin}
	if term != nil {
		o.Terminal, o.Stdin = true, keys
		o.Rows, o.Cols = term.size()
	}
	m, err := s.newMachine(s.config, o)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	ctx, kill := context.WithCancel(context.Background())
	defer kill()
	end := s.ending(m, kill)
	defer end.stop()
	keys.quit = func() { end.ask(hangUp) }
	keys.help = func() { fmt.Fprintf(s.stderr, "\r\ntenon: %s\r\n", escapeHelp) }
	outcome, err := drive(ctx, m, term, keys, end, func() { s.tellFigures(m, term) })
	if err != nil {
		return 0, err
	}
	return s.tell(outcome, end.asked()), s.writeReport(m)
}

// drive runs the machine with the terminal in raw mode, if there is one, and with the
// process's signals. Both are as before when it returns or panics.
func drive(ctx context.Context, m runner, term *terminal, keys *escapes, end *ending, figures func()) (machine.Outcome, error) {
	defer watchSignals(m, term, end, figures)() // until the terminal is restored
	if term != nil {
		if err := term.raw(); err != nil {
			return machine.Outcome{}, fmt.Errorf("terminal: raw mode: %w: start tenon with standard input from a file or pipe", err)
		}
		defer term.restore()
		keys.start()
	}
	return m.Run(ctx)
}

// terminal is the user's terminal when the command is to have one in the guest: both
// standard input and output are. With either redirected the command gets plain
// streams, and what it writes is not mixed or translated by a terminal.
func (s *session) terminal() *terminal {
	out, ok := s.stdout.(*os.File)
	if !ok || newTerminal(out) == nil {
		return nil
	}
	return newTerminal(s.stdin)
}

func (s *session) writeReport(m runner) error {
	if s.report == nil {
		return nil
	}
	if err := writeJSON(s.report, m.Report()); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}

// tellFigures writes what the shares have done so far as one line of JSON; the
// terminal, if there is one, is in raw mode.
func (s *session) tellFigures(m runner, term *terminal) {
	end := "\n"
	if term != nil {
		end = "\r\n"
	}
	if b, err := json.Marshal(m.Figures()); err == nil {
		fmt.Fprintf(s.stderr, "tenon: %s%s", b, end)
	}
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
