package passthrough

import (
	"slices"
	"sort"
)

// span is a locked range of bytes, the last one included.
type span struct {
	start, end uint64
	write      bool
}

// spans is what one owner holds on one file as fcntl(2) has it: sorted, without
// overlaps, and neighbours of one kind are one span.
type spans []span

// from is the index of the first span that ends at the byte or later.
func (s spans) from(at uint64) int {
	return sort.Search(len(s), func(i int) bool { return s[i].end >= at })
}

// set puts n in the place of all that it overlaps, or with unlock nothing.
func (s spans) set(n span, unlock bool) spans {
	i := s.from(n.start)
	j := i
	for j < len(s) && s[j].start <= n.end {
		j++
	}
	var with [3]span
	k := 0
	put := func(p span) { with[k] = p; k++ }
	if i < j && s[i].start < n.start {
		put(span{s[i].start, n.start - 1, s[i].write})
	}
	if !unlock {
		put(n)
	}
	if i < j && s[j-1].end > n.end {
		put(span{n.end + 1, s[j-1].end, s[j-1].write})
	}
	s = slices.Replace(s, i, j, with[:k]...)
	for j = min(i+k, len(s)-1); j > max(i-1, 0); j-- {
		s = s.join(j)
	}
	return s
}

// join makes one of the span at i and the one before it, if they are of one kind
// and touch.
func (s spans) join(i int) spans {
	if s[i-1].end+1 != s[i].start || s[i-1].write != s[i].write {
		return s
	}
	s[i-1].end = s[i].end
	return slices.Delete(s, i, i+1)
}

// splits says that taking the range out would leave one span more than before.
func (s spans) splits(start, end uint64) bool {
	i := s.from(start)
	return i < len(s) && s[i].start < start && s[i].end > end
}

// has says that the byte is locked in that way.
func (s spans) has(at uint64, write bool) bool {
	i := s.from(at)
	return i < len(s) && s[i].start <= at && s[i].write == write
}
