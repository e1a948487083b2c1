package passthrough

import (
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

func TestWriteFlags(t *testing.T) {
	for _, c := range []struct {
		in   virtiofs.WriteFlags
		want int
	}{
		{virtiofs.WriteFlags{KillSuidgid: true}, 0},
		{virtiofs.WriteFlags{Append: true}, unix.RWF_APPEND},
		{virtiofs.WriteFlags{Sync: unix.O_DSYNC}, unix.RWF_DSYNC},
		{virtiofs.WriteFlags{Sync: unix.O_SYNC, Append: true}, unix.RWF_SYNC | unix.RWF_APPEND},
	} {
		if got := writeFlags(c.in); got != c.want {
			t.Errorf("%+v is %#x, want %#x", c.in, got, c.want)
		}
	}
}
