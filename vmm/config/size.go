package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// units are the suffixes of a size and their powers of two. A bare number is
// MiB: everybody writes -m 512 and means that.
var units = map[string]uint{
	"":  20,
	"k": 10, "kib": 10,
	"m": 20, "mib": 20,
	"g": 30, "gib": 30,
	"t": 40, "tib": 40,
}

// ParseSize reads a size: a whole number of MiB, or of the unit that follows it:
// K, M, G or T, all powers of 1024, in either case and also written KiB to TiB.
func ParseSize(s string) (uint64, error) {
	digits := s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
	suffix := s[len(digits):]
	if digits == "" {
		return 0, fmt.Errorf("%q is not a size: write a whole number with K, M, G or T, such as 512M", s)
	}
	if suffix != "" && strings.ContainsRune(".,", rune(suffix[0])) {
		return 0, fmt.Errorf("%q has a fraction: write a whole number of a smaller unit, such as 1536M for 1.5G", s)
	}
	shift, ok := units[strings.ToLower(suffix)]
	if !ok {
		return 0, fmt.Errorf("%q has no known unit: write K, M, G or T, such as 512M or 2G", s)
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return 0, fmt.Errorf("%q is more than any machine has: write a smaller size", s)
	}
	return n << shift, nil
}

// FormatSize writes a size in the largest unit that leaves a whole number, in a
// form ParseSize reads back.
func FormatSize(n uint64) string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{40, "T"}, {30, "G"}, {20, "M"}} {
		if n != 0 && n%(1<<u.shift) == 0 {
			return strconv.FormatUint(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatUint(n>>10, 10) + "K"
}

// ParseCPUs reads a number of CPUs; Validate checks its bounds.
func ParseCPUs(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxInt, nil // out of bounds either way: Validate says which
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of CPUs: write a whole number, such as 4", s)
	}
	return n, nil
}

// ParseTimeout reads a duration as Go writes it ("90s", "1h30m"); a bare number is
// seconds, as for timeout(1).
func ParseTimeout(s string) (time.Duration, error) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write seconds or a unit, such as 90, 90s or 5m", s)
	}
	return d, nil
}
