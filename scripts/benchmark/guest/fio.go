package guest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// job is one job of fio: I/O of one kind on the file of its own.
type job struct {
	Row                 string
	Engine, Mode, Block string
	Depth, Count        int
	Direct              bool
}

// Where a guest has fio.
const fioDir = "fio"

// jobs is the matrix, with the policies under which each makes sense.
func (z sizes) jobs(cache string) []job {
	var list []job
	for _, mode := range []string{"read", "randread", "write", "randwrite"} {
		for _, b := range []struct {
			block string
			count int
		}{{"4K", z.Fio}, {"128K", max(z.Fio/5, 4)}, {"1M", max(z.Fio/20, 4)}} {
			for _, engine := range []string{"psync", "libaio"} {
				for _, direct := range []bool{true, false} {
					j := job{Engine: engine, Mode: mode, Block: b.block, Depth: 1, Count: b.count, Direct: direct}
					how := "buffered"
					if direct {
						how = "direct"
					}
					how = engine + " " + how
					if engine == "libaio" {
						j.Depth = 16
						how = fmt.Sprintf("%s, %d at a time", how, j.Depth)
					}
					j.Row = fmt.Sprintf("fio %s %s %s", mode, b.block, how)
					list = append(list, j)
				}
			}
		}
		if cache != "never" { // there is no mapping without a cache
			list = append(list, job{Row: "fio " + mode + " 4K mmap", Engine: "mmap", Mode: mode, Block: "4K", Depth: 1, Count: z.Fio})
		}
	}
	return list
}

// file is what fio is told.
func (t step) jobFile(s share) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[global]\nfilename=%s\nsize=%d\ninvalidate=1\nnorandommap=1\nrandrepeat=1\nthread=1\ngtod_reduce=1\nstonewall\n",
		s.dir(t.File), t.Block)
	for _, j := range t.Jobs {
		fmt.Fprintf(&b, "[%s]\nioengine=%s\nrw=%s\nbs=%s\niodepth=%d\nnumber_ios=%d\n", j.Row, j.Engine, j.Mode, j.Block, j.Depth, j.Count)
		if j.Direct {
			b.WriteString("direct=1\n")
		}
	}
	return b.String()
}

// fioResult is what of fio's JSON is looked at.
type fioResult struct {
	Jobs []struct {
		Jobname     string
		Error       int
		Read, Write fioIO
	}
}

type fioIO struct {
	IOPS float64
	IOs  int `json:"total_ios"`
}

// fio runs all jobs in one process, one after the other.
func (t step) fio(s share) []outcome {
	list, err := t.runFio(s)
	if err != nil {
		return []outcome{{Row: t.Row, Tag: s.Tag, Err: err.Error()}}
	}
	return list
}

func (t step) runFio(s share) ([]outcome, error) {
	if err := os.WriteFile("/tmp/jobs", []byte(t.jobFile(s)), 0o644); err != nil {
		return nil, err
	}
	var out, complaint bytes.Buffer
	cmd := exec.Command("/"+fioDir+"/lib/"+loader, "--library-path", "/"+fioDir+"/lib", "/"+fioDir+"/bin/fio", "--output-format=json", "/tmp/jobs")
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("fio: %w: %s %s", err, complaint.Bytes(), out.Bytes())
	}
	var r fioResult
	// Warnings come before the object.
	text := out.Bytes()
	if err := json.Unmarshal(text[max(0, bytes.IndexByte(text, '{')):], &r); err != nil {
		return nil, fmt.Errorf("fio: %w: %s", err, text)
	}
	if len(r.Jobs) != len(t.Jobs) {
		return nil, fmt.Errorf("fio did %d jobs of %d", len(r.Jobs), len(t.Jobs))
	}
	var list []outcome
	for i, j := range t.Jobs {
		io, o := r.Jobs[i].Read, outcome{Row: j.Row, Tag: s.Tag, Unit: "ns"}
		if strings.HasSuffix(j.Mode, "write") {
			io = r.Jobs[i].Write
		}
		if r.Jobs[i].Error != 0 || io.IOs != j.Count || io.IOPS == 0 {
			o.Err = fmt.Sprintf("fio: error %d, %d operations of %d, %v a second", r.Jobs[i].Error, io.IOs, j.Count, io.IOPS)
		} else {
			o.Value = 1e9 / io.IOPS
		}
		list = append(list, o)
	}
	return list, nil
}
