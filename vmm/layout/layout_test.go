package layout

import (
	"slices"
	"testing"
)

func overlap(t *testing.T, areas []Area) {
	t.Helper()
	sorted := slices.Clone(areas)
	slices.SortFunc(sorted, func(a, b Area) int {
		if a.Base < b.Base {
			return -1
		}
		return 1
	})
	for i, a := range sorted {
		if a.Len == 0 || a.Base+a.Len < a.Base {
			t.Errorf("%s is empty or wraps: %#x+%#x", a.Name, a.Base, a.Len)
		}
		if i > 0 && sorted[i-1].Base+sorted[i-1].Len > a.Base {
			t.Errorf("%s (%#x) overlaps %s", a.Name, a.Base, sorted[i-1].Name)
		}
	}
}

func ramAreas(size uint64) []Area {
	var out []Area
	for _, a := range MemoryMap(RAM(size)) {
		if a.Type == RAMType {
			out = append(out, a)
		}
	}
	return out
}

var sizes = []uint64{32 << 20, 1 << 30, PCIHole, PCIHole + 4096, 16 << 30, 300 << 30}

func TestNoOverlap(t *testing.T) {
	overlap(t, ports)
	overlap(t, boot)
	for _, size := range sizes {
		for _, bits := range []uint{36, 39, 40, 46, 52} {
			all := append(ramAreas(size), fixed...)
			base, length := MMIO64(bits, End(RAM(size)))
			if length > 0 {
				all = append(all, Area{"64-bit PCI window", base, length, Unlisted})
				if base+length > 1<<bits {
					t.Errorf("%d bits, %d MiB: window ends at %#x", bits, size>>20, base+length)
				}
			}
			overlap(t, all)
		}
	}
}

func TestBootAreaIsConventionalMemory(t *testing.T) {
	for _, a := range boot {
		if a.Base+a.Len > BootEnd {
			t.Errorf("%s ends at %#x, past the boot area", a.Name, a.Base+a.Len)
		}
	}
}

func TestRAM(t *testing.T) {
	for _, size := range sizes {
		var sum uint64
		for _, r := range RAM(size) {
			sum += r.Len
			if r.Base < PCIHoleEnd && r.Base+r.Len > PCIHole {
				t.Errorf("%d bytes: %#x+%#x reaches into the hole", size, r.Base, r.Len)
			}
		}
		if sum != size {
			t.Errorf("RAM(%d) backs %d bytes", size, sum)
		}
	}
}

func TestMemoryMap(t *testing.T) {
	for _, size := range sizes {
		m := MemoryMap(RAM(size))
		overlap(t, m)
		if !slices.IsSortedFunc(m, func(a, b Area) int { return int(a.Base>>12) - int(b.Base>>12) }) {
			t.Errorf("%d MiB: map is out of order", size>>20)
		}
		var usable uint64
		for _, a := range ramAreas(size) {
			usable += a.Len
		}
		if want := size - (HighRAM - LowRAMEnd); usable != want {
			t.Errorf("%d MiB: %d bytes usable, want %d", size>>20, usable, want)
		}
		for _, at := range []uint64{ACPI, ECAM, IdentityMap, TSS} {
			if !slices.ContainsFunc(m, func(a Area) bool {
				return a.Type == Reserved && a.Base <= at && at < a.Base+a.Len
			}) {
				t.Errorf("%d MiB: %#x is not reserved", size>>20, at)
			}
		}
	}
}

func TestMMIO64(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		bits         uint
		end          uint64
		base, length uint64
	}{
		{46, 1 * gib, 256 * gib, 256 * gib},
		{39, 8 * gib, 256 * gib, 256 * gib},
		{46, 300*gib + 4096, 301 * gib, 256 * gib},
		{39, 300 * gib, 300 * gib, 212 * gib},
		{38, 8 * gib, 8 * gib, 248 * gib},
		{36, 1 * gib, 4 * gib, 60 * gib},
		{36, 64 * gib, 64 * gib, 0},
		{64, 1 * gib, 256 * gib, 256 * gib},
	} {
		base, length := MMIO64(c.bits, c.end)
		if base != c.base || length != c.length {
			t.Errorf("MMIO64(%d, %#x) = %#x+%#x, want %#x+%#x", c.bits, c.end, base, length, c.base, c.length)
		}
	}
}
