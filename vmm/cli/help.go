package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"tenon/vmm/config"
)

const appUsage = `Usage:
  tenon run [flags] [--] [COMMAND ARG...]   boot a machine and run a command in it
  tenon doctor                              check whether this host can, and say what to fix
  tenon version                             print Tenon's version

Tenon boots Linux microVMs on KVM and gives them host directories through a virtio-fs
device of its own. ` + "`tenon run --help`" + ` shows the flags, exit statuses and examples.
`

const runSummary = `Boots a Linux kernel with the host's / as the guest's root, read-only and with a
throw-away writable layer, runs COMMAND there (a shell without one) and ends with its
status. Flags end at the first word that is none, or at --.
`

const runDetails = `
Exit status: COMMAND's own, or
  124    the timeout passed
  125    Tenon itself failed, bad usage included; one line says why
  126    COMMAND cannot be executed
  127    COMMAND was not found
  128+N  COMMAND was killed by signal N, or Tenon was told to end by signal N
  255    the guest died; its last kernel lines are shown

All of standard output is COMMAND's. With standard input and output on a terminal it
gets a terminal too, and every key goes to the guest but these:
  Ctrl-A X       end the guest (twice: at once)
  Ctrl-A C       show these keys
  Ctrl-A Ctrl-A  send a Ctrl-A
SIGINT, SIGTERM, SIGQUIT and SIGHUP go to COMMAND, which has 5 seconds to end; a second
one ends the guest at once. SIGUSR1 writes a line of JSON to standard error: what each
share's DAX window shows and has done, and with --report how many requests it answered.

COMMAND starts in the working directory where the guest has it, else in /. It gets TERM,
COLORTERM, LANG, LC_* and TZ, and with the host's / as root also HOME, USER, LOGNAME,
SHELL and PATH.

In --root, -v and --share a backslash takes the next character as it is: \, for a comma
in a path, \: for a colon, \\ for a backslash.

Examples:
  tenon run                                 a shell on the host's root
  tenon run -- uname -r
  tenon run -k ./bzImage -c 4 -m 2G --timeout 5m -- make check
  tenon run -v $PWD:/src -- make -C /src    with a directory to write to
  tenon run --share data=/srv/data,ro       there: mount -t virtiofs data /mnt
  tenon run --no-initrd --root ./busybox-root,rw -- cat /proc/mounts
`

const doctorSummary = `Checks, one line each, that KVM is present, that this user may open it, that it runs
stock kernels, that a kernel is in the cache, and that it has virtio-fs. A line that
starts with FAIL says what to do.
`

const doctorDetails = `
Exit status: 0 when every check is ok, 1 when one failed, 125 on bad usage.
`

// helpWidth and helpIndent are the columns of a flag's explanation.
const (
	helpWidth  = 88
	helpIndent = 30
)

// shareOptionsHelp lists what may follow a comma in --root, -v and --share.
func shareOptionsHelp() string {
	var b strings.Builder
	b.WriteString("\nOptions of --root, -v and --share:\n")
	for _, o := range config.ShareOptions() {
		b.WriteString(entryHelp("  "+o.Form, o.Help, o.Default))
	}
	return b.String()
}

// withHelp gives c a help text made of its usage, its flags by group in the order
// they are declared, and what else there is to say.
func withHelp(c *cli.Command, summary, details string) *cli.Command {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s\n\n%s", c.UsageText, summary)
	var group string
	for _, f := range c.Flags {
		if g := f.(cli.CategorizableFlag).GetCategory(); g != group || group == "" {
			group = g
			fmt.Fprintf(&b, "\n%s:\n", group)
		}
		b.WriteString(flagHelp(f.(cli.DocGenerationFlag)))
	}
	b.WriteString(details)
	c.CustomHelpTemplate = b.String()
	return c
}

// flagHelp is "  -k, --kernel FILE    explanation", wrapped. The form of the value is in
// backquotes in the flag's usage; before a colon it is not part of the explanation.
func flagHelp(f cli.DocGenerationFlag) string {
	left := "      "
	names := f.Names()
	if len(names) > 1 {
		left = "  -" + names[1] + ", "
	}
	left += "--" + names[0]
	usage := f.GetUsage()
	if parts := strings.SplitN(usage, "`", 3); len(parts) == 3 {
		left += " " + parts[1]
		usage = strings.TrimPrefix(strings.Join(parts, ""), parts[1]+": ")
	}
	byDefault := ""
	if f.TakesValue() {
		byDefault = f.GetDefaultText()
	}
	return entryHelp(left, usage, byDefault)
}

// entryHelp is an entry of a list in the help: what it is called and, beside or
// below it, wrapped, what it means.
func entryHelp(left, usage, byDefault string) string {
	if byDefault != "" {
		usage += " (default: " + byDefault + ")"
	}
	var b strings.Builder
	b.WriteString(left)
	column := len(left)
	if column > helpIndent-2 {
		column = helpWidth // the explanation starts on the next line
	} else {
		b.WriteString(strings.Repeat(" ", helpIndent-column-1))
		column = helpIndent - 1
	}
	for _, word := range strings.Fields(usage) {
		if column+1+len(word) > helpWidth {
			b.WriteString("\n" + strings.Repeat(" ", helpIndent-1))
			column = helpIndent - 1
		}
		b.WriteString(" " + word)
		column += 1 + len(word)
	}
	b.WriteByte('\n')
	return b.String()
}
