package vcpu

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"tenon/vmm/kvm"
)

// decodeCase is an instruction, its bytes, and its operands: w for those it stores
// to, r for those it only reads.
type decodeCase struct{ name, code, want string }

const (
	codeRIP = 0x4000_0000
	fsBase  = 0x7f00_0000_0000
	gsBase  = 0x7e00_0000_0000
)

// code64, code32 and code16 are states in which the kinds of code run.
func code64(s *kvm.Sregs) { s.EFER, s.CS.L = 1<<10, 1 }
func code32(s *kvm.Sregs) { s.CS.DB, s.SS.DB = 1, 1 }
func code16(s *kvm.Sregs) {}

// decodeState is a state in which every register has a value of its own.
func decodeState(mode func(*kvm.Sregs)) (*kvm.Regs, *kvm.Sregs) {
	r := &kvm.Regs{
		RAX: 0x100000, RCX: 0x200000, RDX: 0x300000, RBX: 0x400000,
		RSP: 0x500000, RBP: 0x600000, RSI: 0x700000, RDI: 0x800000,
		R8: 0x900000, R9: 0xa00000, R10: 0xb00000, R11: 0xc00000,
		R12: 0xd00000, R13: 0xe00000, R14: 0xf00000, R15: 0x1000000,
		RIP: codeRIP,
	}
	s := &kvm.Sregs{}
	s.DS.Base, s.SS.Base, s.ES.Base = 0x1000, 0x2000, 0x3000 // of no account in 64-bit code
	s.FS.Base, s.GS.Base = fsBase, gsBase
	mode(s)
	return r, s
}

func format(list []operand) string {
	var words []string
	for _, o := range list {
		kind := "r"
		if o.write {
			kind = "w"
		}
		words = append(words, fmt.Sprintf("%s:%#x", kind, o.linear))
	}
	return strings.Join(words, " ")
}

func TestDecode(t *testing.T) {
	for _, group := range decodeCases {
		r, s := decodeState(group.mode)
		for _, c := range group.cases {
			code, err := hex.DecodeString(c.code)
			if err != nil {
				t.Fatal(err)
			}
			// What follows the instruction must not matter.
			if got := format(decode(append(code, 0xcc, 0xcc), r, s)); got != c.want {
				t.Errorf("%s (%s): operands %q, want %q", c.name, c.code, got, c.want)
			}
		}
	}
}

// TestDecodeCutOff: an instruction of which the end cannot be read has no operands,
// rather than wrong ones.
func TestDecodeCutOff(t *testing.T) {
	for _, group := range decodeCases {
		r, s := decodeState(group.mode)
		for _, c := range group.cases {
			code, _ := hex.DecodeString(c.code)
			for n := range code {
				for _, o := range decode(code[:n], r, s) {
					if whole := format(decode(code, r, s)); !strings.Contains(whole, format([]operand{o})) {
						t.Errorf("%s cut off after %d bytes: operand %s, all of it has %q", c.name, n, format([]operand{o}), whole)
					}
				}
			}
		}
	}
}

// TestDecodeSize: operands are at least as long as what is accessed, or a page that
// only their end lies in is not found.
func TestDecodeSize(t *testing.T) {
	for _, c := range []struct {
		code string
		size uint32
	}{
		{"668b03", 2}, {"8b03", 4}, {"488b03", 8}, // MOV
		{"6650", 2}, {"50", 8}, // PUSH
		{"48cf", 40},                     // IRETQ
		{"0f1003", 16},                   // MOVUPS
		{"c5fe6f03", 32},                 // VMOVDQU
		{"62f1fe486f03", 64},             // VMOVDQU64
		{"dd33", 108},                    // FNSAVE
		{"480fc70b", 16},                 // CMPXCHG16B
		{"0fae03", 512}, {"0fae23", 832}, // FXSAVE XSAVE
	} {
		code, _ := hex.DecodeString(c.code)
		r, s := decodeState(code64)
		if list := decode(code, r, s); len(list) != 1 || list[0].size < c.size {
			t.Errorf("%s: operands %+v, want one of %d bytes", c.code, list, c.size)
		}
	}
}

