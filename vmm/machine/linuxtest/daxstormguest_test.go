package linuxtest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stormTally is what a guest's programs did and met in a storm.
type stormTally struct {
	Loads, Stores, Reads, Writes int64
	Zeros                        int64 // words that were zero
	ByMachine, ByKernel          int64 // SIGBUS
	Refused                      int64 // by name and by inode: the file was gone
	Lost                         int64 // EIO of fsync(2)
}

// stormCounters counts while a storm goes on: of who maps the file and of who does not.
type stormCounters struct{ mapper, filer atomic.Int64 }

func (c *stormCounters) String() string { return fmt.Sprint(c.mapper.Load(), " ", c.filer.Load()) }

var stormProgress stormCounters

// opMappedStorm uses a file that somebody takes away all the time: by memory and by
// system calls, for so many seconds.
func opMappedStorm(args []string) (string, error) {
	n, err := numbers(args[1:])
	if err != nil {
		return "", err
	}
	seed, end := uint64(n[0]), time.Now().Add(time.Duration(n[1])*time.Second)
	var wg sync.WaitGroup
	var tallies [2]stormTally
	var errs [2]error
	for i, work := range []func(path string, random *rand.Rand, tally *stormTally) error{stormMapped, stormFiled} {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for errs[i] == nil && time.Now().Before(end) {
				errs[i] = work(args[0], random, &tallies[i])
			}
		})
	}
	wg.Wait()
	a, b := tallies[0], tallies[1]
	out, err := json.Marshal(stormTally{a.Loads, a.Stores, b.Reads, b.Writes, a.Zeros + b.Zeros, a.ByMachine, a.ByKernel, a.Refused + b.Refused, b.Lost})
	return string(out), errors.Join(errs[0], errs[1], err)
}

// gone counts errors that tell that the file is not there any more.
func (s *stormTally) gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
		s.Refused++
		time.Sleep(time.Millisecond)
		return nil
	}
	return err
}

// stormMapped maps the file, and loads and stores in some of its pages, again and
// again: what the guest's kernel has mapped it does not look after any more.
func stormMapped(path string, random *rand.Rand, tally *stormTally) error {
	m, err := mapShared(path, stormFile)
	if err != nil {
		stormProgress.mapper.Add(1)
		return tally.gone(err)
	}
	var pages [8]int
	for i := range pages {
		pages[i] = random.IntN(stormFile / pageSize)
	}
	for i := range 400 {
		if i%20 == 0 {
			time.Sleep(time.Millisecond) // it happens while the file is mapped
		}
		page, word, store := pages[random.IntN(len(pages))], random.IntN(pageWord), random.IntN(4) == 0
		at, v := &m.words[page*pageWord+word], uint64(0)
		fault := attempt(func() {
			if store {
				at.Store(stormWord(page))
			} else {
				v = at.Load()
			}
		})
		switch {
		case fault == machineBus:
			tally.ByMachine++
		case fault == kernelBus:
			tally.ByKernel++
		case store:
			tally.Stores++
		case !inStorm(v, page):
			return fmt.Errorf("word %d of page %d is %#x, want %#x or 0", word, page, v, stormWord(page))
		default:
			tally.Loads++
			if v == 0 {
				tally.Zeros++
			}
		}
		stormProgress.mapper.Add(1)
	}
	return m.close()
}

// stormFiled opens the file and reads, writes and syncs.
func stormFiled(path string, random *rand.Rand, tally *stormTally) error {
	stormProgress.filer.Add(1)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return tally.gone(err)
	}
	defer f.Close()
	const pages = 16
	for range 8 {
		page := random.IntN(stormFile/pageSize - pages)
		switch random.IntN(4) {
		case 0:
			_, err = f.WriteAt(stormPages(page, 1), int64(page)*pageSize)
			tally.Writes++
		case 1:
			if err = f.Sync(); errors.Is(err, unix.EIO) {
				tally.Lost++
				err = nil
			}
		default:
			err = stormRead(f, page, pages, tally)
		}
		if err != nil {
			return tally.gone(err)
		}
		stormProgress.filer.Add(1)
	}
	return nil
}

// stormRead reads pages and looks at the first word of each.
func stormRead(f *os.File, page, pages int, tally *stormTally) error {
	b := make([]byte, pages*pageSize)
	n, err := f.ReadAt(b, int64(page)*pageSize)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	tally.Reads++
	for i := 0; (i+1)*pageSize <= n; i++ {
		switch v := binary.NativeEndian.Uint64(b[i*pageSize:]); {
		case v == 0:
			tally.Zeros++
		case !inStorm(v, page+i):
			return fmt.Errorf("page %d reads as %#x, want %#x or 0", page+i, v, stormWord(page+i))
		}
	}
	return err
}
