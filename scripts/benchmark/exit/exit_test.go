package exit

import (
	"encoding/binary"
	"slices"
	"testing"

	"tenon/devices/virtio/fs"
	"tenon/vmm/kvm"
)

// The program finds a step's words where the struct has them.
func TestLayout(t *testing.T) {
	var p [stepSize]byte
	n, err := binary.Encode(p[:], binary.LittleEndian, step{rung: 5, failures: 7})
	if err != nil || n != stepSize || p[rungOff] != 5 || p[failuresOff] != 7 {
		t.Errorf("%d bytes, % x, %v", n, p, err)
	}
}

// Every service answers; a reply that is not what it is to be is found out.
func TestReplies(t *testing.T) {
	if sys, err := kvm.Open(); err != nil {
		t.Skip("SKIPPED, no micro-guests: ", err)
	} else {
		sys.Close()
	}
	dir := t.TempDir()
	if _, err := newFile(dir); err != nil {
		t.Fatal(err)
	}
	g, err := newGuest()
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	var shares []*share
	for _, service := range []fs.Service{fs.ServiceAuto, fs.ServiceExit, fs.ServiceWorker, fs.ServicePoll} {
		s, err := g.addShare(dir, service)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		shares = append(shares, s)
	}
	if err := g.start(); err != nil {
		t.Fatal(err)
	}
	for i, s := range shares {
		const rounds = 20
		r, err := g.do(rounds, s.step(reads, 1, 1), s.step(reads, 4, 3), s.step(getattrs, 1, 16))
		if err != nil {
			t.Fatalf("share %d: %v", i, err)
		}
		if r.rung[0] == 0 || r.rung[1] > 4*rounds || r.rung[2] == 0 {
			t.Errorf("share %d: %d doorbells", i, r.rung)
		}
		for n, times := range r.times {
			if len(times) != rounds || slices.Min(times) <= 0 {
				t.Errorf("share %d, step %d: %v ns", i, n, times)
			}
		}
		// 20 rounds of 13 reads have used each of the 64 chains.
		if err := s.check(); err != nil {
			t.Errorf("share %d: %v", i, err)
		}
		g.ram[s.chains[reads]+dataOff]++
		if err := s.check(); err == nil {
			t.Errorf("share %d: wrong data is not found out", i)
		}
		short := s.step(reads, 1, 1)
		short.length--
		if _, err := g.do(1, short); err == nil {
			t.Errorf("share %d: a reply of another length is not found out", i)
		}
	}
	s := shares[0]
	s.server.Reset() // every request fails now
	length := s.step(getattrs, 1, 1)
	length.length = 16
	if _, err := g.do(1, length); err == nil {
		t.Error("an error is not found out")
	}
}
