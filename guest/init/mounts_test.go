package guestinit

import (
	"testing"

	"golang.org/x/sys/unix"

	"tenon/guest/channel"
)

// TestMountShare mounts through kernels that differ in what they refuse.
func TestMountShare(t *testing.T) {
	const noWindow = `mount share "data" with dax=always: the guest has no DAX window for it: give the share one (dax-window=SIZE), or the guest a kernel with CONFIG_FUSE_DAX`
	for _, c := range []struct {
		name        string
		mount       channel.Mount
		with        error // of a mount with an option
		plain       error // of one without
		wantOptions string
		want        string
	}{
		{"no option", channel.Mount{Tag: "data", Path: "d"}, unix.EINVAL, nil, "", ""},
		{"always", channel.Mount{Tag: "data", Path: "d", DAX: "always"}, nil, unix.EIO, "dax=always", ""},
		{"read-only", channel.Mount{Tag: "data", Path: "d", DAX: "never", ReadOnly: true}, nil, unix.EIO, "dax=never", ""},
		{"no window", channel.Mount{Tag: "data", Path: "d", DAX: "always"}, unix.EINVAL, nil, "dax=always", noWindow},
		{"no device", channel.Mount{Tag: "data", Path: "d", DAX: "always"}, unix.EINVAL, unix.EINVAL, "dax=always", `mount share "data" on /d: invalid argument`},
		{"no driver", channel.Mount{Tag: "data", Path: "d", DAX: "always"}, unix.ENODEV, unix.ENODEV, "dax=always", `mount share "data": the kernel has no virtio-fs (CONFIG_VIRTIO_FS)`},
		{"broken", channel.Mount{Tag: "data", Path: "d"}, nil, unix.EIO, "", `mount share "data" on /d: input/output error`},
	} {
		t.Run(c.name, func(t *testing.T) {
			calls := 0
			mount := func(source, target, kind string, flags uintptr, options string) error {
				if readOnly := flags == unix.MS_RDONLY; source != "data" || target != "/at" || kind != "virtiofs" || readOnly != c.mount.ReadOnly {
					t.Errorf("mount(%q, %q, %q, %#x)", source, target, kind, flags)
				}
				if calls++; calls == 1 && options != c.wantOptions {
					t.Errorf("options %q, want %q", options, c.wantOptions)
				}
				if options == "" {
					return c.plain
				}
				return c.with
			}
			got := ""
			if err := shareMounter(mount)(c.mount, "/at"); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("error %q, want %q", got, c.want)
			}
		})
	}
}
