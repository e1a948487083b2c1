package scale

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio"
	"tenon/devices/virtio/queue/queuetest"
	"tenon/guest/image"
	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/vmm/layout"
)

// The kernel of the fleet's guests says by COM1 that it runs, drives the first share's
// device as Linux does, has a file shown in its DAX window, reads a byte of each of its
// pages, says so, and rests. It is made of code that goes through a list of steps, and
// of all that a driver would write to its memory in the meantime, laid out beforehand.
const (
	saysBegun = 'B'
	saysDone  = 'D'
	saysWrong = 'W' // a check failed

	loadAt    = 16 << 20 // where the kernel is, in guest memory
	pml4At    = loadAt + 0x1000
	pdptAt    = loadAt + 0x2000
	pdsAt     = loadAt + 0x3000 // three
	stepsAt   = loadAt + 0x6000
	ringAt    = loadAt + 0xa000
	asksAt    = loadAt + 0xc000
	repliesAt = loadAt + 0x14000
	endAt     = loadAt + 0x1c000
	roomFor   = 0x100 // of a request, and of a reply

	kernelRing = 128 // entries: two for a request
	shareSlot  = 3   // on PCI bus 0: after the console and the random number source
	shareFile  = "shared"
	mapRange   = 2 << 20 // what Linux maps by one request
)

// A routine does one kind of step: with rdi and rcx, and with the base in rbx. After it
// the code goes on with the next step.
type routine int

const (
	flat    routine = iota // the base is 0
	base32                 // the base is the BAR at rdi
	base64                 // the same with its upper half
	store8                 // cl to rdi of the base
	store16                // cx
	store32                // ecx
	copy64                 // 8 bytes from rdi to rcx
	wait16                 // until cx is at rdi of the base
	check32                // ecx is at rdi of the base, or the end
	touch                  // a byte of each of rcx pages from rdi of the base on
	say                    // cl
	rest                   // for ever
)

var routines = [...][]byte{
	flat: {
		0x31, 0xdb, // xor ebx,ebx
	},
	base32: {
		0x8b, 0x1f, // mov ebx,[rdi]
		0x83, 0xe3, 0xf0, // and ebx,~15
	},
	base64: {
		0x8b, 0x07, // mov eax,[rdi]
		0x8b, 0x5f, 0x04, // mov ebx,[rdi+4]
		0x48, 0xc1, 0xe3, 0x20, // shl rbx,32
		0x83, 0xe0, 0xf0, // and eax,~15
		0x48, 0x09, 0xc3, // or rbx,rax
	},
	store8:  {0x88, 0x0c, 0x3b},       // mov [rbx+rdi],cl
	store16: {0x66, 0x89, 0x0c, 0x3b}, // mov [rbx+rdi],cx
	store32: {0x89, 0x0c, 0x3b},       // mov [rbx+rdi],ecx
	copy64: {
		0x48, 0x8b, 0x07, // mov rax,[rdi]
		0x48, 0x89, 0x01, // mov [rcx],rax
	},
	wait16: {
		0x66, 0x39, 0x0c, 0x3b, // again: cmp [rbx+rdi],cx
		0x75, 0xfa, // jne again
	},
	check32: {
		0x39, 0x0c, 0x3b, // cmp [rbx+rdi],ecx
		0x74, 0x0c, // je to the end
		0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx,0x3f8
		0xb0, saysWrong, 0xee, // mov al,saysWrong; out dx,al
		0xfa, 0xf4, 0xeb, 0xfc, // stop: cli; hlt; jmp stop
	},
	touch: {
		0x8a, 0x04, 0x3b, // again: mov al,[rbx+rdi]
		0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi,4096
		0x48, 0xff, 0xc9, // dec rcx
		0x75, 0xf1, // jne again
	},
	say: {
		0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx,0x3f8
		0x89, 0xc8, 0xee, // mov eax,ecx; out dx,al
	},
	rest: {0xfa, 0xf4, 0xeb, 0xfc}, // stop: cli; hlt; jmp stop
}

