// Package acpi builds the tables that tell the guest what the machine is made
// of: processors and interrupt controllers (MADT), PCI (MCFG and DSDT), how to
// reset and power off (FADT). The machine is hardware-reduced (ACPI 6.5 §4.1):
// no SCI, no PIT, no 8259, no fixed registers but sleep and reset.
package acpi

import (
	"encoding/binary"
	"fmt"

	"tenon/vmm/layout"
)

// Options is what varies between machines.
type Options struct {
	CPUs   int          // processors, with APIC ids from 0
	MMIO64 layout.Range // 64-bit PCI window; length 0: none
}

// S5 is the sleep type of power-off: what the guest writes to bits 2-4 of the
// sleep control register, with bit 5 to go to sleep (ACPI 6.5 §4.8.3.7).
const S5 = 5

const (
	headerLen = 36
	rsdpLen   = 36
	align     = 16
)

// Build returns the tables as one blob for guest RAM at layout.ACPI, with the
// RSDP at its start. It fails when there is no processor, or so many that the
// tables outgrow layout.ACPILen.
func Build(o Options) ([]byte, error) {
	if o.CPUs < 1 {
		return nil, fmt.Errorf("acpi: %d processors", o.CPUs)
	}
	b := builder{blob: make([]byte, rsdpLen)}
	dsdt := b.add(table("DSDT", 2, dsdt(o)))
	pointers := []uint64{
		b.add(fadt(dsdt)),
		b.add(madt(o.CPUs)),
		b.add(mcfg()),
	}
	var body []byte
	for _, p := range pointers {
		body = binary.LittleEndian.AppendUint64(body, p)
	}
	b.finish(b.add(table("XSDT", 1, body)))
	if len(b.blob) > layout.ACPILen {
		return nil, fmt.Errorf("acpi: tables of %d processors need %d bytes, there are %d", o.CPUs, len(b.blob), layout.ACPILen)
	}
	return b.blob, nil
}

// builder lays tables one after the other behind the RSDP.
type builder struct{ blob []byte }

// add appends a table and returns its guest-physical address.
func (b *builder) add(t []byte) uint64 {
	for len(b.blob)%align != 0 {
		b.blob = append(b.blob, 0)
	}
	at := layout.ACPI + uint64(len(b.blob))
	b.blob = append(b.blob, t...)
	return at
}

// finish fills in the RSDP (ACPI 6.5 §5.2.5.3), of which the first 20 bytes
// have a checksum of their own.
func (b *builder) finish(xsdt uint64) {
	r := b.blob[:rsdpLen]
	copy(r, "RSD PTR ")
	copy(r[9:], oemID)
	r[15] = 2 // revision
	binary.LittleEndian.PutUint32(r[20:], rsdpLen)
	binary.LittleEndian.PutUint64(r[24:], xsdt)
	r[8] = checksum(r[:20])
	r[32] = checksum(r)
}

const (
	oemID     = "TENON "
	oemTable  = "TENONVMM"
	creatorID = "TNON"
)

// table puts the system description table header (ACPI 6.5 §5.2.6) before the
// body.
func table(signature string, revision byte, body []byte) []byte {
	t := make([]byte, headerLen, headerLen+len(body))
	t = append(t, body...)
	copy(t, signature)
	binary.LittleEndian.PutUint32(t[4:], uint32(len(t)))
	t[8] = revision
	copy(t[10:], oemID)
	copy(t[16:], oemTable)
	binary.LittleEndian.PutUint32(t[24:], 1)
	copy(t[28:], creatorID)
	binary.LittleEndian.PutUint32(t[32:], 1)
	t[9] = checksum(t)
	return t
}

// checksum returns the byte that makes the sum of all bytes 0, if the place of
// the checksum itself is 0 now.
func checksum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum += c
	}
	return -sum
}
