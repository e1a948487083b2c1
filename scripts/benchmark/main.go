// Command benchmark measures Tenon beside its peers, or beside the bare system calls,
// in the same run. scripts/bench builds and starts it.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"tenon/scripts/benchmark/device"
	"tenon/scripts/benchmark/exit"
	"tenon/scripts/benchmark/figures"
	"tenon/scripts/benchmark/guest"
	"tenon/scripts/benchmark/scale"
)

// harnesses is what can be run, by name.
var harnesses = map[string]func(figures.Options) (figures.Report, error){
	"device": device.Run,
	"exit":   exit.Run,
	"guest":  guest.Run,
	"scale":  scale.Run,
}

// children is what harnesses start this program for: the rest of the arguments is
// theirs.
var children = map[string]func([]string) error{"guest-lab": guest.Lab, "guest-init": guest.Init}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("give device, exit, guest, scale or show")
	}
	if args[0] == "show" {
		return show(args[1:])
	}
	if child := children[args[0]]; child != nil {
		return child(args[1:])
	}
	harness := harnesses[args[0]]
	if harness == nil {
		return fmt.Errorf("%q: give device, exit, guest, scale or show", args[0])
	}
	o := figures.Options{Log: func(format string, a ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", a...) }}
	flags := flag.NewFlagSet("scripts/bench "+args[0], flag.ExitOnError)
	flags.IntVar(&o.Rounds, "rounds", 7, "rounds that count, of all sides by turns")
	flags.StringVar(&o.Dir, "dir", os.TempDir(), "`directory` on the file system to measure on")
	flags.BoolVar(&o.Smoke, "smoke", false, "do everything once, quickly: shows that it works, and no figures worth having")
	only := flags.String("only", "", "measure the rows that match the `expression`")
	file := flags.String("json", "", "write everything measured to a `file`")
	strict := flags.Bool("strict", false, "fail when what is to be shown is missed")
	flags.Parse(args[1:])
	if flags.NArg() > 0 {
		return fmt.Errorf("what is %q for?", flags.Arg(0))
	}
	if o.Rounds < 1 {
		return fmt.Errorf("-rounds %d: give at least 1", o.Rounds)
	}
	var err error
	if o.Only, err = regexp.Compile(*only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	report, err := harness(o)
	if err != nil && len(report.Rows) == 0 {
		return err
	}
	report.Claims = slices.DeleteFunc(report.Claims, func(c figures.Claim) bool { return !o.Wanted(c.Row) })
	report.Host, report.Command = figures.ThisHost(), strings.Join(append([]string{"scripts/bench"}, args...), " ")
	return errors.Join(err, publish(&report, *file, *strict && !o.Smoke))
}

// show prints the report of a file that -json has written.
func show(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("show: give one file that -json has written")
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var r figures.Report
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return r.WriteText(os.Stdout)
}

// publish prints the report and writes it to a file if one is named.
func publish(r *figures.Report, file string, strict bool) error {
	if err := r.WriteText(os.Stdout); err != nil {
		return err
	}
	if file != "" {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := r.WriteJSON(f); err != nil {
			return err
		}
	}
	if strict {
		for _, v := range r.Verdicts() {
			if !v.Known {
				return fmt.Errorf("%s: %s over %s was not measured", v.Row, v.Side, v.Base)
			}
			if !v.Holds {
				return fmt.Errorf("%s: %s over %s is %.2f", v.Row, v.Side, v.Base, v.Ratio.Median)
			}
		}
	}
	return nil
}