// FuzzDecode: whatever a guest has at RIP, decoding it ends, and with few operands.
func FuzzDecode(f *testing.F) {
	for mode, group := range decodeCases {
		for _, c := range group.cases {
			code, _ := hex.DecodeString(c.code)
			f.Add(code, uint8(mode))
		}
	}
	f.Fuzz(func(t *testing.T, code []byte, mode uint8) {
		r, s := decodeState(decodeCases[int(mode)%len(decodeCases)].mode)
		list := decode(code, r, s)
		if len(list) > 8 {
			t.Errorf("% x: %d operands", code, len(list))
		}
		for _, o := range list {
			if o.size == 0 || o.size > pageSize {
				t.Errorf("% x: an operand of %d bytes", code, o.size)
			}
		}
	})
}

// TestDecodeWidth: what a program polls at the end of a page has nothing to do with the
// next one.
func TestDecodeWidth(t *testing.T) {
	r, s := decodeState(code64)
	for _, c := range []struct {
		name, code string
		want       uint32
	}{
		{"mov al,[rbx]", "8a03", 1}, {"mov eax,[rbx]", "8b03", 4}, {"mov rax,[rbx]", "488b03", 8},
		{"cmp byte ptr [rbx],0", "803b00", 1}, {"cmp dword ptr [rbx],0", "833b00", 4},
		{"cmp [rbx],al", "3803", 1}, {"cmp [rbx],ax", "663903", 2},
		{"test byte ptr [rbx],1", "f60301", 1}, {"test dword ptr [rbx],1", "f70301000000", 4},
		{"xchg [rbx],al", "8603", 1}, {"mov byte ptr [rbx],1", "c60301", 1}, {"inc byte ptr [rbx]", "fe03", 1},
		{"movzx eax,byte ptr [rbx]", "0fb603", 1}, {"movsx rax,byte ptr [rbx]", "480fbe03", 1},
		{"movzx eax,word ptr [rbx]", "0fb703", 2}, {"movsx rax,word ptr [rbx]", "480fbf03", 2},
		{"lock cmpxchg [rbx],cl", "f00fb00b", 1}, {"sete [rbx]", "0f9403", 1},
		{"mov [rbx],ds", "8c1b", 4}, {"movups xmm0,[rbx]", "0f1003", 16},
		{"vmovdqu ymm0,[rbx]", "c5fe6f03", 32}, {"kmovq k1,[rbx]", "c4e1f8900b", 16},
	} {
		code, err := hex.DecodeString(c.code)
		if err != nil {
			t.Fatal(err)
		}
		list := decode(code, r, s)
		if len(list) != 1 || list[0].size != c.want {
			t.Errorf("%s: %+v, want one operand of %d bytes", c.name, list, c.want)
		}
	}
}

