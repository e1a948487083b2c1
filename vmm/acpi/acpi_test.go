package acpi

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tenon/vmm/layout"
)

var le = binary.LittleEndian

func options(cpus int) Options {
	return Options{CPUs: cpus, MMIO64: layout.Range{Base: 256 << 30, Len: 256 << 30}}
}

// tables finds every table the way a guest does, from the RSDP on, and checks
// signatures, lengths, checksums and alignment as it goes.
func tables(t *testing.T, o Options) map[string][]byte {
	t.Helper()
	blob, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	at := func(gpa uint64) []byte {
		if gpa < layout.ACPI || gpa+headerLen > layout.ACPI+uint64(len(blob)) || gpa%align != 0 {
			t.Fatalf("table at %#x, blob of %#x bytes", gpa, len(blob))
		}
		b := blob[gpa-layout.ACPI:]
		b = b[:le.Uint32(b[4:])]
		if sum(b) != 0 {
			t.Errorf("%s: checksum wrong", b[:4])
		}
		found[string(b[:4])] = b
		return b
	}
	if string(blob[:8]) != "RSD PTR " || blob[15] != 2 || le.Uint32(blob[20:]) != 36 || sum(blob[:20]) != 0 || sum(blob[:36]) != 0 {
		t.Fatalf("RSDP % x", blob[:36])
	}
	xsdt := at(le.Uint64(blob[24:]))
	for p := headerLen; p < len(xsdt); p += 8 {
		at(le.Uint64(xsdt[p:]))
	}
	at(le.Uint64(found["FACP"][140:]))
	return found
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

func TestTablesAreFound(t *testing.T) {
	for _, cpus := range []int{1, 4, 300} {
		found := tables(t, options(cpus))
		for _, name := range []string{"XSDT", "FACP", "APIC", "MCFG", "DSDT"} {
			if found[name] == nil {
				t.Errorf("%d processors: no %s", cpus, name)
			}
		}
	}
}

// Any change of any byte is noticed by the checks of tables.
func TestChecksumCoversTheTable(t *testing.T) {
	b := table("TEST", 1, []byte("body"))
	for i := range b {
		b[i]++
		if sum(b) == 0 {
			t.Errorf("byte %d is not covered", i)
		}
		b[i]--
	}
}

func TestFADT(t *testing.T) {
	b := tables(t, options(1))["FACP"]
	if len(b) != 276 || b[8] != 6 {
		t.Fatalf("length %d, revision %d", len(b), b[8])
	}
	if arch := le.Uint16(b[109:]); arch != 1<<2|1<<5 {
		t.Errorf("boot architecture flags %#x", arch)
	}
	if flags := le.Uint32(b[112:]); flags&(1<<20) == 0 || flags&(1<<10) == 0 {
		t.Errorf("flags %#x", flags)
	}
	for off, port := range map[int]uint64{116: 0x602, 244: 0x600, 256: 0x601} {
		if !bytes.Equal(b[off:off+4], []byte{1, 8, 0, 1}) || le.Uint64(b[off+4:]) != port {
			t.Errorf("register at %d: % x", off, b[off:off+12])
		}
	}
	if b[128] != 1 {
		t.Errorf("reset value %d", b[128])
	}
}

func TestMADT(t *testing.T) {
	for _, cpus := range []int{1, 2, 255, 256, 300} {
		b := tables(t, options(cpus))["APIC"]
		if le.Uint32(b[36:]) != layout.LAPIC || le.Uint32(b[40:]) != 0 {
			t.Errorf("%d processors: APIC at %#x, flags %#x", cpus, le.Uint32(b[36:]), le.Uint32(b[40:]))
		}
		next, count := uint32(0), map[byte]int{}
		for p := 44; p < len(b); p += int(b[p+1]) {
			e := b[p : p+int(b[p+1])]
			count[e[0]]++
			switch e[0] {
			case 0:
				if uint32(e[3]) != next || next >= 255 || le.Uint32(e[4:]) != 1 {
					t.Errorf("local APIC % x", e)
				}
				next++
			case 9:
				if le.Uint32(e[4:]) != next || next < 255 || le.Uint32(e[8:]) != 1 {
					t.Errorf("x2APIC % x", e)
				}
				next++
			case 1:
				if le.Uint32(e[4:]) != layout.IOAPIC || le.Uint32(e[8:]) != 0 {
					t.Errorf("IO-APIC % x", e)
				}
			}
		}
		if int(next) != cpus || count[1] != 1 || count[4] != 1 || count[10] != min(max(cpus-255, 0), 1) {
			t.Errorf("%d processors: structures %v", cpus, count)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, cpus := range []int{0, -1, 5000} {
		if _, err := Build(options(cpus)); err == nil {
			t.Errorf("%d processors were taken", cpus)
		}
	}
}

func TestPkgLength(t *testing.T) {
	for _, c := range []struct {
		body int
		want []byte
	}{
		{0, []byte{0x01}},
		{62, []byte{0x3f}},
		{63, []byte{0x41, 0x04}},
		{4093, []byte{0x4f, 0xff}},
		{4094, []byte{0x81, 0x00, 0x01}},
		{1<<20 - 4, []byte{0x8f, 0xff, 0xff}},
		{1<<20 - 3, []byte{0xc1, 0x00, 0x00, 0x01}},
	} {
		got := packaged(make(object, c.body))
		if !bytes.Equal(got[:len(got)-c.body], c.want) {
			t.Errorf("%d bytes: % x, want % x", c.body, got[:len(got)-c.body], c.want)
		}
	}
}

func TestIntegers(t *testing.T) {
	for v, want := range map[uint64]string{
		0: "\x00", 1: "\x01", 2: "\x0a\x02", 0x1234: "\x0b\x34\x12",
		0x12345678: "\x0c\x78\x56\x34\x12", 1 << 32: "\x0e\x00\x00\x00\x00\x01\x00\x00\x00",
	} {
		if got := string(integer(v)); got != want {
			t.Errorf("%#x: % x", v, got)
		}
	}
	if got := string(eisaID("PNP0A03")); got != "\x0c\x41\xd0\x0a\x03" {
		t.Errorf("PNP0A03: % x", got)
	}
}

// What the reference compiler reads out of the DSDT, and that it compiles the
// result again without complaint.
func TestDisassembly(t *testing.T) {
	iasl, err := exec.LookPath("iasl")
	if err != nil {
		t.Skip("SKIPPED: no iasl (package acpica-tools): AML is not checked against the reference")
	}
	for _, o := range []Options{options(2), {CPUs: 1}} {
		dir := t.TempDir()
		for name, b := range tables(t, o) {
			if err := os.WriteFile(filepath.Join(dir, name+".dat"), b, 0o600); err != nil {
				t.Fatal(err)
			}
			out := run(t, dir, iasl, "-d", name+".dat")
			out += run(t, dir, iasl, name+".dsl")
			for _, bad := range []string{"Invalid", "Error ", "Warning "} {
				if strings.Contains(out, bad) {
					t.Errorf("%s: %s", name, out)
				}
			}
		}
		source, err := os.ReadFile(filepath.Join(dir, "DSDT.dsl"))
		if err != nil {
			t.Fatal(err)
		}
		checkSource(t, string(source), o.MMIO64.Len > 0)
	}
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func checkSource(t *testing.T, source string, window64 bool) {
	t.Helper()
	words := strings.Join(strings.Fields(source), " ")
	for want, there := range map[string]bool{
		`Name (\_S5, Package (0x04)`:                          true,
		`Name (_HID, EisaId ("PNP0A03")`:                      true,
		`Name (_BBN, Zero)`:                                   true,
		"0xC0000000, // Range Minimum 0xDFFFFFFF,":            true,
		"MaxFixed, PosDecode, EntireRange, 0x0000,":           true,
		"0x1000, // Range Minimum 0xFFFF,":                    true,
		"0x0CF8, // Range Minimum":                            true,
		"0x0000004000000000, // Range Minimum":                window64,
		"MaxFixed, Prefetchable, ReadWrite":                   window64,
		`Name (_HID, EisaId ("PNP0C02")`:                      true,
		"0xE0000000, // Address Base 0x00100000,":             true,
		`Name (_HID, EisaId ("PNP0501")`:                      true,
		"Interrupt (ResourceConsumer, Edge, ActiveHigh, Excl": true,
		"{ 0x00000004, }":                                     true,
	} {
		if strings.Contains(words, want) != there {
			t.Errorf("%q in the source: %v, want %v\n%s", want, !there, there, source)
		}
	}
}
