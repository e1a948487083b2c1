package linuxtest

import "testing"

// TestStartedAgain tells of the guests that were started twice, by being skipped
// with their list. It runs last: files run in the order of their names.
func TestStartedAgain(t *testing.T) {
	if len(again) > 0 {
		t.Skipf("in the emulated machine these guests died once and passed or failed the second time: %v", again)
	}
}
