package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/bobuhiro11/gokvm/kvm"

	"tenon/devices/memory"
	"tenon/vmm/layout"
)

const ramSize = 64 << 20

func smallRAM() []layout.Range { return layout.RAM(ramSize) }

func newRAM(t testing.TB, ram []layout.Range) *memory.Map {
	t.Helper()
	var regions []memory.Region
	for _, r := range ram {
		regions = append(regions, memory.Region{GPA: memory.GPA(r.Base), Data: make([]byte, r.Len)})
	}
	mem, err := memory.New(regions...)
	if err != nil {
		t.Fatal(err)
	}
	return mem
}

// loadInto loads into fresh RAM of the size in p.
func loadInto(t testing.TB, i *Image, p Params) (*memory.Map, Entry, error) {
	t.Helper()
	mem := newRAM(t, p.RAM)
	e, err := Load(mem, i, p)
	return mem, e, err
}

func at(t *testing.T, mem *memory.Map, gpa uint64, n int) []byte {
	t.Helper()
	b, err := mem.Slice(memory.GPA(gpa), uint32(n))
	if err != nil {
		t.Fatalf("%d bytes at %#x: %v", n, gpa, err)
	}
	return b
}

func u32(t *testing.T, mem *memory.Map, gpa uint64) uint64 {
	t.Helper()
	return uint64(binary.LittleEndian.Uint32(at(t, mem, gpa, 4)))
}

func u64(t *testing.T, mem *memory.Map, gpa uint64) uint64 {
	t.Helper()
	return binary.LittleEndian.Uint64(at(t, mem, gpa, 8))
}

// checkSegments compares guest RAM with the synthetic kernel.
func checkSegments(t *testing.T, mem *memory.Map) {
	t.Helper()
	file := stock().vmlinux()
	if !bytes.Equal(at(t, mem, kernelAt, kernelLen), file[0x1000:0x1000+kernelLen]) {
		t.Error("text differs")
	}
	data := at(t, mem, dataAt, bssLen)
	if !bytes.Equal(data[:0x800], bytes.Repeat([]byte{0xdd}, 0x800)) || !bytes.Equal(data[0x800:], make([]byte, bssLen-0x800)) {
		t.Error("data or BSS differs")
	}
}

func TestLoadPVH(t *testing.T) {
	i := open(t, writeFile(t, stock().vmlinux()), "")
	initrd := Bytes(bytes.Repeat([]byte("initrd"), 1000))
	mem, e, err := loadInto(t, i, Params{Cmdline: "quiet root=x", Initrd: initrd, RSDP: layout.ACPI, RAM: smallRAM()})
	if err != nil {
		t.Fatal(err)
	}
	checkSegments(t, mem)
	if e.Mode != PVH32 || e.RIP != pvhAt || e.CR0 != 0x11 || e.CR3|e.CR4|e.EFER != 0 {
		t.Errorf("entry %+v", e)
	}
	info := e.RBX
	if u32(t, mem, info) != 0x336ec578 || u32(t, mem, info+4) != 1 || u32(t, mem, info+12) != 1 {
		t.Errorf("start_info % x", at(t, mem, info, 56))
	}
	if got := u64(t, mem, info+32); got != layout.ACPI {
		t.Errorf("RSDP at %#x", got)
	}
	if got := string(at(t, mem, u64(t, mem, info+24), 13)); got != "quiet root=x\x00" {
		t.Errorf("command line %q", got)
	}
	module := u64(t, mem, info+16)
	where, n := u64(t, mem, module), u64(t, mem, module+8)
	if where%pageSize != 0 || where+n > ramSize || !bytes.Equal(at(t, mem, where, int(n)), initrd) {
		t.Errorf("initrd of %d bytes at %#x", n, where)
	}
	checkMap(t, mem, u64(t, mem, info+40), 24, int(u32(t, mem, info+48)))
}

// checkMap compares a memory map in guest RAM, of entries stride bytes apart,
// with the layout's.
func checkMap(t *testing.T, mem *memory.Map, gpa uint64, stride uint64, n int) {
	t.Helper()
	want := layout.MemoryMap(smallRAM())
	if n != len(want) {
		t.Fatalf("%d entries, want %d", n, len(want))
	}
	for k, a := range want {
		e := gpa + uint64(k)*stride
		if u64(t, mem, e) != a.Base || u64(t, mem, e+8) != a.Len || u32(t, mem, e+16) != uint64(a.Type) {
			t.Errorf("entry %d (%s): % x", k, a.Name, at(t, mem, e, 20))
		}
	}
}

