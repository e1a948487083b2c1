package guest

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// family returns a process and all below it.
func family(pid int) []int {
	parents := make(map[int][]int)
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // gone
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // proc_pid_stat(5)
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if parent, err := strconv.Atoi(f[1]); err == nil {
			parents[parent] = append(parents[parent], child)
		}
	}
	list := []int{pid}
	for i := 0; i < len(list); i++ {
		list = append(list, parents[list[i]]...)
	}
	return list
}

// resident is memory of processes in KiB without the guest's: Pss divides what several
// of them share by their number, Rss counts it for each.
type resident struct{ rss, pss int }

// resident adds up all processes of a guest.
func (r *running) resident() (resident, error) {
	var sum resident
	for _, cmd := range r.cmds {
		for _, pid := range family(cmd.Process.Pid) {
			one, err := residentOf(pid)
			if err != nil {
				return sum, err
			}
			sum.rss, sum.pss = sum.rss+one.rss, sum.pss+one.pss
		}
	}
	return sum, nil
}

// residentOf adds up the mappings of a process (proc_pid_smaps(5)) but for the guest's
// RAM: QEMU's and virtiofsd's is the memory back end's file, Tenon's is what it keeps
// from children (dc, MADV_DONTFORK). The initramfs, which QEMU leaves mapped, is as good
// as the guest's.
func residentOf(pid int) (resident, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return resident{}, err
	}
	defer f.Close()
	var sum, one resident
	ram := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch {
		case key == "Rss":
			one.rss = n
		case key == "Pss":
			one.pss = n
		case key == "VmFlags": // the last line of a mapping
			if !ram && !slices.Contains(strings.Fields(value), "dc") {
				sum.rss, sum.pss = sum.rss+one.rss, sum.pss+one.pss
			}
		case strings.Contains(key, "-"): // 7f...-7f... rw-p ... path
			ram = strings.Contains(lines.Text(), "memfd:memory-backend") || strings.HasSuffix(lines.Text(), imageSuffix)
		}
	}
	return sum, lines.Err()
}
