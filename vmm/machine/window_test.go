package machine

import (
	"slices"
	"strings"
	"testing"

	"tenon/vmm/boot"
	"tenon/vmm/config"
)

// windowed is a machine of which only the kernel's release is known.
func windowed(release string, memory uint64, shares ...config.Share) *Machine {
	c := config.Default()
	c.Memory, c.Root.DAX = memory, config.DAXNever
	c.Shares = shares
	return &Machine{config: c, image: &boot.Image{Release: release}}
}

func shareWith(dax config.DAX, window ...uint64) config.Share {
	s := config.Share{Tag: "t", Sharing: config.DefaultSharing()}
	s.DAX = dax
	if len(window) > 0 {
		s.DAXWindow = &window[0]
	}
	return s
}

func TestWindowSize(t *testing.T) {
	const debian = "6.12.117+deb12-cloud-amd64"
	inode := shareWith(config.DAXInode)
	for _, c := range []struct {
		name    string
		release string
		memory  uint64
		shares  []config.Share
		want    uint64 // of the first share
	}{
		{"as a rule", debian, 1 << 30, []config.Share{inode}, 1 << 30},
		{"little RAM", debian, 64 << 20, []config.Share{inode}, 256 << 20},
		{"much RAM", debian, 64 << 30, []config.Share{inode}, 1 << 30},
		{"many shares", debian, 256 << 20, []config.Share{inode, inode, inode}, 256 << 20},
		{"a full bus", debian, 64 << 30, slices.Repeat([]config.Share{inode}, 28), 256 << 20},
		{"old kernel", "5.15.0", 1 << 30, []config.Share{inode}, 0},
		{"two-digit kernel", "10.1.0", 1 << 30, []config.Share{inode}, 1 << 30},
		{"unknown kernel", "", 1 << 30, []config.Share{inode}, 0},
		{"old kernel, asked for", "5.15.0", 1 << 30, []config.Share{shareWith(config.DAXInode, 8<<20)}, 8 << 20},
		{"old kernel, always", "5.15.0", 1 << 30, []config.Share{shareWith(config.DAXAlways)}, 1 << 30},
		{"never", debian, 1 << 30, []config.Share{shareWith(config.DAXNever)}, 0},
		{"none", debian, 1 << 30, []config.Share{shareWith(config.DAXInode, 0)}, 0},
		{"others have their own", debian, 256 << 20, []config.Share{inode, shareWith(config.DAXInode, 4<<30)}, 1 << 30},
	} {
		m := windowed(c.release, c.memory, c.shares...)
		if got := m.windowSize(c.shares[0]); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, config.FormatSize(got), config.FormatSize(c.want))
		}
	}
}

// TestWindowsFitTheHost: windows for which this process may not have enough mappings
// are refused before anything is built.
func TestWindowsFitTheHost(t *testing.T) {
	m := windowed("6.12", 64<<30, shareWith(config.DAXInode, config.MaxDAXWindow))
	if err := m.checkWindows(); err != nil {
		t.Error(err)
	}
	m = windowed("6.12", 64<<30, slices.Repeat([]config.Share{shareWith(config.DAXInode)}, 28)...)
	if err := m.checkWindows(); err != nil {
		t.Errorf("windows that nobody asked for: %v", err)
	}
	for range 1000 {
		m.config.Shares = append(m.config.Shares, shareWith(config.DAXInode, config.MaxDAXWindow))
	}
	err := m.checkWindows()
	if err == nil || !strings.Contains(err.Error(), "run `sysctl vm.max_map_count=") {
		t.Errorf("1000 windows of 16G: %v", err)
	}
}
