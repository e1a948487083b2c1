package machine

import (
	"testing"

	"tenon/devices/virtio/fs"
	"tenon/vmm/config"
)

// Each service of the configuration is one of the device's.
func TestEachServiceIsTheDevices(t *testing.T) {
	seen := map[fs.Service]config.Service{}
	for _, name := range []config.Service{config.ServiceAuto, config.ServiceExit, config.ServiceWorker, config.ServicePoll} {
		s, ok := services[name]
		if other, twice := seen[s]; !ok || twice {
			t.Errorf("%s: known %v, the same as %q", name, ok, other)
		}
		seen[s] = name
	}
}
