package irq_test

import (
	"slices"
	"testing"

	"tenon/devices/irq"
)

func TestRecorder(t *testing.T) {
	var r irq.Recorder
	r.Raise()
	r.Raise() // no edge: the line is high
	if !r.High() || r.Edges() != 1 {
		t.Errorf("after Raise twice: high %v, %d edges; want high, 1 edge", r.High(), r.Edges())
	}
	r.Lower()
	if r.High() {
		t.Error("high after Lower")
	}
	r.Raise()
	if r.Edges() != 2 {
		t.Errorf("%d edges, want 2", r.Edges())
	}

	r.SendMSI(0xfee00000, 0x21)
	r.SendMSI(0xfee01000, 0x22)
	want := []irq.Message{{Addr: 0xfee00000, Data: 0x21}, {Addr: 0xfee01000, Data: 0x22}}
	if got := r.Messages(); !slices.Equal(got, want) {
		t.Errorf("messages %v, want %v", got, want)
	}
	if got := r.Messages(); len(got) != 0 {
		t.Errorf("messages %v are still there", got)
	}
}
