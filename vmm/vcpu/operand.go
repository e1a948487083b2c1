package vcpu

import "tenon/vmm/kvm"

// Numbers of registers that ModRM and SIB give a meaning of their own.
const (
	regSP = 4
	regBP = 5
)

// operands lists the memory operands of the opcode that was read.
func (d *decoder) operands() {
	if d.space == mapOne {
		d.implicit()
	}
	if d.space == map0F {
		d.implicit0F()
	}
	a := d.attributes()
	if a&attrModRM == 0 {
		return
	}
	modrm := d.next()
	d.mod, d.reg, d.rm = modrm>>6, modrm>>3&7, modrm&7
	d.implicitGroup()
	if d.mod == 3 || a&attrUntouched != 0 || d.scattered() {
		return
	}
	if a&attrGroup != 0 {
		a &^= attrStore
		if storeGroups[opcode{d.space, d.op}]>>d.reg&1 != 0 {
			a |= attrStore
		}
	}
	d.explicit(a)
}

// scattered says that the operand is as many addresses as a vector register has.
func (d *decoder) scattered() bool {
	if d.enc == legacy || d.space != map0F38 {
		return false
	}
	return d.op >= 0x90 && d.op <= 0x93 || d.op >= 0xa0 && d.op <= 0xa3 || d.op == 0xc6 || d.op == 0xc7
}

// explicit adds the operand that ModRM names.
func (d *decoder) explicit(a attr) {
	var (
		base    uint64
		segment *kvm.Segment
		disp8   bool
	)
	if d.address == 2 {
		base, segment = d.base16()
	} else {
		base, segment, disp8 = d.base(d.trailing(a))
	}
	store := a&attrStore != 0
	if !disp8 {
		d.add(segment, base+d.bitOffset(), d.width(), store)
		return
	}
	// EVEX counts a displacement of one byte in units of what it loads, which only
	// the instruction knows: most load a whole vector, some one element of it.
	disp := d.number(1)
	for unit := uint64(d.vector); unit > 0; unit >>= 1 {
		d.add(segment, base+disp*unit, d.width(), store)
	}
}

// trailing is the number of bytes behind ModRM, SIB and displacement.
func (d *decoder) trailing(a attr) int {
	switch {
	case a&attrImm8 != 0:
		return 1
	case a&attrImm != 0:
		return min(d.size, 4)
	case d.space == mapOne && d.op == 0xf6 && d.reg < 2: // TEST
		return 1
	case d.space == mapOne && d.op == 0xf7 && d.reg < 2:
		return min(d.size, 4)
	}
	return 0
}

// width is the most bytes that the operand can have. It is exact for what programs poll
// (the page behind is not theirs to be lost): MOV, CMP, TEST and their like.
func (d *decoder) width() uint32 {
	switch {
	case d.enc == legacy && d.ofBytes():
		return 1
	case d.enc == legacy && d.space == map0F && d.op&^8 == 0xb7: // MOVZX MOVSX of words
		return 2
	case d.space == mapOne && d.op>>3 == 0xd8>>3:
		return 108 // FNSAVE
	case d.space == map0F && d.op == 0xc7 && d.reg == 1:
		return 16 // CMPXCHG16B
	case d.space == map0F && (d.op == 0xae || d.op == 0xc7):
		return pageSize // XSAVE
	case d.space == mapOne:
		return uint32(d.size)
	}
	return max(d.vector, 16)
}

// ofBytes says whether the opcode is one of those that have a twin for larger operands,
// or a MOVZX, MOVSX or SETcc of a byte.
func (d *decoder) ofBytes() bool {
	switch {
	case d.space == mapOne && d.op < 0x40:
		return d.op&1 == 0
	case d.space == mapOne:
		switch d.op {
		case 0x80, 0x82, 0x84, 0x86, 0x88, 0x8a, 0xc0, 0xc6, 0xd0, 0xd2, 0xf6, 0xfe:
			return true
		}
	case d.space == map0F:
		return d.op&^8 == 0xb6 || d.op>>4 == 9 || d.op == 0xb0 || d.op == 0xc0
	}
	return false
}

