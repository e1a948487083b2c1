// Package vmm_test guards the house rules that a compiler does not: who may import
// what, who may print, and where unsafe code lives.
package vmm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "tenon"

// stairs says which trees of the module a tree may import; the first row that holds
// the importer counts. "main" is the module's root package.
var stairs = []struct {
	tree string
	may  []string
}{
	{"virtiofs", []string{"virtiofs"}},
	{"devices/virtio/fs", []string{"devices", "virtiofs"}},
	{"devices", []string{"devices"}},
	{"guest", []string{"guest", "virtiofs/fstest"}},
	{"vmm", []string{"vmm", "devices", "virtiofs", "guest"}},
	{"main", []string{"vmm/cli", "guest/init"}},
}

// door is a package and who may come in by it.
type door struct {
	to string
	by []string
}

// doors says which trees alone may import a package or anything below it. Every module
// of others has a row.
var doors = []door{
	{"tenon/vmm/machine", []string{"vmm/cli"}},
	{"tenon/vmm/cli", []string{"main"}},
	{"golang.org/x/sys", []string{"main", "vmm", "devices", "virtiofs", "guest"}},
	{"github.com/bobuhiro11/gokvm", []string{"vmm/kvm", "vmm/boot"}},
	{"gvisor.dev/gvisor", []string{"virtiofs/fuse"}},
	{"github.com/urfave/cli/v2", []string{"vmm/cli"}},
	{"github.com/klauspost/compress", []string{"vmm/boot", "guest/image"}},
	{"github.com/ulikunitz/xz", []string{"vmm/boot", "guest/image"}},
	{"github.com/pierrec/lz4/v4", []string{"vmm/boot"}},
	{"log", nil}, // and log/slog: errors go up, only vmm/cli speaks
	{"net/http", nil},
	{"plugin", nil},
	{"C", nil},
}

// printers may write to the process's standard streams and end it.
var printers = []string{"vmm/cli", "main"}

// voices are what only printers may use, by package.
var voices = map[string][]string{
	"fmt": {"Print", "Printf", "Println"},
	"os":  {"Exit", "Stdin", "Stdout", "Stderr"},
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Standard   bool
	Module     *struct{ Path string }
	GoFiles    []string
	Imports    []string
}

// list returns the packages the module's own need, dependencies included.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Standard,Module,GoFiles,Imports", "./...")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// own says where in this module an import path is.
func own(path string) (tree string, ok bool) {
	if path == module {
		return "main", true
	}
	return strings.CutPrefix(path, module+"/")
}

// in says whether path is one of trees or below one.
func in(path string, trees ...string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool {
		return path == tree || strings.HasPrefix(path, tree+"/")
	})
}

// judgeImport returns what is wrong with from, a tree of ours, importing to.
func judgeImport(from, to string) error {
	for _, d := range doors {
		if in(to, d.to) && !in(from, d.by...) {
			return fmt.Errorf("%s imports %s, which is for %q only", from, to, d.by)
		}
	}
	if tree, ours := own(to); ours {
		for _, s := range stairs {
			if in(from, s.tree) {
				if in(tree, s.may...) {
					return nil
				}
				return fmt.Errorf("%s imports %s against the stairs: it may import %q", from, to, s.may)
			}
		}
		return fmt.Errorf("%s has no row in stairs", from)
	}
	// The first element of a path outside the standard library has a dot.
	if first, _, _ := strings.Cut(to, "/"); strings.Contains(first, ".") &&
		!slices.ContainsFunc(doors, func(d door) bool { return in(to, d.to) }) {
		return fmt.Errorf("%s imports %s, which has no row in doors", from, to)
	}
	return nil
}

// judgeFile returns what is wrong with a file of the tree from.
func judgeFile(from, name string, src any) []error {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return []error{err}
	}
	var errs []error
	wrong := func(at token.Pos, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", fset.Position(at), fmt.Sprintf(format, args...)))
	}
	for _, i := range f.Imports {
		base := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(name), ".go"), "_amd64")
		if i.Path.Value == `"unsafe"` && !strings.HasSuffix(base, "_unsafe") {
			wrong(i.Pos(), "unsafe is for files named *_unsafe.go")
		}
	}
	if in(from, printers...) {
		return errs
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && slices.Contains(voices[x.Name], n.Sel.Name) {
				wrong(n.Pos(), "%s.%s is for %q only", x.Name, n.Sel.Name, printers)
			}
		case *ast.CallExpr:
			if x, ok := n.Fun.(*ast.Ident); ok && (x.Name == "print" || x.Name == "println") {
				wrong(n.Pos(), "%s is for nobody", x.Name)
			}
		}
		return true
	})
	return errs
}

