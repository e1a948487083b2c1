package dax

import "sync/atomic"

// Stats is what a window shows and what it has done.
type Stats struct {
	Size     uint64 `json:"size"`   // bytes
	Ranges   uint64 `json:"ranges"` // ranges of RangeSize in all
	Mapped   uint64 `json:"mapped"` // ranges that show something of a file
	Free     uint64 `json:"free"`   // ranges that show nothing
	Setups   uint64 `json:"setups"`
	Removes  uint64 `json:"removes"`  // mappings asked away, not those of a reset
	Upgrades uint64 `json:"upgrades"` // setups that made writable what was shown for reading
	Refused  uint64 `json:"refused"`  // setups refused: for writing on what may only be read, or out of bounds
	// Faults of the guest by cause, and how they were answered.
	Truncated uint64 `json:"truncated"`
	Failed    uint64 `json:"failed"`
	Protected uint64 `json:"protected"`
	Mended    uint64 `json:"mended"`
	Signaled  uint64 `json:"signaled"`
	Zeroed    uint64 `json:"zeroed"`
}

// counters is the part of Stats that only rises.
type counters struct {
	setups, removes, upgrades, refused atomic.Uint64
	truncated, failed, protected       atomic.Uint64
	mended, signaled, zeroed           atomic.Uint64
}

// Refuse counts a mapping that was refused before it came to Map.
func (w *Window) Refuse() { w.stats.refused.Add(1) }

// Count notes a fault and its answer, once for each fault. Those that were mended
// have been counted by Examine or Sweep.
func (w *Window) Count(c Cause, a Answer) {
	switch c {
	case Truncated:
		w.stats.truncated.Add(1)
	case Failed:
		w.stats.failed.Add(1)
	case Protected:
		w.stats.protected.Add(1)
	}
	switch a {
	case Signaled:
		w.stats.signaled.Add(1)
	case Zeroed:
		w.stats.zeroed.Add(1)
	}
}

// Stats is the window's figures.
func (w *Window) Stats() Stats {
	w.mu.Lock()
	ranges, mapped := uint64(len(w.ranges)), uint64(w.mapped)
	w.mu.Unlock()
	c := &w.stats
	return Stats{
		Size: w.space.size, Ranges: ranges, Mapped: mapped, Free: ranges - mapped,
		Setups: c.setups.Load(), Removes: c.removes.Load(),
		Upgrades: c.upgrades.Load(), Refused: c.refused.Load(),
		Truncated: c.truncated.Load(), Failed: c.failed.Load(), Protected: c.protected.Load(),
		Mended: c.mended.Load(), Signaled: c.signaled.Load(), Zeroed: c.zeroed.Load(),
	}
}
