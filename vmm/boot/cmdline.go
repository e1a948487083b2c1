package boot

import (
	"fmt"
	"strings"

	"tenon/vmm/layout"
)

// Cmdline joins the parts of a kernel command line with single spaces; empty
// parts drop out. x86 kernels keep 2047 bytes (COMMAND_LINE_SIZE with its NUL)
// and would cut the rest off silently, so a longer line is an error.
func Cmdline(parts ...string) (string, error) {
	var kept []string
	for _, p := range parts {
		if p = strings.TrimSpace(p); p != "" {
			kept = append(kept, p)
		}
	}
	line := strings.Join(kept, " ")
	return line, checkCmdline(line, layout.CmdlineLen-1)
}

func checkCmdline(line string, limit int) error {
	if len(line) > limit {
		return fmt.Errorf("kernel command line: %d bytes, the kernel takes %d", len(line), limit)
	}
	if strings.IndexByte(line, 0) >= 0 {
		return fmt.Errorf("kernel command line: contains a NUL byte")
	}
	return nil
}
