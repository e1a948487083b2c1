package machine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestKernelLogLines: the end of the log is shown with what the kernel died of,
// however long the trace is that comes after.
func TestKernelLogLines(t *testing.T) {
	trace := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, " ? frame%d\r\n", i)
		}
		return b.String()
	}
	const why = "[ 1.0] Kernel panic - not syncing: sysrq triggered crash"
	for _, c := range []struct {
		log  string
		want []string
	}{
		{"", nil},
		{"a\r\nb\r\n", []string{"a", "b"}},
		{"a\nb\nc\nd\n", []string{"b", "c", "d"}},
		{why + "\r\n" + trace(2), []string{why, " ? frame0", " ? frame1"}},
		{"boot\r\n" + why + "\r\n" + trace(100), []string{why, " ? frame98", " ? frame99"}},
	} {
		l := newKernelLog(nil)
		l.add([]byte(c.log))
		if got := l.lines(3); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.log, got, c.want)
		}
	}
}
