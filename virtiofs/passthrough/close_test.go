package passthrough

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tenon/virtiofs/dax"
	"tenon/virtiofs/fuse"
)

// TestCloseWhileFilesChange: the window looks at files that change on the host until
// the last moment, and not any longer when the descriptors go by which they are opened.
func TestCloseWhileFilesChange(t *testing.T) {
	dir := t.TempDir()
	const files = 16
	for i := range files {
		check(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), make([]byte, dax.PageSize), 0o644))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := int64(0); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := os.Truncate(filepath.Join(dir, fmt.Sprint("f", n%files)), n%3*dax.PageSize); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range 30 {
		f, err := New(dir, windowOptions(t, Options{Grafts: []Graft{{Name: "shown", File: filepath.Join(dir, "f0")}}}))
		check(t, err)
		for i := range files {
			id, _ := lookup(t, f, fuse.RootID, fmt.Sprint("f", i))
			if e := mapFirst(f, id, false); e != 0 {
				t.Fatal(e)
			}
			f.mapped.close(id) // it is to be opened anew
		}
		id, _ := lookup(t, f, fuse.RootID, "shown")
		if e := mapFirst(f, id, false); e != 0 {
			t.Fatal(e)
		}
		f.mapped.close(id)
		time.Sleep(time.Duration(i%10) * time.Millisecond)
		check(t, f.Close())
	}
	close(stop)
	<-stopped
}
