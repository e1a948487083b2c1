package boot

import "tenon/vmm/layout"

// writeResetVector puts code where a PC has its BIOS. Linux needs it to reboot:
// on hardware-reduced ACPI it does not use the FADT's reset register but calls
// EFI, and without EFI it goes to real mode and jumps to f000:fff0
// (arch/x86/kernel/reboot.c), where zeros would be executed for ever.
func (l *loader) writeResetVector() error {
	const port = layout.Reset
	return l.write(layout.ResetVector, []byte{
		0xba, port & 0xff, port >> 8, // mov $port, %dx
		0xb0, layout.ResetValue, // mov $value, %al
		0xee,       // out %al, (%dx)
		0xf4,       // hlt
		0xeb, 0xfd, // jmp to the hlt
	})
}