// decodeCases were assembled with GNU as.
var decodeCases = []struct {
	mode  func(*kvm.Sregs)
	cases []decodeCase
}{
	{code64, []decodeCase{
		{"mov rax,[rbx]", "488b03", "r:0x400000"},
		{"mov [rbx],rcx", "48890b", "w:0x400000"},
		{"mov byte ptr [rbx-1],5", "c643ff05", "w:0x3fffff"},
		{"mov eax,[rbx+rcx*4+0x12345678]", "8b848b78563412", "r:0x12f45678"},
		{"mov r8,[r13+r12*8-8]", "4f8b44e5f8", "r:0x75ffff8"},
		{"mov r8,[r12]", "4d8b0424", "r:0xd00000"},
		{"mov rax,[rsp+0x20]", "488b442420", "r:0x500020"},
		{"mov rax,[rbp]", "488b4500", "r:0x600000"},
		{"mov rax,[rip+0x1000]", "488b0500100000", "r:0x40001007"},
		{"mov dword ptr [rip+0x1000],0x11223344", "c7050010000044332211", "w:0x4000100a"},
		{"mov word ptr [rip+0x1000],0x1122", "66c705001000002211", "w:0x40001009"},
		{"cmp byte ptr [rip+0x1000],7", "803d0010000007", "r:0x40001007"},
		{"test dword ptr [rip+0x1000],0x11223344", "f7050010000044332211", "r:0x4000100a"},
		{"test byte ptr [rip+0x1000],1", "f6050010000001", "r:0x40001007"},
		{"imul eax,[rip+0x1000],0x1234567", "69050010000067452301", "r:0x4000100a"},
		{"imul eax,[rip+0x1000],5", "6b050010000005", "r:0x40001007"},
		{"shl dword ptr [rip+0x1000],3", "c1250010000003", "w:0x40001007"},
		{"pshufd xmm0,[rip+0x1000],3", "660f70050010000003", "r:0x40001009"},
		{"palignr xmm0,[rip+0x1000],3", "660f3a0f050010000003", "r:0x4000100a"},
		{"mov rax,[0x12345678]", "488b042578563412", "r:0x12345678"},
		{"mov rax,[rcx*8+0x1000]", "488b04cd00100000", "r:0x1001000"},
		{"mov eax,[ebx-0x200000]", "678b830000e0ff", "r:0x200000"},
		{"mov rax,fs:[0x28]", "64488b042528000000", "r:0x7f0000000028"},
		{"mov gs:[rbx],rax", "65488903", "w:0x7e0000400000"},
		{"mov rax,ds:[rbx]", "488b03", "r:0x400000"},
		{"movabs rax,[0x1122334455667788]", "48a18877665544332211", "r:0x1122334455667788"},
		{"movabs [0x1122334455667788],al", "a28877665544332211", "w:0x1122334455667788"},
		{"movabs eax,fs:[0x10]", "64a11000000000000000", "r:0x7f0000000010"},
		{"lea rax,[rbx]", "488d03", ""},
		{"nop dword ptr [rax]", "0f1f00", ""},
		{"prefetcht0 [rax]", "0f1808", ""},
		{"add rax,rbx", "4801d8", ""},
		{"add [rbx],al", "0003", "w:0x400000"},
		{"add al,[rbx]", "0203", "r:0x400000"},
		{"cmp [rbx],al", "3803", "r:0x400000"},
		{"cmp dword ptr [rbx],1", "833b01", "r:0x400000"},
		{"sub dword ptr [rbx],1", "832b01", "w:0x400000"},
		{"not dword ptr [rbx]", "f713", "w:0x400000"},
		{"div dword ptr [rbx]", "f733", "r:0x400000"},
		{"inc byte ptr [rbx]", "fe03", "w:0x400000"},
		{"lock cmpxchg [rbx],rcx", "f0480fb10b", "w:0x400000"},
		{"lock xadd [rbx],ecx", "f00fc10b", "w:0x400000"},
		{"cmpxchg16b [rbx]", "480fc70b", "w:0x400000"},
		{"xchg [rbx],rcx", "48870b", "w:0x400000"},
		{"movzx eax,byte ptr [rbx]", "0fb603", "r:0x400000"},
		{"movsxd rax,dword ptr [rbx]", "486303", "w:0x400000"},
		{"sete [rbx]", "0f9403", "w:0x400000"},
		{"cmove eax,[rbx]", "0f4403", "r:0x400000"},
		{"bt dword ptr [rbx],5", "0fba2305", "r:0x400000"},
		{"bts dword ptr [rbx],5", "0fba2b05", "w:0x400000"},
		{"bt [rbx],ecx", "0fa30b", "r:0x440000"},
		{"lock btr [rbx],rdx", "f0480fb313", "w:0x460000"},
		{"popcnt eax,[rbx]", "f30fb803", "r:0x400000"},
		{"movbe eax,[rbx]", "0f38f003", "r:0x400000"},
		{"movbe [rbx],ax", "660f38f103", "w:0x400000"},
		{"crc32 eax,byte ptr [rbx]", "f20f38f003", "r:0x400000"},
		{"crc32 eax,dword ptr [rbx]", "f20f38f103", "r:0x400000"},
		{"movnti [rbx],eax", "0fc303", "w:0x400000"},
		{"movdiri [rbx],eax", "0f38f903", "w:0x400000"},
		{"movdir64b rdi,[rbx]", "660f38f83b", "w:0x800000 r:0x400000"},
		{"movsb", "a4", "r:0x700000 w:0x800000"},
		{"rep movsq", "f348a5", "r:0x700000 w:0x800000"},
		{"rep movsb es:[edi],fs:[esi]", "6467f3a4", "r:0x7f0000700000 w:0x800000"},
		{"rep stosq", "f348ab", "w:0x800000"},
		{"lodsw", "66ad", "r:0x700000"},
		{"repne scasb", "f2ae", "r:0x800000"},
		{"repe cmpsb", "f3a6", "r:0x700000 r:0x800000"},
		{"insb", "6c", "w:0x800000"},
		{"outsd", "6f", "r:0x700000"},
		{"xlatb", "d7", "r:0x400000"},
		{"push rax", "50", "w:0x4ffff8"},
		{"push r9", "4151", "w:0x4ffff8"},
		{"push 5", "6a05", "w:0x4ffff8"},
		{"push ax", "6650", "w:0x4ffffe"},
		{"pushfq", "9c", "w:0x4ffff8"},
		{"push qword ptr [rbx]", "ff33", "w:0x4ffff8 r:0x400000"},
		{"pop rax", "58", "r:0x500000"},
		{"pop qword ptr [rsp+8]", "8f442408", "r:0x500000 w:0x500010"},
		{"push fs", "0fa0", "w:0x4ffff8"},
		{"pop gs", "0fa9", "r:0x500000"},
		{"call .+0x100", "e8fb000000", "w:0x4ffff8"},
		{"call qword ptr [rbx]", "ff13", "w:0x4ffff8 r:0x400000"},
		{"jmp qword ptr [rbx]", "ff23", "r:0x400000"},
		{"jmp rax", "ffe0", ""},
		{"ret", "c3", "r:0x500000"},
		{"iretq", "48cf", "r:0x500000"},
		{"leave", "c9", "r:0x600000"},
		{"enter 0x2000,0", "c8002000", "w:0x4ffff8 w:0x4fdff8"},
		{"fld qword ptr [rbx]", "dd03", "r:0x400000"},
		{"fstp qword ptr [rbx]", "dd1b", "w:0x400000"},
		{"fistp word ptr [rbx]", "df1b", "w:0x400000"},
		{"fnstcw [rbx]", "d93b", "w:0x400000"},
		{"fxsave [rbx]", "0fae03", "w:0x400000"},
		{"fxrstor [rbx]", "0fae0b", "r:0x400000"},
		{"ldmxcsr [rbx]", "0fae13", "r:0x400000"},
		{"movups xmm0,[rbx]", "0f1003", "r:0x400000"},
		{"movups [rbx],xmm0", "0f1103", "w:0x400000"},
		{"movaps [r15+0x10],xmm9", "450f294f10", "w:0x1000010"},
		{"movdqu xmm0,[rbx]", "f30f6f03", "r:0x400000"},
		{"movdqa [rbx],xmm1", "660f7f0b", "w:0x400000"},
		{"movntdq [rbx],xmm1", "660fe70b", "w:0x400000"},
		{"movd [rbx],xmm1", "660f7e0b", "w:0x400000"},
		{"movq xmm1,[rbx]", "f30f7e0b", "r:0x400000"},
		{"movq [rbx],xmm1", "660fd60b", "w:0x400000"},
		{"movsd [rbx],xmm1", "f20f110b", "w:0x400000"},
		{"movhps [rbx],xmm1", "0f170b", "w:0x400000"},
		{"pextrb [rbx],xmm1,3", "660f3a140b03", "w:0x400000"},
		{"pinsrb xmm1,[rbx],3", "660f3a200b03", "r:0x400000"},
		{"maskmovdqu xmm0,xmm1", "660ff7c1", "w:0x800000"},
		{"vmovdqu ymm0,[rbx]", "c5fe6f03", "r:0x400000"},
		{"vmovdqu [rbx+0x20],ymm0", "c5fe7f4320", "w:0x400020"},
		{"vmovdqu ymm9,[r9+r10*4]", "c4017e6f0c91", "r:0x3600000"},
		{"vmovdqa [r8],ymm0", "c4c17d7f00", "w:0x900000"},
		{"vpcmpeqb ymm1,ymm0,[rdi]", "c5fd740f", "r:0x800000"},
		{"vpbroadcastb ymm0,[rsi]", "c4e27d7806", "r:0x700000"},
		{"vmaskmovps [rbx],ymm0,ymm1", "c4e27d2e0b", "w:0x400000"},
		{"vmaskmovps ymm0,ymm1,[rbx]", "c4e2752c03", "r:0x400000"},
		{"vextracti128 [rbx],ymm0,1", "c4e37d390301", "w:0x400000"},
		{"vinserti128 ymm0,ymm1,[rip+0x1000],1", "c4e37538050010000001", "r:0x4000100a"},
		{"vpgatherdd ymm0,[rbx+ymm1*4],ymm2", "c4e26d90048b", ""},
		{"clzero", "0f01fc", "w:0x100000"},
		{"clzero gs:[eax]", "65670f01fc", "w:0x7e0000100000"},
		{"rdtscp", "0f01f9", ""},
		{"invlpg [rsp]", "0f013c24", "r:0x500000"},
		{"aadd [rbx],rcx", "480f38fc0b", "w:0x400000"},
		{"axor [rbx],ecx", "f30f38fc0b", "w:0x400000"},
		{"kmovq k1,[rbx]", "c4e1f8900b", "r:0x400000"},
		{"kmovq [rbx],k1", "c4e1f8910b", "w:0x400000"},
		{"vmovdqu64 zmm0,[rbx]", "62f1fe486f03", "r:0x400000"},
		{"vmovdqu64 [rbx+r14*2],zmm17", "62a1fe487f0c73", "w:0x2200000"},
		{"vmovdqu64 zmm0,[rbx+0x40]", "62f1fe486f4301", "r:0x400040 r:0x400020 r:0x400010 r:0x400008 r:0x400004 r:0x400002 r:0x400001"},
		{"vmovdqu8 [rdi-0x80],zmm0", "62f17f487f47fe", "w:0x7fff80 w:0x7fffc0 w:0x7fffe0 w:0x7ffff0 w:0x7ffff8 w:0x7ffffc w:0x7ffffe"},
		{"vpaddd ymm16,ymm17,[rbx+8]{1to8}", "62e17530fe4302", "r:0x400040 r:0x400020 r:0x400010 r:0x400008 r:0x400004 r:0x400002"},
		{"vmovdqu64 zmm0,[rip+0x1000]", "62f1fe486f0500100000", "r:0x4000100a"},
		{"vpternlogd zmm0,zmm1,[rip+0x1000],1", "62f3754825050010000001", "r:0x4000100b"},
		{"vmovdqu64 zmm0,[rbx+0x12345678]", "62f1fe486f8378563412", "r:0x12745678"},
		{"vpmovqd [rbx],zmm0", "62f27e483503", "w:0x400000"},
		{"vpcompressd [rbx]{k1},zmm0", "62f27d498b03", "w:0x400000"},
		{"vpscatterdd [rbx+zmm1*4]{k1},zmm0", "62f27d49a0048b", ""},
		{"vpgatherdd zmm0{k1},[rbx+zmm1*4]", "62f27d4990048b", ""},
		{"syscall", "0f05", ""},
		{"vzeroupper", "c5f877", ""},
		{"cpuid", "0fa2", ""},
	}},
	{code32, []decodeCase{
		{"mov eax,[ebx]", "8b03", "r:0x401000"},
		{"mov eax,[ebp]", "8b4500", "r:0x602000"},
		{"mov eax,[esp+4]", "8b442404", "r:0x502004"},
		{"mov eax,[0x12345678]", "a178563412", "r:0x12346678"},
		{"mov edx,[0x12345678]", "8b1578563412", "r:0x12346678"},
		{"mov eax,es:[ebx]", "268b03", "r:0x403000"},
		{"mov eax,[bx+si]", "678b00", "r:0x1000"},
		{"inc eax", "40", ""},
		{"push eax", "50", "w:0x501ffc"},
		{"push ds", "1e", "w:0x501ffc"},
		{"pusha", "60", "w:0x501fe0"},
		{"popa", "61", "r:0x502000"},
		{"les eax,[ebx]", "c403", "r:0x401000"},
		{"vmovups ymm0,[ebx]", "c5fc1003", "r:0x401000"},
		{"stosd", "ab", "w:0x803000"},
		{"mov [ebx],ax", "668903", "w:0x401000"},
		{"ret", "c3", "r:0x502000"},
	}},
	{code16, []decodeCase{
		{"mov ax,[bx+si+4]", "8b4004", "r:0x1004"},
		{"mov ax,[bp+0x102]", "8b860201", "r:0x2102"},
		{"mov [0x1234],al", "a23412", "w:0x2234"},
		{"mov dx,[0x1234]", "8b163412", "r:0x2234"},
		{"mov eax,[ebx]", "67668b03", "r:0x401000"},
		{"push ax", "50", "w:0x11ffe"},
	}},
}
