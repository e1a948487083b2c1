package cli

import (
	"os"
	"path/filepath"
	"strings"

	"tenon/vmm/config"
)

// safeEnv are the variables that mean the same in any guest; those that name files
// or people of this host follow only where the guest's root is this host's.
var (
	safeEnv = []string{"COLORTERM", "LANG", "TERM", "TZ"}
	hostEnv = []string{"HOME", "LOGNAME", "PATH", "SHELL", "USER"}
)

// environment is what of Tenon's own environment the command gets. Everything else
// stays: an environment carries credentials, sockets and displays.
func environment(m *config.Machine) []string {
	var env []string
	names := safeEnv
	if m.Root.Dir == "/" {
		names = append(names[:len(names):len(names)], hostEnv...)
	}
	for _, name := range names {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "LC_") {
			env = append(env, kv)
		}
	}
	return env
}

// workingDir is Tenon's own working directory if the guest has one of that name,
// on its root or in a volume; else it is /.
func workingDir(m *config.Machine) string {
	wd, err := os.Getwd()
	if err != nil {
		return "/"
	}
	top := config.Share{Guest: "/", Dir: m.Root.Dir}
	for _, v := range m.Volumes {
		if _, ok := below(v.Guest, wd); ok && len(v.Guest) > len(top.Guest) {
			top = v // the deepest mount point is the one the guest sees
		}
	}
	rest, _ := below(top.Guest, wd)
	if info, err := os.Stat(filepath.Join(top.Dir, rest)); err != nil || !info.IsDir() {
		return "/"
	}
	return wd
}

// below says whether name is dir or lies in it, and what of it follows dir.
func below(dir, name string) (rest string, ok bool) {
	rest, err := filepath.Rel(dir, name)
	return rest, err == nil && rest != ".." && !strings.HasPrefix(rest, "../")
}