func TestLoadLong(t *testing.T) {
	spec := stock()
	spec.noNote = true
	for name, file := range map[string][]byte{
		"vmlinux": spec.vmlinux(),
		"bzImage": bzImage(payloadOf(t, "zstd", spec.vmlinux())),
	} {
		i := open(t, writeFile(t, file), "")
		initrd := Bytes("an initrd")
		mem, e, err := loadInto(t, i, Params{Cmdline: "quiet", Initrd: initrd, RSDP: layout.ACPI, RAM: smallRAM()})
		if err != nil {
			t.Fatal(err)
		}
		checkSegments(t, mem)
		if e.Mode != Long64 || e.RIP != entryAt || e.CR0 != 0x80000011 || e.CR4 != 0x20 || e.EFER != 0x500 {
			t.Errorf("%s: entry %+v", name, e)
		}
		zero := e.RSI
		if got := u64(t, mem, zero+0x70); got != layout.ACPI {
			t.Errorf("%s: acpi_rsdp_addr %#x", name, got)
		}
		if u32(t, mem, zero+0x202) != 0x53726448 || at(t, mem, zero+0x210, 1)[0] != 0xff {
			t.Errorf("%s: setup header % x", name, at(t, mem, zero+0x1f1, 0x7b))
		}
		if got := string(at(t, mem, u32(t, mem, zero+0x228), 6)); got != "quiet\x00" {
			t.Errorf("%s: command line %q", name, got)
		}
		if got := at(t, mem, u32(t, mem, zero+0x218), int(u32(t, mem, zero+0x21c))); !bytes.Equal(got, initrd) {
			t.Errorf("%s: initrd %q", name, got)
		}
		checkMap(t, mem, zero+0x2d0, 20, int(at(t, mem, zero+0x1e8, 1)[0]))
		if name == "bzImage" && u64(t, mem, zero+0x258) != kernelAt {
			t.Error("the setup header was not copied: pref_address is missing")
		}
		checkPaging(t, mem, e.CR3)
	}
}

// checkPaging walks the tables as the processor does.
func checkPaging(t *testing.T, mem *memory.Map, cr3 uint64) {
	t.Helper()
	const present, large, address = 1, 1 << 7, 0xffffffffff000
	for _, va := range []uint64{0, kernelAt, 0x7fe00000, 0xc0000000, 0xfffffff0} {
		pml4 := u64(t, mem, cr3+va>>39&0x1ff*8)
		pdpt := u64(t, mem, pml4&address+va>>30&0x1ff*8)
		pd := u64(t, mem, pdpt&address+va>>21&0x1ff*8)
		if pml4&pdpt&pd&present == 0 || pd&large == 0 {
			t.Fatalf("%#x is not mapped by a large page: %#x %#x %#x", va, pml4, pdpt, pd)
		}
		if got := pd&address&^0x1fffff | va&0x1fffff; got != va {
			t.Errorf("%#x is mapped to %#x", va, got)
		}
	}
}

func TestLoadOpaque(t *testing.T) {
	payload := append([]byte("\x89LZO"), make([]byte, 5000)...)
	binary.LittleEndian.PutUint32(payload[len(payload)-4:], 100_000)
	b := bzImage(payload)
	mem, e, err := loadInto(t, open(t, writeFile(t, b), ""), Params{RAM: smallRAM()})
	if err != nil {
		t.Fatal(err)
	}
	if e.Mode != Long64 || e.RIP != kernelAt+0x200 {
		t.Errorf("entry %v %#x", e.Mode, e.RIP)
	}
	if code := b[3*sector:]; !bytes.Equal(at(t, mem, kernelAt, len(code)), code) {
		t.Error("protected-mode code differs")
	}
}

