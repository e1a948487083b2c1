package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tenon/vmm/config"
)

func TestEnvironment(t *testing.T) {
	for _, kv := range os.Environ() { // t.Setenv brings each back
		name, _, _ := strings.Cut(kv, "=")
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	for _, kv := range []string{"TERM=vt100", "TZ=UTC", "LC_TIME=C", "HOME=/home/me", "PATH=/bin", "SSH_AUTH_SOCK=/s", "AWS_SECRET=x", "LD_PRELOAD=x", "USER="} {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	for root, want := range map[string]string{
		"/":    "TERM=vt100 TZ=UTC HOME=/home/me PATH=/bin USER= LC_TIME=C",
		"/srv": "TERM=vt100 TZ=UTC LC_TIME=C",
	} {
		if got := strings.Join(environment(&config.Machine{Root: config.Share{Dir: root}}), " "); got != want {
			t.Errorf("with root %s: %s, want %s", root, got, want)
		}
	}
	if !slices.IsSorted(safeEnv) || !slices.IsSorted(hostEnv) {
		t.Error("the lists are not sorted")
	}
}

func TestWorkingDir(t *testing.T) {
	wd, root, src := t.TempDir(), t.TempDir(), t.TempDir()
	t.Chdir(wd)
	outer := filepath.Dir(wd)
	write(t, filepath.Join(src, filepath.Base(wd), "x"), "")
	write(t, filepath.Join(root, wd, "x"), "")
	empty := t.TempDir()
	write(t, filepath.Join(empty, outer), "a file")
	for _, c := range []struct {
		root    string
		volumes []config.Share
		want    string
	}{
		{root: "/", want: wd},
		{root: root, want: wd},
		{root: src, want: "/"},
		{root: empty, want: "/"},
		{root: empty, volumes: []config.Share{{Dir: src, Guest: outer}}, want: wd},
		{root: empty, volumes: []config.Share{{Dir: src, Guest: wd}}, want: wd},
		{root: empty, volumes: []config.Share{{Dir: src, Guest: wd + "/deeper"}}, want: "/"},
		{root: "/", volumes: []config.Share{{Dir: empty, Guest: outer}}, want: "/"},                              // hidden by the volume
		{root: "/", volumes: []config.Share{{Dir: empty, Guest: outer}, {Dir: empty, Guest: wd}}, want: wd},      // the deeper one counts
		{root: "/", volumes: []config.Share{{Dir: empty, Guest: wd}, {Dir: empty, Guest: outer}}, want: wd},      // in any order
		{root: "/", volumes: []config.Share{{Dir: empty, Guest: wd + "-other"}}, want: wd},                       // a name that only begins alike
		{root: empty, volumes: []config.Share{{Dir: src, Guest: outer + "/..data"}}, want: "/"},                  // nor this
		{root: "/", volumes: []config.Share{{Dir: empty, Guest: "/..data"}, {Dir: src, Guest: outer}}, want: wd}, //
	} {
		m := config.Machine{Root: config.Share{Dir: c.root}, Volumes: c.volumes}
		if got := workingDir(&m); got != c.want {
			t.Errorf("root %s, volumes %+v: %s, want %s", c.root, c.volumes, got, c.want)
		}
	}
}
