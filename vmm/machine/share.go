package machine

import (
	"fmt"
	"os"
	"time"

	"tenon/devices/virtio/fs"
	"tenon/virtiofs"
	"tenon/virtiofs/dax"
	"tenon/virtiofs/idmap"
	"tenon/virtiofs/passthrough"
	"tenon/virtiofs/xattrmap"
	"tenon/vmm/config"
)

// graftedInit is where a guest without an initrd finds its init: a name at the
// root of its share that exists for guests only.
const graftedInit = ".tenon-init"

// maxRequestQueues bounds the request queues of one virtio-fs device.
const maxRequestQueues = 8

// share is a host directory that is open, before and while a device serves it.
type share struct {
	tag      string
	server   *virtiofs.Server
	requests *virtiofs.Counter // nil: nobody will ask
	window   *dax.Window       // nil: none
	fault    config.DAXFault
	name     string // as the user knows it: where it is mounted, or its tag
}

// openShares opens the root, the volumes and the shares, in this order.
func (m *Machine) openShares() error {
	if err := m.checkWindows(); err != nil {
		return err
	}
	budget, err := passthrough.NewBudget()
	if err != nil {
		return err
	}
	root := passthrough.Options{Budget: budget, OneDevice: m.overlaid()}
	if m.config.NoInitrd {
		root.Grafts = []passthrough.Graft{{Name: graftedInit, File: m.opts.Init}}
	}
	if err := m.openShare(m.config.Root, root); err != nil {
		return err
	}
	for _, list := range [][]config.Share{m.config.Volumes, m.config.Shares} {
		for _, s := range list {
			if err := m.openShare(s, passthrough.Options{Budget: budget}); err != nil {
				return err
			}
		}
	}
	return nil
}

// overlaid says that the guest's init will put a throw-away layer over the root.
func (m *Machine) overlaid() bool { return m.ownInit() && m.config.Root.ReadOnly }

// openShare opens the share's directory with o and what the share says.
func (m *Machine) openShare(s config.Share, o passthrough.Options) error {
	so, err := serverOptions(s)
	if err == nil {
		err = directoryOptions(s, so, &o)
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", s.Tag, err)
	}
	if o.Window, err = m.openWindow(s); err != nil {
		return fmt.Errorf("share %s: %w", s.Tag, err)
	}
	dir, err := passthrough.New(s.Dir, o)
	if err != nil {
		if o.Window != nil {
			o.Window.Close()
		}
		return fmt.Errorf("share %s: %w", s.Tag, err)
	}
	opened := share{tag: s.Tag, window: o.Window, fault: s.DAXFault, name: s.Tag}
	switch {
	case s.Guest != "":
		opened.name = s.Guest
	case s.Tag == config.RootTag:
		opened.name = "/"
	}
	if m.config.Report != "" {
		opened.requests = new(virtiofs.Counter)
		so.Observer = opened.requests
	}
	opened.server = virtiofs.NewServer(dir, so)
	m.shares = append(m.shares, opened)
	return nil
}

// serverOptions is what the share says about the protocol.
func serverOptions(s config.Share) (virtiofs.Options, error) {
	p, err := virtiofs.ParsePolicy(s.Cache)
	if err != nil {
		return virtiofs.Options{}, err
	}
	for _, t := range []struct {
		from *config.Duration
		to   *time.Duration
	}{{s.EntryTimeout, &p.EntryValid}, {s.AttrTimeout, &p.AttrValid}, {s.NegativeTimeout, &p.Negative}} {
		if t.from != nil {
			*t.to = time.Duration(*t.from)
		}
	}
	o := virtiofs.Options{
		Policy: p, Writeback: s.Writeback, Locks: s.Locks == config.LocksHost, ACL: s.ACL, Labels: s.SecurityLabel,
		DAX: daxModes[s.DAX], DAXMinSize: s.DAXMinSize,
	}
	return o, o.Check(s.ReadOnly)
}

var handleModes = map[config.Handles]passthrough.HandleMode{
	config.HandlesAuto:   passthrough.HandlesAuto,
	config.HandlesAlways: passthrough.HandlesAlways,
	config.HandlesNever:  passthrough.HandlesNever,
}

// directoryOptions is what the share says about the host's side.
func directoryOptions(s config.Share, so virtiofs.Options, o *passthrough.Options) error {
	o.ReadOnly, o.Devices, o.ACL = s.ReadOnly, s.Devices, s.ACL
	o.Writeback, o.Immutable = s.Writeback, so.Policy.NoOpen
	o.OneDevice = o.OneDevice || !s.Submounts
	o.Handles = handleModes[s.InodeHandles]
	var err error
	if o.IDs, err = owners(s); err != nil {
		return err
	}
	if s.XattrMap != "" {
		o.Xattrs, err = xattrmap.Parse(s.XattrMap)
	}
	return err
}

// owners is the translation of ids; nil when there is none.
func owners(s config.Share) (*idmap.Maps, error) {
	if s.Owner == config.OwnerSquash {
		return &idmap.Maps{UID: idmap.Squash(uint32(os.Geteuid())), GID: idmap.Squash(uint32(os.Getegid()))}, nil
	}
	var maps idmap.Maps
	for _, m := range []struct {
		rules []string
		to    **idmap.Map
	}{{s.UIDMap, &maps.UID}, {s.GIDMap, &maps.GID}} {
		if len(m.rules) == 0 {
			continue
		}
		parsed, err := idmap.Parse(m.rules...)
		if err != nil {
			return nil, err
		}
		*m.to = parsed
	}
	if maps == (idmap.Maps{}) {
		return nil, nil
	}
	return &maps, nil
}

// buildShares makes one virtio-fs device for each share.
func (m *Machine) buildShares() error {
	for i := range m.shares {
		if err := m.buildShare(&m.shares[i]); err != nil {
			return fmt.Errorf("share %s: %w", m.shares[i].tag, err)
		}
	}
	return nil
}

func (m *Machine) buildShare(s *share) error {
	o := fs.Options{
		Tag: s.tag, Server: s.server, Service: services[m.config.Service],
		RequestQueues: min(m.config.CPUs, maxRequestQueues),
	}
	if s.window != nil {
		o.WindowSize = s.window.Size()
	}
	d, err := fs.New(o)
	if err != nil {
		return err
	}
	slot, err := m.addFunction(d)
	if err != nil || s.window == nil {
		return err
	}
	return m.mapWindow(s, slot)
}

var services = map[config.Service]fs.Service{
	config.ServiceExit:   fs.ServiceExit,
	config.ServiceWorker: fs.ServiceWorker,
	config.ServiceAuto:   fs.ServiceAuto,
	config.ServicePoll:   fs.ServicePoll,
}
