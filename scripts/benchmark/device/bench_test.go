package device

import (
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRow is the rows of the table for the bare calls and for Tenon, to be
// profiled: -bench Row/tenon/GETATTR$ -cpuprofile.
func BenchmarkRow(b *testing.B) {
	defer unix.Umask(unix.Umask(0))
	sides, err := openSides(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range sides {
		b.Run(s.name, func(b *testing.B) {
			for _, x := range rows {
				b.Run(x.name, func(b *testing.B) { benchmark(b, x, s) })
			}
		})
		if err := s.close(); err != nil {
			b.Error(err)
		}
	}
}

func benchmark(b *testing.B, x row, s side) {
	s.rewind()
	job, err := x.prepare(s)
	if err != nil {
		b.Fatal(err)
	}
	w := newWatch(x.serial, job.n)
	b.ReportAllocs()
	for b.Loop() {
		if err := job.batch(w); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(w.took.Nanoseconds())/float64(b.N*job.n), "ns/request")
	if job.close != nil {
		if err := job.close(); err != nil {
			b.Error(err)
		}
	}
}
