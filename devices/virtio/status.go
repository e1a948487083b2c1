package virtio

// Status is the device status field (virtio 1.3 §2.1).
type Status uint8

// Device status bits, in the order of the initialisation sequence (§3.1.1)
// except for the last two.
const (
	StatusAcknowledge Status = 1
	StatusDriver      Status = 2
	StatusFeaturesOK  Status = 8
	StatusDriverOK    Status = 4
	StatusNeedsReset  Status = 64
	StatusFailed      Status = 128
)

// sequence is the order in which a driver sets the bits.
var sequence = [...]Status{StatusAcknowledge, StatusDriver, StatusFeaturesOK, StatusDriverOK}

// Next returns the status after the driver wrote w, which is not 0 (a reset).
// A write that breaks the sequence changes nothing, so that the driver sees it
// on reading back: clearing a bit, skipping one, setting DRIVER_OK before it
// could re-read FEATURES_OK, or anything after FAILED. DEVICE_NEEDS_RESET is
// the device's alone. Whether FEATURES_OK may stay is for the caller to decide.
func (s Status) Next(w Status) Status {
	if s&StatusFailed != 0 {
		return s
	}
	if w&StatusFailed != 0 {
		return s | StatusFailed
	}
	all := sequence[0] | sequence[1] | sequence[2] | sequence[3]
	held, w := s&all, w&all
	if held&^w != 0 {
		return s
	}
	for i, bit := range sequence[1:] {
		if w&bit != 0 && w&sequence[i] == 0 {
			return s
		}
	}
	if w&StatusDriverOK != 0 && held&StatusFeaturesOK == 0 {
		return s
	}
	return s | w
}
