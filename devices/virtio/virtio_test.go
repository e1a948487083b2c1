package virtio_test

import (
	"testing"

	"tenon/devices/virtio"
)

func TestStatus(t *testing.T) {
	const (
		a = virtio.StatusAcknowledge
		d = virtio.StatusDriver
		f = virtio.StatusFeaturesOK
		o = virtio.StatusDriverOK
		n = virtio.StatusNeedsReset
		x = virtio.StatusFailed
	)
	for _, tc := range []struct {
		what          string
		s, write, got virtio.Status
	}{
		{"first step", 0, a, a},
		{"second step", a, a | d, a | d},
		{"two steps at once", 0, a | d, a | d},
		{"features", a | d, a | d | f, a | d | f},
		{"running", a | d | f, a | d | f | o, a | d | f | o},
		{"the same again", a | d | f | o, a | d | f | o, a | d | f | o},

		{"driver before acknowledge", 0, d, 0},
		{"features before driver", a, a | f, a},
		{"running before features", a | d, a | d | o, a | d},
		{"running together with features", a | d, a | d | f | o, a | d},
		{"clearing one", a | d | f, a | d, a | d | f},
		{"clearing one and setting another", a | d, a | f, a | d},
		{"a bit that is not defined", a, a | 16 | 32, a},

		{"broken by the driver", a | d, a | d | n, a | d},
		{"repaired by the driver", a | d | f | o | n, a | d | f | o, a | d | f | o | n},
		{"read, modify, write of a broken device", a | d | n, a | d | f | n, a | d | f | n},
		{"failed", a | d | n, a | d | n | x, a | d | n | x},
		{"failed alone", a | d, x, a | d | x},
		{"after failed", a | d | x, a | d | f | x, a | d | x},
	} {
		if got := tc.s.Next(tc.write); got != tc.got {
			t.Errorf("%s: %#x written %#x gives %#x, want %#x", tc.what, tc.s, tc.write, got, tc.got)
		}
	}
}

func TestFeatures(t *testing.T) {
	const ring = 1<<28 | 1<<29 | 1<<32
	for _, tc := range []struct {
		device, offered uint64
	}{
		{0, ring},
		{1<<0 | 1<<23 | 1<<50 | 1<<63, ring | 1<<0 | 1<<23 | 1<<50 | 1<<63},
		{1<<24 | 1<<27 | 1<<33 | 1<<40 | 1<<49, ring}, // not a device's to offer
	} {
		if got := virtio.Offered(tc.device); got != tc.offered {
			t.Errorf("Offered(%#x) = %#x, want %#x", tc.device, got, tc.offered)
		}
	}
	for _, tc := range []struct {
		driver uint64
		ok     bool
	}{
		{1 << 32, true},
		{ring | 1, true},
		{0, false},
		{1<<28 | 1<<29 | 1, false}, // legacy
		{1<<32 | 1<<33, false},
		{1<<32 | 2, false},
	} {
		if ok := virtio.Acceptable(ring|1, tc.driver); ok != tc.ok {
			t.Errorf("Acceptable(%#x) = %v", tc.driver, ok)
		}
	}
}