func TestImports(t *testing.T) {
	seen := 0
	for _, p := range list(t) {
		from, ours := own(p.ImportPath)
		if !ours || in(from, "scripts") { // what runs outside plays by its own rules
			continue
		}
		seen++
		for _, to := range p.Imports {
			if err := judgeImport(from, to); err != nil {
				t.Error(err)
			}
		}
		for _, name := range p.GoFiles {
			for _, err := range judgeFile(from, filepath.Join(p.Dir, name), nil) {
				t.Error(err)
			}
		}
	}
	if seen == 0 {
		t.Error("go list shows no package of this module")
	}
}

// TestNotLinked: packages nobody of ours imports but a dependency might bring.
func TestNotLinked(t *testing.T) {
	for _, p := range list(t) {
		if in(p.ImportPath, "net/http", "plugin", "runtime/cgo") {
			t.Errorf("%s is linked in: go list -deps . | grep the package that brings it", p.ImportPath)
		}
	}
}

// TestJudges shows that the rules find what they are for.
func TestJudges(t *testing.T) {
	for _, c := range []struct {
		from, to string
		good     bool
	}{
		{"main", "tenon/vmm/cli", true},
		{"main", "tenon/vmm/machine", false},
		{"vmm/cli", "tenon/vmm/machine", true},
		{"vmm/boot", "tenon/vmm/machine", false},
		{"vmm/machine", "tenon/vmm/cli", false},
		{"vmm/machine", "tenon/virtiofs/passthrough", true},
		{"vmm/machine", "github.com/bobuhiro11/gokvm/kvm", false},
		{"vmm/kvm", "github.com/bobuhiro11/gokvm/kvm", true},
		{"devices/bus", "tenon/vmm/layout", false},
		{"devices/virtio/console", "tenon/virtiofs", false},
		{"devices/virtio/fs", "tenon/virtiofs", true},
		{"devices/virtio/fsx", "tenon/virtiofs", false},
		{"devices/pci", "tenon/guest/channel", false},
		{"virtiofs", "tenon/devices/memory", false},
		{"virtiofs/passthrough", "gvisor.dev/gvisor/pkg/abi/linux", false},
		{"virtiofs/fuse", "gvisor.dev/gvisor/pkg/abi/linux", true},
		{"guest/suite", "tenon/virtiofs/fstest", true},
		{"guest/suite", "tenon/virtiofs", false},
		{"guest/init", "tenon/vmm/config", false},
		{"vmm/machine", "github.com/urfave/cli/v2", false},
		{"vmm/machine", "example.org/new", false},
		{"vmm/machine", "log/slog", false},
		{"vmm/machine", "os", true},
		{"newtree", "tenon/virtiofs", false},
	} {
		if err := judgeImport(c.from, c.to); (err == nil) != c.good {
			t.Errorf("%s importing %s: %v", c.from, c.to, err)
		}
	}
	for _, c := range []struct {
		from, name, src string
		wrong           int
	}{
		{"vmm/kvm", "vm_unsafe.go", `package p; import "unsafe"`, 0},
		{"vmm/kvm", "vm_unsafe_amd64.go", `package p; import "unsafe"`, 0},
		{"vmm/kvm", "unsafe.go", `package p; import "unsafe"`, 1},
		{"vmm/cli", "vm.go", `package p; import "unsafe"`, 1},
		{"vmm/cli", "x.go", `package p; func f() { fmt.Println(os.Stdout); os.Exit(1) }`, 0},
		{"vmm/climate", "x.go", `package p; func f() { fmt.Println(os.Stdout); os.Exit(1) }`, 3},
		{"guest", "x.go", `package p; func f() { println(fmt.Sprint(1)) }`, 1},
	} {
		if errs := judgeFile(c.from, c.name, c.src); len(errs) != c.wrong {
			t.Errorf("%s/%s: %v, want %d errors", c.from, c.name, errs, c.wrong)
		}
	}
}
