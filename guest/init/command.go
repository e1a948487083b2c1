package guestinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command is what execve(2) needs.
type command struct {
	path string
	argv []string
	env  []string
	dir  string
}

// resolve finds the command of a session in the guest's tree. An error is a
// *commandError.
func resolve(spec *channel.Spec) (command, error) {
	c := command{argv: spec.Command, dir: workingDir(spec.Dir)}
	c.env = environment(spec, c.dir)
	if len(c.argv) == 0 {
		return shell(c)
	}
	path, err := lookup(c.argv[0], c.dir, value(c.env, "PATH"))
	c.path = path
	return c, err
}

// commandError says why a command did not run.
type commandError struct {
	kind    channel.Kind
	message string
}

func (e *commandError) Error() string { return e.message }

func notFound(name string) error {
	return &commandError{channel.NotFound, name + ": command not found in the guest"}
}

func notExecutable(name string, why error) error {
	return &commandError{channel.NotExecutable, fmt.Sprintf("%s: cannot be executed in the guest: %v", name, why)}
}

// workingDir is dir if the guest has it. The host's current directory, the
// usual request, need not exist in every root.
func workingDir(dir string) string {
	if info, err := os.Stat(dir); err == nil && info.IsDir() && filepath.IsAbs(dir) {
		return dir
	}
	return "/"
}

// environment completes the environment with what every program may expect.
func environment(spec *channel.Spec, dir string) []string {
	env := slices.DeleteFunc(slices.Clone(spec.Env), func(kv string) bool {
		return strings.HasPrefix(kv, "PWD=")
	})
	term := "dumb"
	if spec.Terminal {
		term = "xterm"
	}
	for _, d := range [][2]string{{"PATH", defaultPath}, {"HOME", "/root"}, {"TERM", term}, {"PWD", dir}} {
		if value(env, d[0]) == "" {
			env = append(env, d[0]+"="+d[1])
		}
	}
	return env
}

// value returns the value of key in env, where the last one counts.
func value(env []string, key string) string {
	for _, kv := range slices.Backward(env) {
		if k, v, ok := strings.Cut(kv, "="); ok && k == key {
			return v
		}
	}
	return ""
}

// shell chooses a login shell, as login(1) would start it: with a dash before
// its name.
func shell(c command) (command, error) {
	for _, path := range []string{value(c.env, "SHELL"), "/bin/bash", "/bin/sh"} {
		if filepath.IsAbs(path) && executable(path) == nil {
			c.path, c.argv = path, []string{"-" + filepath.Base(path)}
			return c, nil
		}
	}
	return c, &commandError{channel.NotFound, "the guest has no shell: neither $SHELL nor /bin/bash nor /bin/sh can be executed"}
}

// lookup finds an executable as a shell does. A name with a slash is taken
// from dir, any other from the directories of path.
func lookup(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		full := name
		if !filepath.IsAbs(name) {
			full = filepath.Join(dir, name)
		}
		err := executable(full)
		switch {
		case err == nil:
			return full, nil
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return "", notFound(name)
		}
		return "", notExecutable(name, err)
	}
	var denied error
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) { // an empty element is the working directory
			d = filepath.Join(dir, d)
		}
		full := filepath.Join(d, name)
		err := executable(full)
		switch {
		case err == nil && name != "":
			return full, nil
		case errors.Is(err, unix.EACCES):
			denied = err
		}
	}
	if denied != nil {
		return "", notExecutable(name, denied)
	}
	return "", notFound(name)
}

// executable reports why path is not an executable file. Root needs one
// execute bit, whoever it is for.
func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return unix.EACCES
	}
	return unix.Access(path, unix.X_OK)
}

// execError explains a failed execve of a file that is there.
func execError(name string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		err = errors.New("its interpreter or loader is not in the guest")
	case errors.Is(err, syscall.ENOEXEC):
		err = errors.New("neither a program for this machine nor a script that names its interpreter")
	}
	return notExecutable(name, err)
}
