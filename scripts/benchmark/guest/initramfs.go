package guest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// initramfs is a "newc" archive (Documentation/driver-api/early-userspace/
// buffer-format.rst) in the making. It makes the directories above its files.
type initramfs struct {
	bytes.Buffer
	seen map[string]bool
}

func newInitramfs() *initramfs { return &initramfs{seen: make(map[string]bool)} }

const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

func (a *initramfs) entry(name string, mode uint32, body []byte) {
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		len(a.seen)+1, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.Write(body)
	a.pad()
}

// pad fills up to a multiple of four bytes.
func (a *initramfs) pad() { a.Write(make([]byte, -a.Len()&3)) }

// dirs appends the directories above a name.
func (a *initramfs) dirs(name string) {
	if dir := filepath.Dir(name); dir != "." && !a.seen[dir] {
		a.dirs(dir)
		a.seen[dir] = true
		a.entry(dir, modeDir|0o755, nil)
	}
}

// add appends a file, unless there is one of the name.
func (a *initramfs) add(name string, body []byte) {
	if !a.seen[name] {
		a.dirs(name)
		a.seen[name] = true
		a.entry(name, modeFile|0o755, body)
	}
}

// copy appends a file of the host under a name.
func (a *initramfs) copy(name, path string) error {
	body, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	a.add(name, body)
	return nil
}

// program appends a program of the host as bin/NAME, with its libraries where its
// loader looks for them.
func (a *initramfs) program(path string) error {
	list, err := libraries(path)
	if err != nil {
		return err
	}
	for _, lib := range list {
		if err := a.copy(strings.TrimPrefix(lib, "/"), lib); err != nil {
			return err
		}
	}
	return a.copy("bin/"+filepath.Base(path), path)
}

// tree appends all files below a directory of the host, under a name.
func (a *initramfs) tree(name, dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return a.copy(filepath.Join(name, rel), path)
	})
}

// finished returns the archive as it is, with its end. More can be added later.
func (a *initramfs) finished() []byte {
	n := a.Len()
	a.entry("TRAILER!!!", 0, nil)
	b := bytes.Clone(a.Bytes())
	a.Truncate(n)
	return b
}

// The first address of the tiny init, and how far into its file the code begins: after
// the ELF header and one program header.
const tinyBase, tinyCode = 0x400000, 64 + 56

// tinyInit is a static program that says saidInit and waits to be ended: what is
// measured until then is the machine's and the kernel's time, not a runtime's.
func tinyInit() []byte {
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov $1, %eax: write
		0xbf, 1, 0, 0, 0, // mov $1, %edi
		0x48, 0x8d, 0x35, 16, 0, 0, 0, // lea text(%rip), %rsi
		0xba, byte(len(saidInit) + 1), 0, 0, 0, // mov $n, %edx
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov $34, %eax: pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to mov $34
	}
	code = append(code, saidInit+"\n"...)
	size := uint64(tinyCode + len(code))
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: tinyBase + tinyCode, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: tinyBase, Filesz: size, Memsz: size, Align: page},
		code,
	} {
		binary.Write(&b, binary.LittleEndian, part)
	}
	return b.Bytes()
}
