package guest

import (
	"fmt"
	"slices"

	"tenon/scripts/benchmark/figures"
)

// rowsOf sorts samples into rows; rows and sides are in the order in which they came.
func rowsOf(list []sample) []figures.Row {
	var order []string
	rows := make(map[string][]sample)
	for _, s := range list {
		if s.Note != "" {
			continue
		}
		if rows[s.Row] == nil {
			order = append(order, s.Row)
		}
		rows[s.Row] = append(rows[s.Row], s)
	}
	var all []figures.Row
	for _, name := range order {
		if row := rowOf(name, rows[name]); len(row.Results[0].Rounds) > 0 {
			all = append(all, row)
		}
	}
	return all
}

// sideOrder is that of a row's lines.
var sideOrder = []string{tenon, tenonDAX, qemuRust, qemuC}

// rowOf makes one row. A round counts when all sides have it: one that failed is left
// out for all.
func rowOf(name string, list []sample) figures.Row {
	row := figures.Row{Name: name, Unit: list[0].Unit}
	values := make(map[string]map[int]float64)
	last := 0
	for _, s := range list {
		if values[s.Side] == nil {
			values[s.Side] = make(map[int]float64)
		}
		values[s.Side][s.Round] = s.Value
		last = max(last, s.Round)
	}
	for round := 0; round <= last; round++ {
		for side := range values {
			if _, ok := values[side][round]; !ok {
				for _, all := range values {
					delete(all, round)
				}
				break
			}
		}
	}
	for _, side := range sideOrder {
		if values[side] == nil {
			continue
		}
		r := figures.Result{Name: side}
		for round := 0; round <= last; round++ {
			if v, ok := values[side][round]; ok {
				r.Rounds = append(r.Rounds, figures.Round{Value: v, Allocs: -1})
			}
		}
		row.Results = append(row.Results, r)
	}
	return row
}

// claims is what is to be shown of the rows that are measured.
func claims(o figures.Options) []figures.Claim {
	var list []figures.Claim
	for _, cache := range caches {
		list = append(list,
			figures.Claim{Row: withCache(randReadRow, cache), Side: qemuRust, Base: tenon, Limit: 1.5, AtLeast: true},
			figures.Claim{Row: withCache(totalRow, cache), Side: qemuRust, Base: tenon, Limit: 1.3, AtLeast: true},
			figures.Claim{Row: withCache(seqReadRow, cache), Side: qemuRust, Base: tenon, Limit: 1.1, AtLeast: true},
			figures.Claim{Row: withCache(seqWriteRow, cache), Side: qemuRust, Base: tenon, Limit: 1.1, AtLeast: true},
		)
	}
	list = append(list,
		figures.Claim{Row: withCache(touchRow, "auto"), Side: qemuRust, Base: tenonDAX, Limit: 5, AtLeast: true},
		figures.Claim{Row: bootRow, Side: tenon, Base: qemuRust, Limit: 0.8},
		figures.Claim{Row: bootRootRow, Side: tenon, Base: qemuRust, Limit: 0.8},
		figures.Claim{Row: rssRow, Side: tenon, Base: qemuRust, Limit: 0.5},
		figures.Claim{Row: pssRow, Side: tenon, Base: qemuRust, Limit: 0.5},
	)
	return slices.DeleteFunc(list, func(c figures.Claim) bool { return !o.Wanted(c.Row) })
}

// notes say how it was measured.
func (s setup) notes() []string {
	z := s.sizes()
	return []string{
		fmt.Sprintf("Each round starts every guest anew, by turns: 1 CPU, %d MiB (fio: %d), the same kernel, initramfs and directory, all in memory. "+
			"Rounds of fio's rows: %d (%s), of all others: %d.", z.Memory, 2*z.Memory, s.FioRounds, fioRoundsKnob, s.Rounds),
		"QEMU is microvm,pcie=on,rtc=off,pit=off,pic=off with vhost-user-fs-pci, its queue of 1024; virtiofsds run as they do by default but for the cache. " +
			"With an initrd QEMU gets the compressed kernel: given the unpacked one, its microvm lets the initrd overwrite the ACPI tables. " +
			"With the root on the share, and as q35, it gets the file that Tenon has unpacked.",
		"Boot is from the start of the first program a user starts (virtiofsd, or Tenon) to the first system call of a static init of some 40 bytes.",
		"Tenon serves by requests (dax=never) but in lines that say DAX (dax=always); Debian's QEMU has no DAX.",
		fmt.Sprintf("mmap rows touch random pages after madvise(MADV_RANDOM), as fio does; warm: the program has touched every page of the file once before. "+
			"The file that does not fit has %d MiB.", z.Big>>20),
		fmt.Sprintf("Metadata: %d files (%s) are created, looked at and removed; untar, find and make work on %d, git status on as many; before each the guest's caches are dropped. "+
			"make's rules start busybox, whose start-up costs all sides the same.", z.Names, namesKnob, z.Dirs*z.PerDir),
		"Host memory is that of all processes without guest RAM, 0.5 s after the guest has gone to sleep over fixed work.",
	}
}
