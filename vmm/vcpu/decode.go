package vcpu

import "tenon/vmm/kvm"

// The maps opcodes are in, as VEX and EVEX number them.
const (
	mapOne  = 0
	map0F   = 1
	map0F38 = 2
	map0F3A = 3
	mapXOP  = 8 // the first of AMD's
)

// encoding is the kind of prefix that an opcode stands behind.
type encoding uint8

const (
	legacy encoding = iota
	vex             // and XOP
	evex
)

// operand is a piece of memory that an instruction may use.
type operand struct {
	linear uint64
	size   uint32 // bytes; may be more than the instruction uses
	write  bool   // it stores there, or may
}

// decoder takes one instruction apart as far as its memory operands need.
type decoder struct {
	code []byte // from the instruction's first byte on
	pos  int
	over bool // the code ended too early

	regs  *kvm.Regs
	sregs *kvm.Sregs
	long  bool // 64-bit code

	address, size int          // address and operand size in bytes
	segment       *kvm.Segment // that a prefix names
	prefix        uint8        // the mandatory one: 0, 66, F3 or F2
	wide          bool         // REX.W and its like
	r, x, b       uint8        // what is added to the numbers of reg, index and base

	enc          encoding
	vector       uint32 // bytes
	space, op    uint8
	mod, reg, rm uint8

	list []operand
}

// longMode says whether 64-bit code runs.
func longMode(s *kvm.Sregs) bool {
	return s.EFER&eferLMA != 0 && s.CS.L != 0
}

// decode returns the memory operands of the instruction that code begins with, most
// likely first: none when it has none or they cannot be told (gathers and scatters,
// which have many, and what is cut off).
func decode(code []byte, r *kvm.Regs, s *kvm.Sregs) []operand {
	d := decoder{code: code[:min(len(code), maxInstruction)], regs: r, sregs: s, long: longMode(s)}
	switch {
	case d.long:
		d.address, d.size = 8, 4
	case s.CS.DB != 0:
		d.address, d.size = 4, 4
	default:
		d.address, d.size = 2, 2
	}
	d.prefixes()
	d.opcode()
	d.operands()
	if d.over {
		return nil
	}
	return d.list
}

func (d *decoder) next() uint8 {
	if d.pos >= len(d.code) {
		d.over = true
		return 0
	}
	b := d.code[d.pos]
	d.pos++
	return b
}

// peek returns the byte that next would.
func (d *decoder) peek() uint8 {
	if d.pos >= len(d.code) {
		return 0
	}
	return d.code[d.pos]
}

// number reads a little-endian signed number of 1, 2, 4 or 8 bytes.
func (d *decoder) number(size int) uint64 {
	var v uint64
	for i := range size {
		v |= uint64(d.next()) << (8 * i)
	}
	return signed(v, size)
}

// signed widens a number of so many bytes.
func signed(v uint64, size int) uint64 {
	shift := 64 - 8*size
	return uint64(int64(v<<shift) >> shift)
}

// prefixes reads the legacy prefixes and REX, which counts only right before the
// opcode.
func (d *decoder) prefixes() {
	var address, size bool
	for more := true; more; {
		switch d.peek() {
		case 0x66:
			size = true
		case 0x67:
			address = true
		case 0xf2, 0xf3:
			d.prefix = d.peek()
		case 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65:
			d.segment = d.segmentOf(d.peek())
		case 0xf0: // LOCK
		default:
			more = false
			continue
		}
		d.next()
	}
	if d.long && d.peek()>>4 == 4 {
		rex := d.next()
		d.wide = rex&8 != 0
		d.r, d.x, d.b = rex>>2&1<<3, rex>>1&1<<3, rex&1<<3
	}
	d.sizes(address, size)
}

// sizes applies what the prefixes say about address and operand size.
func (d *decoder) sizes(address, size bool) {
	switch {
	case address && d.address == 4:
		d.address = 2
	case address:
		d.address = 4
	}
	switch {
	case d.wide:
		d.size = 8
	case size:
		d.size = 6 - d.size // 2 and 4 change places
	}
	if size && d.prefix == 0 {
		d.prefix = 0x66
	}
}