// base16 computes a 16-bit address without segment base (Intel SDM vol. 2 table 2-1).
func (d *decoder) base16() (uint64, *kvm.Segment) {
	r := d.regs
	bases := [8]uint64{r.RBX + r.RSI, r.RBX + r.RDI, r.RBP + r.RSI, r.RBP + r.RDI, r.RSI, r.RDI, r.RBP, r.RBX}
	at, segment := bases[d.rm], &d.sregs.DS
	if d.rm == 2 || d.rm == 3 || d.rm == 6 {
		segment = &d.sregs.SS
	}
	switch {
	case d.mod == 0 && d.rm == 6:
		at, segment = d.number(2), &d.sregs.DS
	case d.mod == 1:
		at += d.number(1)
	case d.mod == 2:
		at += d.number(2)
	}
	return at, segment
}

// base computes a 32-bit or 64-bit address without segment base; trailing bytes of
// the instruction follow it (Intel SDM vol. 2 tables 2-2 and 2-3). With disp8 an EVEX
// displacement of one byte is to be read and added yet.
func (d *decoder) base(trailing int) (at uint64, segment *kvm.Segment, disp8 bool) {
	base := d.rm
	segment = &d.sregs.DS
	if d.rm == regSP {
		sib := d.next()
		base = sib & 7
		if index := sib>>3&7 + d.x; index != regSP {
			at = d.register(index) << (sib >> 6)
		}
	}
	switch {
	case base != regBP || d.mod != 0:
		at += d.register(base + d.b)
		if base+d.b == regSP || base+d.b == regBP {
			segment = &d.sregs.SS
		}
		if d.space == mapOne && d.op == 0x8f && base+d.b == regSP {
			at += uint64(d.stackSize()) // POP computes its address when it has read
		}
	case d.rm == regBP && d.long:
		at = d.number(4)
		at += d.regs.RIP + uint64(d.pos+trailing)
	default:
		at += d.number(4)
	}
	switch {
	case d.mod == 1 && d.enc == evex:
		return at, segment, true
	case d.mod == 1:
		at += d.number(1)
	case d.mod == 2:
		at += d.number(4)
	}
	return at, segment, false
}

// bitOffset is what the bit number in a register adds to the address of BT and its
// like, in bytes.
func (d *decoder) bitOffset() uint64 {
	if d.space != map0F || d.op&^0x18 != 0xa3 || d.enc != legacy {
		return 0
	}
	bit := int64(signed(d.register(d.reg+d.r), d.size))
	return uint64(bit >> 3 &^ int64(d.size-1))
}

// register returns a general register by the number that instructions give it.
func (d *decoder) register(i uint8) uint64 {
	r := d.regs
	return [16]uint64{
		r.RAX, r.RCX, r.RDX, r.RBX, r.RSP, r.RBP, r.RSI, r.RDI,
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15,
	}[i&15]
}

// add appends an operand at an offset in a segment, or in the one a prefix names.
func (d *decoder) add(segment *kvm.Segment, at uint64, size uint32, write bool) {
	if d.segment != nil {
		segment = d.segment
	}
	d.append(segment, at, size, write, d.address)
}

func (d *decoder) append(segment *kvm.Segment, at uint64, size uint32, write bool, address int) {
	if address < 8 {
		at &= 1<<(8*address) - 1
	}
	// In 64-bit code the other segments begin at 0, whatever their registers say.
	if !d.long || segment == &d.sregs.FS || segment == &d.sregs.GS {
		at += segment.Base
	}
	if !d.long {
		at = uint64(uint32(at))
	}
	d.list = append(d.list, operand{linear: at, size: size, write: write})
}

// stackAddress is the size of the stack pointer in bytes.
func (d *decoder) stackAddress() int {
	switch {
	case d.long:
		return 8
	case d.sregs.SS.DB != 0:
		return 4
	}
	return 2
}

// stackSize is the size of what PUSH and POP move, in bytes.
func (d *decoder) stackSize() int {
	if d.long && d.size != 2 {
		return 8
	}
	return d.size
}

// push adds the n items that an instruction puts on the stack, pop those it takes.
func (d *decoder) push(n int) {
	size := n * d.stackSize()
	d.append(&d.sregs.SS, d.regs.RSP-uint64(size), uint32(size), true, d.stackAddress())
}

