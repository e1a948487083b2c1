package virtio

// Feature bits of ring and transport that every device offers (virtio 1.3 §6).
// ACCESS_PLATFORM is left out because it makes Linux take every buffer through
// its DMA layer, RING_RESET because queues are reset with their device only.
const (
	FeatureIndirectDesc uint64 = 1 << 28
	FeatureEventIdx     uint64 = 1 << 29
	FeatureVersion1     uint64 = 1 << 32
)

const (
	ringFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1
	// deviceFeatures are the bits a device defines for itself: 0-23 and 50-63 (§2.2).
	deviceFeatures uint64 = 1<<24 - 1 | 0x3fff<<50
)

// Offered returns what a transport offers for a device with the given features
// of its own.
func Offered(device uint64) uint64 { return device&deviceFeatures | ringFeatures }

// Acceptable says whether a driver may end negotiation with these features
// (§2.2.2, §6.2): none that was not offered, and VERSION_1, without which it
// would be a legacy driver.
func Acceptable(offered, driver uint64) bool {
	return driver&^offered == 0 && driver&FeatureVersion1 != 0
}