// The descriptors in guest RAM and the cached ones of the registers agree with
// what the two protocols ask for.
func TestEntrySet(t *testing.T) {
	spec := stock()
	for _, noNote := range []bool{false, true} {
		spec.noNote = noNote
		mem, e, err := loadInto(t, open(t, writeFile(t, spec.vmlinux()), ""), Params{RAM: smallRAM()})
		if err != nil {
			t.Fatal(err)
		}
		r, s := kvm.Regs{RDX: 0x600, RFLAGS: 0x202}, kvm.Sregs{ApicBase: 0xfee00900}
		e.Set(&r, &s)
		if r.RIP != e.RIP || r.RFLAGS != 2 || r.RDX != 0 || s.ApicBase != 0xfee00900 {
			t.Errorf("registers %+v", r)
		}
		if s.CS.Base != 0 || s.CS.Limit != 0xffffffff || s.CS.Typ != 0xb || s.CS.S != 1 || s.CS.Present != 1 || s.CS.G != 1 {
			t.Errorf("CS %+v", s.CS)
		}
		wantL, wantD := uint8(0), uint8(1)
		if e.Mode == Long64 {
			wantL, wantD = 1, 0
			if s.CS.Selector != 0x10 || s.DS.Selector != 0x18 {
				t.Errorf("selectors %#x %#x", s.CS.Selector, s.DS.Selector)
			}
		}
		if s.CS.L != wantL || s.CS.DB != wantD {
			t.Errorf("%v: CS.L %d CS.D %d", e.Mode, s.CS.L, s.CS.DB)
		}
		for _, d := range []kvm.Segment{s.DS, s.ES, s.FS, s.GS, s.SS} {
			if d.Typ != 3 || d.S != 1 || d.DB != 1 || d.Limit != 0xffffffff || d.Present != 1 {
				t.Errorf("data segment %+v", d)
			}
		}
		if s.TR.Typ != 0xb || s.TR.S != 0 || s.TR.Limit != 0x67 || s.TR.Present != 1 {
			t.Errorf("TR %+v", s.TR)
		}
		code := u64(t, mem, s.GDT.Base+uint64(s.CS.Selector))
		if uint8(code>>53&1) != wantL || uint16(s.CS.Selector)+7 > s.GDT.Limit {
			t.Errorf("descriptor %#x, limit %#x", code, s.GDT.Limit)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	i := open(t, writeFile(t, stock().vmlinux()), "")
	wrapped := open(t, writeFile(t, bzImage(payloadOf(t, "gzip", stock().vmlinux()))), "")
	least := i.MinMemory()
	for _, c := range []struct {
		name  string
		image *Image
		p     Params
		want  string
	}{
		{"little memory", i, Params{RAM: layout.RAM(least - 1)}, "MiB"},
		{"initrd too large", i, Params{RAM: layout.RAM(least), Initrd: Bytes("x")}, "MiB"},
		{"long command line", i, Params{RAM: smallRAM(), Cmdline: strings.Repeat("x", 2048)}, "2048 bytes"},
		{"NUL in command line", i, Params{RAM: smallRAM(), Cmdline: "a\x00b"}, "NUL"},
		{"kernel's own limit", wrapped, Params{RAM: smallRAM(), Cmdline: strings.Repeat("x", 256)}, "takes 255"},
	} {
		_, _, err := loadInto(t, c.image, c.p)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.image.path) {
			t.Errorf("%s: %v, want %q and the path", c.name, err, c.want)
		}
		if strings.Contains(c.want, "MiB") && !errors.Is(err, ErrTooLittleMemory) {
			t.Errorf("%s: %v is not ErrTooLittleMemory", c.name, err)
		}
	}
	if _, _, err := loadInto(t, i, Params{RAM: layout.RAM(least)}); err != nil {
		t.Errorf("exactly enough memory: %v", err)
	}
}

// A segment in the PCI hole is refused even when there is enough memory.
func TestLoadRefusesSegmentOutsideRAM(t *testing.T) {
	spec := stock()
	spec.noNote, spec.paddr, spec.entry = true, ramSize-pageSize, ramSize-pageSize
	i := open(t, writeFile(t, spec.vmlinux()), "")
	i.program.end = dataAt // so that only the segment itself is in the way
	if _, _, err := loadInto(t, i, Params{RAM: smallRAM()}); !errors.Is(err, memory.ErrAddress) {
		t.Errorf("loaded: %v", err)
	}
}

func TestInitrdStaysBelowLimit(t *testing.T) {
	b := bzImage(payloadOf(t, "gzip", stock().vmlinux()))
	const limit = 40 << 20
	binary.LittleEndian.PutUint32(b[0x22c:], limit-1)
	mem, e, err := loadInto(t, open(t, writeFile(t, b), ""), Params{RAM: smallRAM(), Initrd: Bytes(make([]byte, 5000))})
	if err != nil {
		t.Fatal(err)
	}
	module := u64(t, mem, e.RBX+16)
	if base := u64(t, mem, module); base != limit-2*pageSize {
		t.Errorf("initrd at %#x", base)
	}
}

func TestResetVector(t *testing.T) {
	mem, _, err := loadInto(t, open(t, writeFile(t, stock().vmlinux()), ""), Params{RAM: smallRAM()})
	if err != nil {
		t.Fatal(err)
	}
	code := at(t, mem, layout.ResetVector, 16)
	port := binary.LittleEndian.Uint16(code[1:])
	if code[0] != 0xba || port != layout.Reset || code[3] != 0xb0 || code[4] != layout.ResetValue || code[5] != 0xee {
		t.Errorf("code % x", code)
	}
}

func TestCmdline(t *testing.T) {
	if got, err := Cmdline("a=1", "", "  b ", "c d"); got != "a=1 b c d" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Cmdline(strings.Repeat("x", 2047)); err != nil {
		t.Error(err)
	}
	if _, err := Cmdline(strings.Repeat("x", 2000), strings.Repeat("y", 47)); err == nil {
		t.Error("2048 bytes were taken")
	}
}