func (d *decoder) pop(n int) {
	d.append(&d.sregs.SS, d.regs.RSP, uint32(n*d.stackSize()), false, d.stackAddress())
}

// source and destination add the operands of a string instruction.
func (d *decoder) source() { d.add(&d.sregs.DS, d.regs.RSI, uint32(d.size), false) }

func (d *decoder) destination(write bool) {
	d.append(&d.sregs.ES, d.regs.RDI, uint32(d.size), write, d.address)
}

// implicit adds the operands that one-byte opcodes have without naming them.
func (d *decoder) implicit() {
	switch op := d.op; {
	case op >= 0x50 && op <= 0x57, op == 0x68, op == 0x6a, op == 0x9c, op == 0xe8: // PUSH PUSHF CALL
		d.push(1)
	case op < 0x20 && op&7 == 6: // PUSH of a segment
		d.push(1)
	case op == 0x60: // PUSHA
		d.push(8)
	case op == 0x9a: // far CALL
		d.push(2)
	case op >= 0x58 && op <= 0x5f, op == 0x9d, op == 0xc2, op == 0xc3, op < 0x20 && op&7 == 7: // POP POPF RET
		d.pop(1)
	case op == 0x61: // POPA
		d.pop(8)
	case op == 0xca, op == 0xcb: // far RET
		d.pop(2)
	case op == 0xcf: // IRET
		d.pop(5)
	case op == 0xc8:
		d.enter()
	case op == 0xc9: // LEAVE
		d.append(&d.sregs.SS, d.regs.RBP, uint32(d.stackSize()), false, d.stackAddress())
	case op == 0xd7: // XLAT
		d.add(&d.sregs.DS, d.regs.RBX+d.regs.RAX&0xff, 1, false)
	case op >= 0xa0 && op <= 0xa3: // MOV between an address and the accumulator
		d.add(&d.sregs.DS, d.number(d.address), uint32(d.size), op >= 0xa2)
	default:
		d.strings()
	}
}

// enter adds where ENTER pushes, and where its frame ends, which it checks.
func (d *decoder) enter() {
	d.push(1)
	frame := uint64(uint16(d.number(2)))
	size := uint64(d.stackSize())
	d.append(&d.sregs.SS, d.regs.RSP-size-frame, uint32(size), true, d.stackAddress())
}

func (d *decoder) strings() {
	switch d.op {
	case 0xa4, 0xa5: // MOVS
		d.source()
		d.destination(true)
	case 0xa6, 0xa7: // CMPS
		d.source()
		d.destination(false)
	case 0xac, 0xad, 0x6e, 0x6f: // LODS OUTS
		d.source()
	case 0xaa, 0xab, 0x6c, 0x6d: // STOS INS
		d.destination(true)
	case 0xae, 0xaf: // SCAS
		d.destination(false)
	}
}

// implicit0F does the same for opcodes behind 0F.
func (d *decoder) implicit0F() {
	switch {
	case d.enc != legacy && d.op != 0xf7:
	case d.op == 0xa0, d.op == 0xa8: // PUSH FS GS
		d.push(1)
	case d.op == 0xa1, d.op == 0xa9: // POP
		d.pop(1)
	case d.op == 0xf7: // MASKMOVQ MASKMOVDQU
		d.add(&d.sregs.DS, d.regs.RDI, 16, true)
	}
}

// implicitGroup does the same for opcodes of which ModRM decides.
func (d *decoder) implicitGroup() {
	switch {
	case d.space == mapOne && d.op == 0x8f:
		d.pop(1)
	case d.space == mapOne && d.op == 0xff && (d.reg == 2 || d.reg == 6): // CALL PUSH
		d.push(1)
	case d.space == mapOne && d.op == 0xff && d.reg == 3: // far CALL
		d.push(2)
	case d.space == map0F && d.op == 0x01 && d.mod == 3 && d.reg == 7 && d.rm == 4: // CLZERO
		d.add(&d.sregs.DS, d.regs.RAX&^63, 64, true)
	case d.space == map0F38 && d.enc == legacy && d.op == 0xf8: // MOVDIR64B ENQCMD
		d.append(&d.sregs.ES, d.register(d.reg+d.r), 64, true, d.address)
	}
}
