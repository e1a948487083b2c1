package acpi

import "encoding/binary"

// AML opcodes (ACPI 6.5 §20.2).
const (
	opName      = 0x08
	opByte      = 0x0a
	opWord      = 0x0b
	opDWord     = 0x0c
	opQWord     = 0x0e
	opScope     = 0x10
	opBuffer    = 0x11
	opPackage   = 0x12
	opExt       = 0x5b
	opExtDevice = 0x82
)

// object is encoded AML: one term or several in a row.
type object []byte

func join(parts ...object) object {
	var out object
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// segment encodes a name of one to four characters, optionally after the root
// character, padded as ACPI wants it.
func segment(name string) object {
	var out object
	if name[0] == '\\' {
		out, name = object{'\\'}, name[1:]
	}
	out = append(out, name...)
	for n := len(name); n < 4; n++ {
		out = append(out, '_')
	}
	return out
}

// integer encodes a constant in the shortest form; 0 and 1 have opcodes equal
// to their value.
func integer(v uint64) object {
	switch {
	case v <= 1:
		return object{byte(v)}
	case v <= 0xff:
		return object{opByte, byte(v)}
	case v <= 0xffff:
		return binary.LittleEndian.AppendUint16(object{opWord}, uint16(v))
	case v <= 0xffff_ffff:
		return binary.LittleEndian.AppendUint32(object{opDWord}, uint32(v))
	}
	return binary.LittleEndian.AppendUint64(object{opQWord}, v)
}

// packaged puts a PkgLength before the body. The length counts its own bytes:
// up to 63 in one, else two bits of count and four of length in the first
// byte, and eight in each of the next.
func packaged(body object) object {
	if n := len(body) + 1; n < 1<<6 {
		return append(object{byte(n)}, body...)
	}
	extra := 1
	for len(body)+1+extra >= 1<<(4+8*extra) {
		extra++
	}
	n := len(body) + 1 + extra
	out := object{byte(extra)<<6 | byte(n&0xf)}
	for n >>= 4; extra > 0; extra-- {
		out = append(out, byte(n))
		n >>= 8
	}
	return append(out, body...)
}

func named(name string, value object) object {
	return join(object{opName}, segment(name), value)
}

func scope(name string, terms ...object) object {
	return join(object{opScope}, packaged(join(segment(name), join(terms...))))
}

func device(name string, terms ...object) object {
	return join(object{opExt, opExtDevice}, packaged(join(segment(name), join(terms...))))
}

func list(elements ...object) object {
	return join(object{opPackage}, packaged(join(object{byte(len(elements))}, join(elements...))))
}

// eisaID packs "PNP0A03" into a DWord: three letters in five bits each and
// four hexadecimal digits, in big-endian order (ACPI 6.5 §6.1.5).
func eisaID(id string) object {
	var v uint32
	for _, c := range []byte(id[:3]) {
		v = v<<5 | uint32(c-'@')
	}
	for _, c := range []byte(id[3:]) {
		digit := uint32(c - '0')
		if c >= 'A' {
			digit = uint32(c-'A') + 10
		}
		v = v<<4 | digit
	}
	var be [4]byte
	binary.BigEndian.PutUint32(be[:], v)
	return integer(uint64(binary.LittleEndian.Uint32(be[:])))
}

// template makes a resource template buffer of descriptors (ACPI 6.5 §6.4). The
// end tag's checksum of 0 means that there is none.
func template(resources ...object) object {
	body := join(join(resources...), object{0x79, 0})
	return join(object{opBuffer}, packaged(join(integer(uint64(len(body))), body)))
}