func (d *decoder) segmentOf(prefix uint8) *kvm.Segment {
	switch prefix {
	case 0x2e:
		return &d.sregs.CS
	case 0x36:
		return &d.sregs.SS
	case 0x3e:
		return &d.sregs.DS
	case 0x26:
		return &d.sregs.ES
	case 0x64:
		return &d.sregs.FS
	}
	return &d.sregs.GS
}

// opcode reads the opcode and, where it has one, its vector prefix.
func (d *decoder) opcode() {
	d.vector = 16
	op := d.next()
	// Outside of 64-bit code these bytes are LES, LDS and BOUND, unless their
	// operand were a register, which those cannot have.
	prefix := d.long || d.peek()>>6 == 3
	switch {
	case op == 0xc5 && prefix:
		d.vex2()
	case op == 0xc4 && prefix, op == 0x8f && d.peek()&0x1f >= mapXOP:
		d.vex3()
	case op == 0x62 && prefix:
		d.evex()
	case op != 0x0f:
		d.op = op
	default:
		d.escape()
	}
}

// escape reads an opcode behind 0F.
func (d *decoder) escape() {
	d.space, d.op = map0F, d.next()
	switch d.op {
	case 0x38:
		d.space, d.op = map0F38, d.next()
	case 0x3a:
		d.space, d.op = map0F3A, d.next()
	}
}

// mandatory are the prefixes that VEX and EVEX hold in two bits.
var mandatory = [4]uint8{0, 0x66, 0xf3, 0xf2}

func (d *decoder) vex2() {
	p := d.next()
	d.enc, d.space = vex, map0F
	if d.long {
		d.r = ^p >> 7 << 3
	}
	d.vector = 16 << (p >> 2 & 1)
	d.prefix = mandatory[p&3]
	d.op = d.next()
}

func (d *decoder) vex3() {
	p, q := d.next(), d.next()
	d.enc, d.space = vex, p&0x1f
	d.extensions(p, q)
	d.vector = 16 << (q >> 2 & 1)
	d.op = d.next()
}

func (d *decoder) evex() {
	p, q, t := d.next(), d.next(), d.next()
	d.enc, d.space = evex, p&7
	d.extensions(p, q)
	d.vector = min(uint32(16)<<(t>>5&3), 64)
	d.op = d.next()
}

// extensions reads what VEX and EVEX have in common.
func (d *decoder) extensions(p, q uint8) {
	if d.long {
		d.r, d.x, d.b = ^p>>7<<3, ^p>>6&1<<3, ^p>>5&1<<3
	}
	d.wide = q>>7 != 0
	d.prefix = mandatory[q&3]
}

// attributes says what matters about the opcode. Of maps that are not known, stores
// are assumed.
func (d *decoder) attributes() attr {
	switch d.space {
	case mapOne:
		return letters[oneByte[d.op>>4][d.op&15]]
	case map0F:
		return d.twoByteAttributes()
	case map0F38:
		return attrModRM | d.storeAttr()
	case map0F3A, mapXOP:
		return attrModRM | attrImm8 | d.storeAttr()
	}
	return attrModRM | attrStore
}

// twoByteAttributes knows the opcodes that a prefix makes another instruction.
func (d *decoder) twoByteAttributes() attr {
	switch {
	case d.op == 0x7e && d.prefix == 0xf3: // MOVQ from memory
		return attrModRM
	case d.enc != legacy && (d.op == 0x90 || d.op == 0x78): // KMOV from memory, VCVTTPS2UDQ
		return attrModRM
	}
	return letters[twoByte[d.op>>4][d.op&15]]
}

func (d *decoder) storeAttr() attr {
	for _, s := range stores {
		if s.space == d.space && s.enc == d.enc && d.op >= s.first && d.op <= s.last &&
			(s.prefix == anyPrefix || s.prefix == d.prefix) {
			return attrStore
		}
	}
	return 0
}
