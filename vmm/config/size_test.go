package config

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want uint64
	}{
		{"512", 512 << 20},
		{"0", 0},
		{"1024K", 1 << 20},
		{"512M", 512 << 20},
		{"2G", 2 << 30},
		{"1T", 1 << 40},
		{"3g", 3 << 30},
		{"64KiB", 64 << 10},
		{"64mib", 64 << 20},
		{"1GiB", 1 << 30},
		{"1TiB", 1 << 40},
		{"16777215T", 16777215 << 40},
	} {
		got, err := ParseSize(c.in)
		if err != nil || got != c.want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", c.in, got, err, c.want)
		}
	}
}

func TestParseSizeRefuses(t *testing.T) {
	for _, c := range []struct{ in, why string }{
		{"", "not a size"},
		{"G", "not a size"},
		{"-1", "not a size"},
		{" 1", "not a size"},
		{"1.5G", "fraction"},
		{"1,5G", "fraction"},
		{"0.5", "fraction"},
		{"1GB", "unit"},
		{"1 G", "unit"},
		{"1Gi", "unit"},
		{"1P", "unit"},
		{"16777216T", "more than any machine"},
		{"99999999999999999999", "more than any machine"},
	} {
		if got, err := ParseSize(c.in); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("ParseSize(%q) = %d, %v, want an error with %q", c.in, got, err, c.why)
		}
	}
}

func TestFormatSizeReadsBack(t *testing.T) {
	for n, want := range map[uint64]string{
		1 << 40: "1T", 1 << 30: "1G", 1536 << 20: "1536M", 64 << 20: "64M", 100 << 10: "100K", 0: "0K",
	} {
		got := FormatSize(n)
		back, err := ParseSize(got)
		if got != want || err != nil || back != n {
			t.Errorf("FormatSize(%d) = %q, want %q; it reads back as %d, %v", n, got, want, back, err)
		}
	}
}

func TestParseCPUs(t *testing.T) {
	for in, want := range map[string]int{"1": 1, "64": 64, "0": 0, "-3": -3, "99999999999999999999": math.MaxInt} {
		if got, err := ParseCPUs(in); err != nil || got != want {
			t.Errorf("ParseCPUs(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "two", "1.5", "4k"} {
		if got, err := ParseCPUs(in); err == nil {
			t.Errorf("ParseCPUs(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseTimeout(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"5": 5 * time.Second, "5s": 5 * time.Second, "250ms": 250 * time.Millisecond, "1h30m": 90 * time.Minute, "-1s": -time.Second,
	} {
		if got, err := ParseTimeout(in); err != nil || got != want {
			t.Errorf("ParseTimeout(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "soon", "5 s", "1.5", "99999999999999999999"} {
		if got, err := ParseTimeout(in); err == nil {
			t.Errorf("ParseTimeout(%q) = %v, want an error", in, got)
		}
	}
}
