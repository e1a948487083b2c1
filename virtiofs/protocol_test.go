package virtiofs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"tenon/virtiofs/fuse"
)

// page is PROTOCOL.md's tables by heading: rows of trimmed cells.
func page(t *testing.T) map[string][][]string {
	t.Helper()
	text, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][][]string{}
	heading := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## "); ok {
			heading = name
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if _, err := strconv.Atoi(strings.TrimSpace(cells[0])); err != nil {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != 5 {
			t.Fatalf("%s: a row of %d cells: %s", heading, len(cells), line)
		}
		tables[heading] = append(tables[heading], cells)
	}
	return tables
}

// readOnly is as much of an FS as INIT's flags depend on. It has a DAX window.
type readOnly struct {
	FS
	yes bool
}

func (r readOnly) ReadOnly() bool     { return r.yes }
func (r readOnly) WindowSize() uint64 { return 2 << 20 }

// everyOption is servers with every policy and each option alone.
func everyOption() (list []*Server) {
	for _, p := range []Policy{Never(), Metadata(), Auto(), Always(), Immutable()} {
		for _, o := range []Options{{}, {Writeback: true}, {Locks: true}, {ACL: true}, {Labels: true}, {DAX: DAXInode}} {
			o.Policy = p
			list = append(list, NewServer(readOnly{yes: false}, o), NewServer(readOnly{yes: true}, o))
		}
	}
	return list
}

// verdicts are the words for "every server", "some" and "none".
func verdict(words [3]string, all, some bool) string {
	switch {
	case all:
		return words[0]
	case some:
		return words[1]
	}
	return words[2]
}

// TestProtocolPage: the page has a row for every opcode and every flag of the
// protocol, and each says what the code does.
func TestProtocolPage(t *testing.T) {
	tables := page(t)
	servers := everyOption()

	ops := tables["Opcodes"]
	if len(ops) != fuse.Opcodes-1 {
		t.Fatalf("%d opcodes, want %d", len(ops), fuse.Opcodes-1)
	}
	optional := map[fuse.Opcode]bool{fuse.Flush: true, fuse.Getlk: true, fuse.Setlk: true, fuse.Setlkw: true,
		fuse.SetupMapping: true, fuse.RemoveMapping: true}
	for i, row := range ops {
		op := fuse.Opcode(i + 1)
		name := fuse.Row(op).Name
		if name == "" {
			name = "-"
		}
		served := handlers[op] != nil
		want := verdict([3]string{"yes", "by option", "no"}, served && !optional[op], served)
		if row[0] != strconv.Itoa(i+1) || row[1] != name || row[2] != want {
			t.Errorf("opcode %d: row %q, want %s: %s", op, row[:3], name, want)
		}
	}

	all, some := ^uint64(0), uint64(0)
	openAll, openSome := ^uint32(0), uint32(0)
	for _, s := range servers {
		flags := s.agree(^uint64(0), fuse.Minor)
		all, some = all&flags, some|flags
		p := &s.options.Policy
		open := p.OpenFlags | p.DirFlags
		openAll, openSome = openAll&p.OpenFlags&p.DirFlags, openSome|open
	}
	taken := [3]string{"always", "by option", "never"}
	flagRows(t, tables["INIT flags"], 43, taken, all, some)
	flagRows(t, tables["Flags in replies to OPEN, CREATE and OPENDIR"], 8, taken, uint64(openAll), uint64(openSome))
	flagRows(t, tables["Flags of attributes"], 2, taken, 0, uint64(fuse.AttrSubmount|fuse.AttrDAX))

	constants(t, "uint64", "", tables["INIT flags"])
	constants(t, "uint32", "Open", tables["Flags in replies to OPEN, CREATE and OPENDIR"])
}

func flagRows(t *testing.T, rows [][]string, n int, words [3]string, all, some uint64) {
	t.Helper()
	if len(rows) != n {
		t.Fatalf("%d flags, want %d", len(rows), n)
	}
	for bit, row := range rows {
		want := verdict(words, all>>bit&1 != 0, some>>bit&1 != 0)
		if row[0] != strconv.Itoa(bit) || row[2] != want {
			t.Errorf("bit %d: row %q, want %s", bit, row[:3], want)
		}
	}
}

// constants finds the flags that the fuse package names, which are those that are
// used, in the table: under the same name and not as never used. prefix tells a
// block of constants by the first one's name.
func constants(t *testing.T, typ, prefix string, rows [][]string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("fuse", "flags.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST || !strings.HasPrefix(g.Specs[0].(*ast.ValueSpec).Names[0].Name, prefix) {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			shift, ok := v.Values[0].(*ast.BinaryExpr)
			if id, typed := v.Type.(*ast.Ident); !ok || !typed || id.Name != typ {
				continue
			}
			bit, err := strconv.Atoi(shift.Y.(*ast.BasicLit).Value)
			if err != nil || bit >= len(rows) {
				t.Errorf("%s: bit %v", v.Names[0].Name, shift.Y)
				continue
			}
			found++
			row := rows[bit]
			name := strings.TrimPrefix(v.Names[0].Name, prefix)
			if !strings.EqualFold(strings.ReplaceAll(row[1], "_", ""), name) || row[2] == "never" {
				t.Errorf("%s is bit %d, whose row is %q", name, bit, row[:3])
			}
		}
	}
	if found == 0 {
		t.Errorf("no constants %s* of type %s in flags.go", prefix, typ)
	}
}

// TestProtocolPageTests: every row names tests, and each of them exists.
func TestProtocolPageTests(t *testing.T) {
	exist := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(src, -1) {
			exist[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for heading, rows := range page(t) {
		for _, row := range rows {
			for _, name := range strings.Split(row[4], ", ") {
				if !exist[name] {
					t.Errorf("%s, %s: there is no test %q", heading, row[1], name)
				}
			}
		}
	}
}
