// Package idmap translates user and group ids between a guest and its host.
//
// A translation is a list of rules, in the language of virtiofsd's
// --translate-uid and --translate-gid:
//
//	map:GUEST:HOST:COUNT           both ways
//	guest:GUEST:HOST:COUNT         what the guest says, to the host
//	host:HOST:GUEST:COUNT          what the host says, to the guest
//	squash-guest:GUEST:HOST:COUNT  COUNT ids of the guest to one of the host
//	squash-host:HOST:GUEST:COUNT   COUNT ids of the host to one of the guest
//	forbid-guest:GUEST:COUNT       EPERM
//
// An id that no rule speaks of is the same on both sides.
package idmap

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxID is the largest id there is: 2^32-1 means "none" to the system calls.
const maxID = 1<<32 - 2

// Maps is the translation of a share's ids.
type Maps struct {
	UID, GID *Map // nil: the same on both sides
}

// Map is one translation of ids. It does not change, and a nil Map translates
// every id to itself.
type Map struct {
	toHost, toGuest []span // sorted by first, disjoint
}

// span is the ids of one rule in one direction.
type span struct {
	first, last uint32
	to          uint32 // what first becomes; without one, all of them
	one         bool   // many ids become one
	forbidden   bool
}

// Squash is the translation for a share that has one owner: every id of the
// guest is host's, and every id of the host is the guest's root.
func Squash(host uint32) *Map {
	all := span{last: ^uint32(0), one: true}
	m := &Map{toGuest: []span{all}}
	all.to = host
	m.toHost = []span{all}
	return m
}

// ToHost translates an id of the guest; not ok is an id that is forbidden (EPERM).
func (m *Map) ToHost(id uint32) (host uint32, ok bool) {
	if m == nil {
		return id, true
	}
	s := find(m.toHost, id)
	if s == nil {
		return id, true
	}
	return s.translate(id), !s.forbidden
}

// ToGuest translates an id of the host.
func (m *Map) ToGuest(id uint32) uint32 {
	if m == nil {
		return id
	}
	s := find(m.toGuest, id)
	if s == nil {
		return id
	}
	return s.translate(id)
}

func (s *span) translate(id uint32) uint32 {
	if s.one {
		return s.to
	}
	return s.to + (id - s.first)
}

// find returns the span that holds the id, nil for none.
func find(spans []span, id uint32) *span {
	low, high := 0, len(spans)
	for low < high {
		middle := int(uint(low+high) / 2)
		switch s := &spans[middle]; {
		case id < s.first:
			high = middle
		case id > s.last:
			low = middle + 1
		default:
			return s
		}
	}
	return nil
}

// verb is one kind of rule.
type verb struct {
	name            string
	toHost, toGuest bool // the directions it speaks of
	squash, forbid  bool
}

var verbs = []verb{
	{name: "map", toHost: true, toGuest: true},
	{name: "guest", toHost: true},
	{name: "host", toGuest: true},
	{name: "squash-guest", toHost: true, squash: true},
	{name: "squash-host", toGuest: true, squash: true},
	{name: "forbid-guest", toHost: true, forbid: true},
}

// forms is the language for error messages.
const forms = "map:GUEST:HOST:COUNT, guest:GUEST:HOST:COUNT, host:HOST:GUEST:COUNT, " +
	"squash-guest:GUEST:HOST:COUNT, squash-host:HOST:GUEST:COUNT or forbid-guest:GUEST:COUNT"

// Parse reads the rules, each one string. Ids are 0 to 2^32-2, counts 1 or more,
// and no id may be translated by two rules in one direction. The error names
// the rule and what it should be.
func Parse(rules ...string) (*Map, error) {
	m := &Map{}
	for _, rule := range rules {
		if err := m.add(rule); err != nil {
			return nil, fmt.Errorf("rule %q: %w; a rule is %s", rule, err, forms)
		}
	}
	return m, nil
}

// add adds one rule's spans to the directions that its verb speaks of.
func (m *Map) add(rule string) error {
	name, rest, _ := strings.Cut(rule, ":")
	i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == name })
	if i < 0 {
		return fmt.Errorf("there is no %q", name)
	}
	v := &verbs[i]
	s, err := v.parse(rest)
	if err != nil {
		return err
	}
	back := s
	if v.toHost && v.toGuest {
		back = span{first: s.to, last: s.to + (s.last - s.first), to: s.first}
	}
	if v.toHost {
		if m.toHost, err = insert(m.toHost, s); err != nil {
			return fmt.Errorf("guest ids %w", err)
		}
	}
	if v.toGuest {
		if m.toGuest, err = insert(m.toGuest, back); err != nil {
			return fmt.Errorf("host ids %w", err)
		}
	}
	return nil
}

// parse reads the numbers of a rule: FROM:TO:COUNT, or FROM:COUNT of a verb
// that forbids.
func (v *verb) parse(numbers string) (span, error) {
	fields := strings.Split(numbers, ":")
	if v.forbid && len(fields) == 2 {
		fields = []string{fields[0], "0", fields[1]}
	} else if v.forbid || len(fields) != 3 {
		return span{}, errors.New("it has too many or too few numbers")
	}
	var n [3]uint64
	for i, f := range fields {
		var err error
		if n[i], err = strconv.ParseUint(f, 10, 32); err != nil {
			return span{}, fmt.Errorf("%q is not a number from 0 to %d", f, uint32(maxID))
		}
	}
	from, to, count := n[0], n[1], n[2]
	targets := count
	if v.squash || v.forbid {
		targets = 1
	}
	switch {
	case count == 0:
		return span{}, errors.New("the count is 0")
	case from+count-1 > maxID, to+targets-1 > maxID:
		return span{}, fmt.Errorf("it goes beyond the largest id, %d", uint32(maxID))
	}
	return span{first: uint32(from), last: uint32(from + count - 1), to: uint32(to), one: v.squash, forbidden: v.forbid}, nil
}

// insert keeps the spans in order and refuses one that overlaps another.
func insert(spans []span, s span) ([]span, error) {
	at, _ := slices.BinarySearchFunc(spans, s, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	for _, i := range []int{at - 1, at} {
		if i >= 0 && i < len(spans) && spans[i].first <= s.last && s.first <= spans[i].last {
			return spans, fmt.Errorf("%d to %d are in another rule too", max(s.first, spans[i].first), min(s.last, spans[i].last))
		}
	}
	return slices.Insert(spans, at, s), nil
}
