package boot

import (
	"encoding/binary"

	"github.com/bobuhiro11/gokvm/bootparam"

	"tenon/vmm/layout"
)

const (
	rsdpAt      = 0x70 // boot_params.acpi_rsdp_addr, which gokvm's struct lacks
	loaderOther = 0xff // type_of_loader: none of the registered ones
	bootFlag    = 0xaa55
	protocol    = 0x020f // the newest we know; set where there is no bzImage to say it

	pagePresent = 1 << 0
	pageWrite   = 1 << 1
	pageLarge   = 1 << 7
	largePage   = 2 << 20
)

// enterLong writes the zero page (struct boot_params, boot.rst) and the page
// tables of the 64-bit boot protocol.
func (l *loader) enterLong() (Entry, error) {
	zero, err := l.zeroPage()
	if err != nil {
		return Entry{}, err
	}
	if err := l.write(layout.ZeroPage, zero); err != nil {
		return Entry{}, err
	}
	if err := l.write(layout.PageTables, pageTables()); err != nil {
		return Entry{}, err
	}
	e := entry(gdtCode64)
	e.Mode = Long64
	e.RIP = l.image.program.entry
	e.RSI = layout.ZeroPage
	e.CR0 |= cr0PG
	e.CR3 = layout.PageTables
	e.CR4 = cr4PAE
	e.EFER = eferLME | eferLMA
	return e, nil
}

func (l *loader) zeroPage() ([]byte, error) {
	b := bootparam.BootParam{}
	if l.image.header != nil {
		b.Hdr = l.image.header.Hdr
	} else {
		b.Hdr = bootparam.SetupHeader{BootFlag: bootFlag, Header: bootparam.MagicSignature, Version: protocol}
	}
	b.Hdr.TypeOfLoader = loaderOther
	b.Hdr.CmdlinePtr = layout.Cmdline
	b.Hdr.RamdiskImage = uint32(l.initrd.Base)
	b.Hdr.RamdiskSize = uint32(l.initrd.Len)
	for _, a := range layout.MemoryMap(l.params.RAM) {
		b.AddE820Entry(a.Base, a.Len, uint32(a.Type))
	}
	page, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint64(page[rsdpAt:], uint64(l.params.RSDP))
	return page, nil
}

// pageTables returns a PML4, a PDPT and four page directories that map the
// first 4 GiB to themselves in pages of 2 MiB, for layout.PageTables.
func pageTables() []byte {
	const directories = 4
	b := make([]byte, (2+directories)*pageSize)
	put := func(at int, entry uint64) { binary.LittleEndian.PutUint64(b[at:], entry|pagePresent|pageWrite) }
	put(0, layout.PageTables+pageSize)
	for d := range directories {
		put(pageSize+d*8, layout.PageTables+uint64(2+d)*pageSize)
	}
	for n := range directories * pageSize / 8 {
		put(2*pageSize+n*8, uint64(n)*largePage|pageLarge)
	}
	return b
}
