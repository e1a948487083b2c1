package device

import (
	"tenon/scripts/benchmark/figures"
	"tenon/scripts/benchmark/ring"
)

// The sides.
const (
	sideBare  = "bare"
	sideGo    = "bare, Go's way" // only in the short rows
	sideTenon = "tenon"
	sideC     = "virtiofsd-c"
	sideRust  = "virtiofsd-rust"
)

// subject is a side as the rows see it: what each row's operation is for it.
type subject interface {
	getattr(row) (work, error)
	lookupKnown(row) (work, error)
	lookupNew(row) (work, error)
	openRelease(row) (work, error)
	read(row) (work, error)
	write(row) (work, error)
	readdirplus(row) (work, error)
	createUnlink(row) (work, error)
	setupRemove(row) (work, error)
}

// row is one line of the table for each side.
type row struct {
	name   string
	do     func(subject, row) (work, error)
	n      int // requests of a batch, where that depends on the row
	size   int // bytes of one READ or WRITE
	shape  ring.Shape
	fresh  bool    // the inodes are forgotten after each batch
	window bool    // needs a DAX window
	serial bool    // one request at a time
	limit  float64 // what Tenon may take at most, in times of what the bare calls take; 0: nothing is said
	zero   bool    // Tenon allocates nothing
	peers  bool    // the daemons are to take peerTimes what Tenon takes, at least
}

// peerTimes is how much more a daemon is to take than Tenon.
const peerTimes = 3

// noAllocs is how many allocations an operation may have where it is to have none: the
// runtime has some of its own, a few in a turn.
const noAllocs = 0.01

// kind stamps what the row writes: each writes something else.
func (x row) kind() uint64 { return sentStamp | uint64(x.shape)<<46 | uint64(x.size)<<24 }

// rows is everything that is measured. READDIRPLUS of inodes that the guest does not
// know is before that of those it knows, which are never forgotten.
var rows = []row{
	{name: "GETATTR", do: subject.getattr, limit: 1.5, zero: true, peers: true},
	{name: "LOOKUP known", do: subject.lookupKnown, limit: 1.4, zero: true, peers: true},
	{name: "LOOKUP new", do: subject.lookupNew, peers: true},
	{name: "OPEN+RELEASE", do: subject.openRelease, peers: true},
	{name: "READ 4K aligned", do: subject.read, n: 64, size: 4 << 10, limit: 1.5, zero: true, peers: true},
	{name: "READ 4K scattered", do: subject.read, n: 64, size: 4 << 10, shape: ring.Scattered, limit: 1.5, zero: true, peers: true},
	{name: "READ 128K aligned", do: subject.read, n: 32, size: 128 << 10, limit: 1.05, zero: true},
	{name: "READ 128K scattered", do: subject.read, n: 32, size: 128 << 10, shape: ring.Scattered, limit: 1.05, zero: true},
	{name: "READ 1M aligned", do: subject.read, n: 8, size: 1 << 20, limit: 1.02, zero: true},
	{name: "READ 1M scattered", do: subject.read, n: 8, size: 1 << 20, shape: ring.Scattered, limit: 1.02, zero: true},
	{name: "WRITE 4K aligned", do: subject.write, n: 64, size: 4 << 10, limit: 1.2, zero: true, peers: true},
	{name: "WRITE 4K scattered", do: subject.write, n: 64, size: 4 << 10, shape: ring.Scattered, limit: 1.2, zero: true, peers: true},
	{name: "WRITE 128K aligned", do: subject.write, n: 32, size: 128 << 10, limit: 1.05, zero: true},
	{name: "WRITE 128K scattered", do: subject.write, n: 32, size: 128 << 10, shape: ring.Scattered, limit: 1.05, zero: true},
	{name: "WRITE 1M aligned", do: subject.write, n: 8, size: 1 << 20, limit: 1.02, zero: true},
	{name: "WRITE 1M scattered", do: subject.write, n: 8, size: 1 << 20, shape: ring.Scattered, limit: 1.02, zero: true},
	{name: "READDIRPLUS 1000 new", do: subject.readdirplus, n: 1, fresh: true},
	{name: "READDIRPLUS 1000 known", do: subject.readdirplus, n: listings},
	{name: "CREATE+UNLINK", do: subject.createUnlink},
	{name: "SETUPMAPPING+REMOVEMAPPING", do: subject.setupRemove, window: true, zero: true},

	{name: "GETATTR, one at a time", do: subject.getattr, serial: true, peers: true},
	{name: "LOOKUP known, one at a time", do: subject.lookupKnown, serial: true, peers: true},
	{name: "LOOKUP new, one at a time", do: subject.lookupNew, serial: true, peers: true},
	{name: "OPEN+RELEASE, one at a time", do: subject.openRelease, serial: true, peers: true},
	{name: "READ 4K, one at a time", do: subject.read, n: 64, size: 4 << 10, serial: true, peers: true},
	{name: "WRITE 4K, one at a time", do: subject.write, n: 64, size: 4 << 10, serial: true, peers: true},
	{name: "CREATE+UNLINK, one at a time", do: subject.createUnlink, serial: true},
}

// short says that the row has little more than the system call.
func (x row) short() bool { return x.peers && x.zero }

// claims is what a row is to show.
func (x row) claims() []figures.Claim {
	var list []figures.Claim
	if x.limit != 0 {
		list = append(list, figures.Claim{Row: x.name, Side: sideTenon, Base: sideBare, Limit: x.limit})
	}
	if x.limit != 0 && x.short() {
		list = append(list, figures.Claim{Row: x.name, Side: sideTenon, Base: sideGo, Limit: x.limit})
	}
	if x.zero {
		list = append(list, figures.Claim{Row: x.name, Side: sideTenon, Limit: noAllocs, Allocs: true})
	}
	if x.peers {
		for _, peer := range []string{sideC, sideRust} {
			list = append(list, figures.Claim{Row: x.name, Side: peer, Base: sideTenon, Limit: peerTimes, AtLeast: true})
		}
	}
	return list
}
