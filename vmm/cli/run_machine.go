package cli

import (
	"fmt"
	"path/filepath"
	"slices"

	"tenon/guest/image"
	"tenon/vmm/boot"
	"tenon/vmm/config"
	"tenon/vmm/machine"
)

// ownBinary is the file this process runs, even after it was replaced or removed. It
// is the guest's init too.
const ownBinary = "/proc/self/exe"

// newMachine assembles the machine with what only this process knows.
func newMachine(c config.Machine, o machine.Options) (runner, error) {
	cache, err := cacheDir()
	if err != nil {
		cache = "" // without a home nothing is kept
	}
	o.Init, o.CacheDir = ownBinary, cache
	m, err := machine.New(c, o)
	if err != nil {
		return nil, err // not a nil *Machine in a runner
	}
	return m, nil
}

// inspect opens a kernel as run would and says which it is and how it has virtio-fs.
func inspect(k kernel) (release, how string, err error) {
	i, err := boot.Open(k.Image, unpackedDir())
	if err != nil {
		return "", "", fmt.Errorf("%w: remove it and run scripts/kernel", err)
	}
	defer i.Close()
	all := image.Drivers()
	driver := all[slices.IndexFunc(all, func(d image.Driver) bool { return d.Name == "virtiofs" })]
	if k.Modules == "" {
		if i.Contains(driver.Signature) {
			return i.Release, "built in", nil
		}
		return i.Release, "", fmt.Errorf("no (%s), and there are no modules beside it: run scripts/kernel", driver.Config)
	}
	modules, err := image.OpenModules(k.Modules)
	if err != nil {
		return i.Release, "", fmt.Errorf("%w: run scripts/kernel", err)
	}
	switch where, file := modules.Find(driver.Name); where {
	case image.BuiltIn:
		return i.Release, "built in", nil
	case image.Module:
		return i.Release, "a module, " + filepath.Join(k.Modules, file), nil
	}
	return i.Release, "", fmt.Errorf("no (%s): run scripts/kernel", driver.Config)
}