// entry begins with the kernel's own page tables, and goes through the steps from next
// on. A step is three words: its routine's address, rdi and rcx.
var entry = []byte{
	0xb8, pml4At & 0xff, pml4At >> 8 & 0xff, pml4At >> 16 & 0xff, pml4At >> 24, // mov eax,pml4At
	0x0f, 0x22, 0xd8, // mov cr3,rax
	0xbe, stepsAt & 0xff, stepsAt >> 8 & 0xff, stepsAt >> 16 & 0xff, stepsAt >> 24, // mov esi,stepsAt
	0x8b, 0x06, // next: mov eax,[rsi]
	0x48, 0x8b, 0x7e, 0x08, // mov rdi,[rsi+8]
	0x48, 0x8b, 0x4e, 0x10, // mov rcx,[rsi+16]
	0x48, 0x83, 0xc6, 0x18, // add rsi,24
	0xff, 0xe0, // jmp rax
}

const nextAt = 13 // of entry

// program is the kernel in the making.
type program struct {
	image    []byte // from loadAt on
	routines [len(routines)]uint64
	steps    int
	requests int
	ring     ringLayout
}

type ringLayout struct{ desc, avail, used uint64 }

// newProgram has the code and the page tables: of RAM, of the low addresses of devices
// and of a window, 1 GiB each, where they are.
func newProgram(windowAt uint64) *program {
	p := &program{image: make([]byte, endAt-loadAt)}
	n := copy(p.image, entry)
	for i, code := range routines {
		p.routines[i] = loadAt + uint64(n)
		n += copy(p.image[n:], code)
		p.image[n] = 0xe9 // jmp next
		binary.LittleEndian.PutUint32(p.image[n+1:], uint32(nextAt-n-5))
		n += 5
	}
	const present, writable, large = 1, 2, 1 << 7
	p.put64(pml4At, pdptAt|present|writable)
	for i, gib := range []uint64{0, layout.MMIO32 >> 30, windowAt >> 30} {
		pd := uint64(pdsAt + i<<12)
		p.put64(pdptAt+8*gib, pd|present|writable)
		for j := range uint64(512) {
			p.put64(pd+8*j, gib<<30|j<<21|present|writable|large)
		}
	}
	l, _ := queuetest.Place(ringAt, kernelRing)
	p.ring = ringLayout{uint64(l.Desc), uint64(l.Avail), uint64(l.Used)}
	return p
}

func (p *program) put64(at, v uint64) { binary.LittleEndian.PutUint64(p.image[at-loadAt:], v) }

func (p *program) step(r routine, rdi, rcx uint64) {
	at := stepsAt + 24*uint64(p.steps)
	p.put64(at, p.routines[r])
	p.put64(at+8, rdi)
	p.put64(at+16, rcx)
	p.steps++
}

// bringUp takes the device through the initialisation of virtio 1.3 §3.1.1, with one
// request queue and no feature but VIRTIO_F_VERSION_1.
func (p *program) bringUp() {
	config := uint64(layout.ECAM + shareSlot<<15)
	p.step(flat, 0, 0)
	p.step(check32, config, 0x1af4|(0x1040+virtio.IDFS)<<16)
	p.step(store16, config+4, 6) // memory space, bus master
	p.step(base32, config+0x10, 0)
	p.step(store8, 20, 0)
	p.step(store8, 20, 1|2) // ACKNOWLEDGE, DRIVER
	p.step(store32, 8, 1)
	p.step(store32, 12, 1) // VERSION_1
	p.step(store8, 20, 1|2|8)
	p.step(store16, 22, 1) // queue_select
	p.step(store16, 24, kernelRing)
	p.step(store32, 32, p.ring.desc)
	p.step(store32, 40, p.ring.avail)
	p.step(store32, 48, p.ring.used)
	p.step(store16, 28, 1)
	p.step(store8, 20, 1|2|8|4)
	p.put16(p.ring.avail, 1) // no interrupts
}

func (p *program) put16(at uint64, v uint16) { binary.LittleEndian.PutUint16(p.image[at-loadAt:], v) }

