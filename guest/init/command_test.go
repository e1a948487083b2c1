package guestinit

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tenon/guest/channel"
)

// guestTree is a directory with a few things that look like commands.
func guestTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path, mode := range map[string]os.FileMode{
		"bin/tool": 0o755, "sbin/tool": 0o755, "sbin/plain": 0o644, "work/script": 0o700, "bin/sh": 0o755,
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"), mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "bin/folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLookup(t *testing.T) {
	dir := guestTree(t)
	for _, c := range []struct {
		name, path string
		want       string       // relative to dir
		kind       channel.Kind // when want is empty
	}{
		{"tool", "/nowhere:{}/sbin:{}/bin", "sbin/tool", 0},
		{"tool", "{}/bin", "bin/tool", 0},
		{"script", "{}/bin:", "work/script", 0}, // an empty element is the working directory
		{"./script", "{}/bin", "work/script", 0},
		{"../bin/tool", "", "bin/tool", 0},
		{"{}/bin/tool", "", "bin/tool", 0},
		{"absent", "{}/bin", "", channel.NotFound},
		{"script", "", "", channel.NotFound},
		{"", "{}/bin", "", channel.NotFound},
		{"folder", "{}/bin", "", channel.NotFound},
		{"./absent", "{}/bin", "", channel.NotFound},
		{"{}/bin/tool/absent", "", "", channel.NotFound},
		{"plain", "{}/bin:{}/sbin", "", channel.NotExecutable},
		{"{}/sbin/plain", "", "", channel.NotExecutable},
		{"{}/bin", "", "", channel.NotExecutable},
		{"/dev/null", "", "", channel.NotExecutable},
	} {
		in := func(s string) string { return strings.ReplaceAll(s, "{}", dir) }
		got, err := lookup(in(c.name), filepath.Join(dir, "work"), in(c.path))
		if c.want != "" {
			if got != filepath.Join(dir, c.want) || err != nil {
				t.Errorf("%q in %q: %q, %v", c.name, c.path, got, err)
			}
			continue
		}
		var failed *commandError
		if !errors.As(err, &failed) || failed.kind != c.kind || !strings.Contains(failed.message, in(c.name)) {
			t.Errorf("%q in %q: %q, error %v, want kind %d", c.name, c.path, got, err, c.kind)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		spec channel.Spec
		want []string
	}{
		{channel.Spec{}, []string{"HOME=/root", "PATH=" + defaultPath, "PWD=/w", "TERM=dumb"}},
		{channel.Spec{Terminal: true}, []string{"HOME=/root", "PATH=" + defaultPath, "PWD=/w", "TERM=xterm"}},
		{
			channel.Spec{Terminal: true, Env: []string{"TERM=screen", "PATH=/bin", "HOME=/home/u", "PWD=/host", "A=b=c", "EMPTY="}},
			[]string{"A=b=c", "EMPTY=", "HOME=/home/u", "PATH=/bin", "PWD=/w", "TERM=screen"},
		},
	} {
		if got := environment(&c.spec, "/w"); !slices.Equal(slices.Sorted(slices.Values(got)), c.want) {
			t.Errorf("%+v: %q, want %q", c.spec, got, c.want)
		}
	}
	if v := value([]string{"A=1", "AB=2", "A=3"}, "A"); v != "3" {
		t.Errorf("value %q, want the last one", v)
	}
}

func TestWorkingDir(t *testing.T) {
	dir := guestTree(t)
	for in, want := range map[string]string{
		dir: dir, dir + "/absent": "/", dir + "/bin/tool": "/", "": "/", ".": "/",
	} {
		if got := workingDir(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestShell(t *testing.T) {
	dir := guestTree(t)
	c, err := shell(command{env: []string{"SHELL=" + dir + "/bin/sh"}})
	if err != nil || c.path != dir+"/bin/sh" || !slices.Equal(c.argv, []string{"-sh"}) {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = shell(command{env: []string{"SHELL=" + dir + "/bin/absent"}})
	if err != nil || c.path != "/bin/bash" && c.path != "/bin/sh" {
		t.Errorf("shell that is not in the guest: %+v, %v", c, err)
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	if got := findPort(class+"/absent", "tenon"); got != "" {
		t.Errorf("no class directory: %q", got)
	}
	for port, name := range map[string]string{"vport1p0": "", "vport1p1": "tenon-other\n", "vport2p3": "tenon\n"} {
		os.Mkdir(filepath.Join(class, port), 0o755)
		if name != "" { // a port without a name has no such file
			os.WriteFile(filepath.Join(class, port, "name"), []byte(name), 0o444)
		}
	}
	if got := findPort(class, "tenon"); got != "vport2p3" {
		t.Errorf("port %q", got)
	}
	if got := findPort(class, "console"); got != "" {
		t.Errorf("absent port: %q", got)
	}
}

func TestModuleList(t *testing.T) {
	dir := t.TempDir()
	var m modules
	if err := m.open(dir); err != nil || m.load("virtiofs") != nil {
		t.Errorf("no list: %v", err)
	}
	os.WriteFile(filepath.Join(dir, ModuleList), []byte("virtiofs fuse.ko virtiofs.ko\noverlay overlay.ko\n"), 0o644)
	if err := m.open(dir); err != nil || !slices.Equal(m.files["virtiofs"], []string{"fuse.ko", "virtiofs.ko"}) {
		t.Errorf("files %v, %v", m.files, err)
	}
	if err := m.load("virtiofs"); err == nil || !strings.Contains(err.Error(), "fuse.ko for virtiofs") {
		t.Errorf("absent file: %v", err)
	}
	if err := m.load("virtio_rng"); err != nil {
		t.Errorf("driver without modules: %v", err)
	}
}
