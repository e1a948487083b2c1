package fstest_test

import (
	"fmt"
	"os"

	"tenon/virtiofs/fstest"
)

// Two directories of one file system answer alike. In the place of the second
// there would be a mounted share, or a fstest.Client.
func Example() {
	var traces [2][]fstest.Trace
	for i := range traces {
		dir, err := os.MkdirTemp("", "example")
		if err != nil {
			fmt.Println(err)
			return
		}
		defer os.RemoveAll(dir)
		target, err := fstest.NewHost(dir)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer target.Close()
		rename := fstest.Case{Name: "rename", Run: func(s *fstest.Script) {
			s.Mkdir("d", 0o755)
			s.Rename("missing", "d/x", 0)
		}}
		traces[i] = fstest.Run(target, []fstest.Case{rename}, fstest.Knobs{})
	}
	for _, line := range traces[0][0].Lines {
		fmt.Println(line)
	}
	fmt.Println(len(fstest.Compare(traces[0], traces[1], fstest.Differences(), "guest")), "differences")
	// Output:
	// mkdir "d" 755 = 0
	// rename "missing" "d/x" 0x0 = ENOENT
	// 0 differences
}
