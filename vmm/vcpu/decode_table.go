package vcpu

// attr says what matters here about an opcode: its memory operand, and how many
// bytes follow that, because RIP-relative addresses count from the instruction's end.
type attr uint8

const (
	attrModRM     attr = 1 << iota // a ModRM byte follows
	attrStore                      // stores to what that names
	attrUntouched                  // only names it: LEA, NOP, PREFETCH
	attrImm8                       // one more byte follows
	attrImm                        // two or four follow, by operand size
	attrGroup                      // whether it stores, the reg field says: see storeGroups
)

// letters are the tables' alphabet; a dot is an opcode without a ModRM byte.
var letters = map[byte]attr{
	'.': 0,
	'm': attrModRM,
	'M': attrModRM | attrImm8,
	'k': attrModRM | attrImm,
	'w': attrModRM | attrStore,
	'W': attrModRM | attrStore | attrImm8,
	'K': attrModRM | attrStore | attrImm,
	'g': attrModRM | attrGroup,
	'G': attrModRM | attrGroup | attrImm8,
	'H': attrModRM | attrGroup | attrImm,
	'n': attrModRM | attrUntouched,
}

// The opcode maps, one letter an opcode (Intel SDM vol. 2 appendix A, AMD APM
// vol. 3 appendix A).
var (
	oneByte = [16]string{
		"wwmm....wwmm....", // ADD OR
		"wwmm....wwmm....", // ADC SBB
		"wwmm....wwmm....", // AND SUB
		"wwmm....mmmm....", // XOR CMP
		"................",
		"................",
		"..mw.....k.M....", // BOUND ARPL/MOVSXD IMUL
		"................",
		"GHGGmmwwwwmmwnmw", // group 1, TEST XCHG MOV LEA POP
		"................",
		"................",
		"................",
		"WW..mmWK........", // shifts, LES LDS, MOV
		"wwww....gggggggg", // shifts, x87
		"................",
		"......gg......wg", // groups 3 to 5
	}
	twoByte = [16]string{
		"ggmm.........n.M", // groups 6 and 7, LAR LSL, PREFETCH, 3DNow!
		"mwmwmmmwnnnnnnnn", // MOVUPS MOVLPS UNPCKLPS MOVHPS, hints
		"........mwmwmmmm", // MOVAPS MOVNTPS COMISS
		"................",
		"mmmmmmmmmmmmmmmm", // CMOVcc
		"mmmmmmmmmmmmmmmm",
		"mmmmmmmmmmmmmmmm",
		"MMMMmmm.wmmmmmww", // shifts, VMREAD, MOVD MOVQ
		"................",
		"wwwwwwwwwwwwwwww", // SETcc
		"...mWw.....wWwgm", // BT SHLD BTS SHRD, group 15, IMUL
		"wwmwmmmmm.Gwmmmm", // CMPXCHG BTR MOVZX, group 8, BTC BSF BSR MOVSX
		"wwMwMMMg........", // XADD CMPPS MOVNTI, group 9
		"mmmmmmwmmmmmmmmm", // MOVQ
		"mmmmmmmwmmmmmmmm", // MOVNTDQ
		"mmmmmmmmmmmmmmm.",
	}
)

// opcode is a map and a byte in it.
type opcode struct{ space, op uint8 }

// storeGroups has, for an opcode whose reg field chooses the instruction, a bit for
// each value that stores.
var storeGroups = map[opcode]uint8{
	{mapOne, 0x80}: 0x7f, {mapOne, 0x81}: 0x7f, {mapOne, 0x82}: 0x7f, {mapOne, 0x83}: 0x7f, // all but CMP
	{mapOne, 0xf6}: 1<<2 | 1<<3, {mapOne, 0xf7}: 1<<2 | 1<<3, // NOT NEG
	{mapOne, 0xff}: 1<<0 | 1<<1,                      // INC DEC
	{mapOne, 0xd9}: 1<<2 | 1<<3 | 1<<6 | 1<<7,        // FST FSTP FNSTENV FNSTCW
	{mapOne, 0xdb}: 1<<1 | 1<<2 | 1<<3 | 1<<7,        // FISTTP FIST FISTP FSTP
	{mapOne, 0xdd}: 1<<1 | 1<<2 | 1<<3 | 1<<6 | 1<<7, // FISTTP FST FSTP FNSAVE FNSTSW
	{mapOne, 0xdf}: 1<<1 | 1<<2 | 1<<3 | 1<<6 | 1<<7, // FISTTP FIST FISTP FBSTP FISTP
	{map0F, 0x00}:  1<<0 | 1<<1,                      // SLDT STR
	{map0F, 0x01}:  1<<0 | 1<<1 | 1<<4,               // SGDT SIDT SMSW
	{map0F, 0xae}:  1<<0 | 1<<3 | 1<<4 | 1<<6,        // FXSAVE STMXCSR XSAVE XSAVEOPT
	{map0F, 0xba}:  1<<5 | 1<<6 | 1<<7,               // BTS BTR BTC
	{map0F, 0xc7}:  1<<1 | 1<<4 | 1<<5,               // CMPXCHG8B XSAVEC XSAVES
}

// anyPrefix stands for every mandatory prefix.
const anyPrefix = 0xff

// stores are the storing instructions of the maps in which most only load.
var stores = []struct {
	enc           encoding
	prefix, space uint8
	first, last   uint8
}{
	{legacy, 0, map0F38, 0xf1, 0xf1}, {legacy, 0x66, map0F38, 0xf1, 0xf1}, // MOVBE
	{legacy, anyPrefix, map0F38, 0xf5, 0xf5}, {legacy, 0, map0F38, 0xf6, 0xf6}, // WRUSS WRSS
	{legacy, anyPrefix, map0F38, 0xf9, 0xf9}, {legacy, anyPrefix, map0F38, 0xfc, 0xfc}, // MOVDIRI AADD AAND AOR AXOR
	{vex, 0x66, map0F38, 0x2e, 0x2f}, {vex, 0x66, map0F38, 0x8e, 0x8e}, // VMASKMOVPS VPMASKMOVD
	{vex, 0x66, map0F38, 0xe0, 0xef},                                     // CMPccXADD
	{evex, 0xf3, map0F38, 0x10, 0x15}, {evex, 0xf3, map0F38, 0x20, 0x25}, // VPMOVUSWB..VPMOVSQD
	{evex, 0xf3, map0F38, 0x30, 0x35},                                    // VPMOVWB..VPMOVQD
	{evex, 0x66, map0F38, 0x63, 0x63}, {evex, 0x66, map0F38, 0x8a, 0x8b}, // VPCOMPRESSB VCOMPRESSPS VPCOMPRESSD
	{legacy, 0x66, map0F3A, 0x14, 0x17}, {vex, 0x66, map0F3A, 0x14, 0x17}, // PEXTRB EXTRACTPS
	{evex, 0x66, map0F3A, 0x14, 0x17},
	{vex, 0x66, map0F3A, 0x19, 0x19}, {vex, 0x66, map0F3A, 0x39, 0x39}, // VEXTRACTF128 VEXTRACTI128
	{evex, 0x66, map0F3A, 0x19, 0x19}, {evex, 0x66, map0F3A, 0x39, 0x39},
	{evex, 0x66, map0F3A, 0x1b, 0x1b}, {evex, 0x66, map0F3A, 0x3b, 0x3b},
	{vex, 0x66, map0F3A, 0x1d, 0x1d}, {evex, 0x66, map0F3A, 0x1d, 0x1d}, // VCVTPS2PH
}