// notifyRegister of queue 1, in the registers' BAR.
const notifyRegister = 0x3000 + 4

// ask has the device answer a message and checks that it was a success. What the reply
// has is at the address that is returned.
func (p *program) ask(message []byte, body uint32) (reply uint64) {
	n := uint64(p.requests)
	p.requests++
	at, reply := asksAt+n*roomFor, repliesAt+n*roomFor
	copy(p.image[at-loadAt:], message)
	desc := p.image[p.ring.desc-loadAt+32*n:]
	queuetest.PutDesc(desc, memory.GPA(at), uint32(len(message)), queuetest.FlagNext, uint16(2*n+1))
	queuetest.PutDesc(desc[16:], memory.GPA(reply), fuse.OutHeaderSize+body, queuetest.FlagWrite, 0)
	p.put16(p.ring.avail+4+2*n, uint16(2*n))
	p.step(flat, 0, 0)
	p.step(store16, p.ring.avail+2, n+1)
	p.step(base32, layout.ECAM+shareSlot<<15+0x10, 0)
	p.step(store16, notifyRegister, 1)
	p.step(flat, 0, 0)
	p.step(wait16, p.ring.used+2, n+1)
	p.step(check32, reply+4, 0)
	return reply + fuse.OutHeaderSize
}

// fleetKernel is a vmlinux that has size bytes of the share's file shown in its window
// at windowAt and finds first in its first four bytes.
func fleetKernel(windowAt uint64, size int, first uint32) ([]byte, error) {
	p := newProgram(windowAt)
	c := fstest.DialFunc(nil, nil)
	p.step(say, 0, saysBegun)
	p.bringUp()
	p.ask(c.Message(fuse.Init, 0, fstest.U32(fuse.Major, fuse.Minor, 128<<10, ^uint32(0), ^uint32(0)), make([]byte, 44)), fuse.InitOutSize)
	entry := p.ask(c.Message(fuse.Lookup, fuse.RootID, fstest.Str(shareFile)), fuse.EntryOutSize)
	for at := uint64(0); at < uint64(size); at += mapRange {
		const nodeid = 16 // in fuse_in_header
		p.step(copy64, entry, asksAt+uint64(p.requests)*roomFor+nodeid)
		p.ask(c.Message(fuse.SetupMapping, virtiofs.NodeID(0), fstest.MapArgs(^uint64(0), at, mapRange, fuse.MapRead, at)), 0)
	}
	const bar2 = layout.ECAM + shareSlot<<15 + 0x18
	p.step(check32, bar2, windowAt&0xffffffff|4|8) // 64 bits, prefetchable
	p.step(check32, bar2+4, windowAt>>32)
	p.step(base64, bar2, 0)
	p.step(check32, 0, uint64(first))
	p.step(touch, 0, uint64(size/unix.Getpagesize()))
	p.step(say, 0, saysDone)
	p.step(rest, 0, 0)
	if 2*p.requests > kernelRing || stepsAt+24*p.steps > ringAt {
		return nil, fmt.Errorf("%d requests in %d steps do not fit into the kernel", p.requests, p.steps)
	}
	return vmlinux(append(p.image, drivers()...)), nil
}

// drivers is what a kernel with the drivers that the machine wants contains.
func drivers() string {
	var all []string
	for _, d := range image.Drivers() {
		all = append(all, d.Signature)
	}
	return strings.Join(all, "\x00")
}

// vmlinux is an ELF file of one segment at loadAt, whose beginning is the entry of the
// 64-bit boot protocol.
func vmlinux(segment []byte) []byte {
	const headers, fileAt, virtual = 64 + 56, 4096, 0xffffffff_80000000
	var b bytes.Buffer
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	for _, v := range []any{
		elf.Header64{
			Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: loadAt,
			Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: 7, Off: fileAt, Vaddr: virtual + loadAt, Paddr: loadAt,
			Filesz: uint64(len(segment)), Memsz: uint64(len(segment)), Align: fileAt,
		},
		make([]byte, fileAt-headers), segment,
	} {
		binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer takes everything
	}
	return b.Bytes()
}
