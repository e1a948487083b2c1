package machine

import (
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenon/virtiofs/dax"
	"tenon/vmm/config"
)

// rounds is how often a benchmark compares its two sides, by turns.
func rounds(b *testing.B) int { return max(b.N, 7) }

// report prints the median, least and greatest of ratios.
func report(b *testing.B, ratios []float64, name string) {
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], name)
	b.ReportMetric(ratios[0], name+"-min")
	b.ReportMetric(ratios[len(ratios)-1], name+"-max")
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// timed is how long f takes, in microseconds.
func timed(f func()) float64 {
	start := time.Now()
	f()
	return float64(time.Since(start).Nanoseconds()) / 1e3
}

// BenchmarkDAXRead has a program in a guest read 64 MiB of a file that is mapped, and
// as much RAM: 8 bytes of each 64. x-RAM is the ratio of the times.
func BenchmarkDAXRead(b *testing.B) {
	const size, ramFrom = 64 << 20, 32 << 20
	g := newDAXGuest(b, guestOptions{policy: config.DAXFaultZero, window: size})
	g.file(1, size)
	g.show(1, 0, size, false)
	for at := ramFrom; at < ramFrom+size; at += page {
		g.ram[at] = 1
	}
	ram := func() { g.do(doScan, ramFrom, 0, 0, size/64) }
	window := func() { g.do(doScan, windowAt, 0, 0, size/64) }
	ram()
	window()
	var ratios, inRAM []float64
	b.ResetTimer()
	for range rounds(b) {
		r := timed(ram)
		inRAM = append(inRAM, r)
		ratios = append(ratios, timed(window)/r)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(inRAM)/1e3, "RAM-ms")
	report(b, ratios, "x-RAM")
}

// BenchmarkDAXFirstTouch maps 2 MiB of a file that is in the host's page cache, the
// second ones, and has a guest touch their pages, and does the same on the host without
// one. x-host is the ratio of the times.
func BenchmarkDAXFirstTouch(b *testing.B) {
	g := newDAXGuest(b, guestOptions{policy: config.DAXFaultZero})
	file, err := os.Open(g.file(1, 2*dax.RangeSize))
	must(b, err)
	defer file.Close()
	fd := int(file.Fd())
	g.do(doTouch, bufferAt, 0, 0, 1)
	var ratios, mapping, touching, host []float64
	b.ResetTimer()
	for range rounds(b) {
		var mapped []byte
		sum := byte(0)
		h := timed(func() {
			mapped, err = unix.Mmap(fd, dax.RangeSize, dax.RangeSize, unix.PROT_READ, unix.MAP_SHARED)
			for at := 0; at < len(mapped); at += page {
				sum += mapped[at]
			}
		})
		must(b, err)
		must(b, unix.Munmap(mapped))
		g.show(1, 0, dax.RangeSize, false)
		m := timed(func() {
			g.window.Map(fd, dax.Mapping{File: 1, Offset: dax.RangeSize, At: dax.RangeSize, Len: dax.RangeSize})
		})
		t := timed(func() { g.do(doTouch, windowAt+dax.RangeSize, 0, 0, dax.RangeSize/page) })
		if e := g.window.Unmap(0, 2*dax.RangeSize); e != 0 {
			b.Fatal(e)
		}
		host, mapping, touching = append(host, h), append(mapping, m), append(touching, t)
		ratios = append(ratios, (m+t)/h)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(host), "host-us")
	b.ReportMetric(median(mapping), "map-us")
	b.ReportMetric(median(touching), "touch-us")
	report(b, ratios, "x-host")
}
