package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/bobuhiro11/gokvm/bootparam"
)

// Constants of the setup header (Documentation/arch/x86/boot.rst).
const (
	sector           = 512
	defaultSects     = 4
	setupEnd         = 0x200      // kernel_version counts from here
	protocolPayload  = 0x020c     // xloadflags, and everything older
	xlfKernel64      = 1 << 0     // XLF_KERNEL_64: 64-bit entry at 0x200
	entry64          = 0x200      // from the load address
	defaultInitrdMax = 0x7fffffff // what Linux has said since 2.6
)

func isBzImage(head []byte) bool {
	return len(head) > 0x206 && head[0x1fe] == 0x55 && head[0x1ff] == 0xaa && bytes.Equal(head[0x202:0x206], []byte("HdrS"))
}

// openBzImage takes over i.file, the bzImage, and replaces it by the unpacked
// kernel if the host can unpack it.
func (i *Image) openBzImage(info os.FileInfo, cacheDir string) error {
	h, err := bootparam.New(i.file)
	if err != nil {
		return fmt.Errorf("%w: a bzImage with a bad setup header: %w", ErrNotKernel, err)
	}
	if h.Hdr.Version < protocolPayload || h.Hdr.XloadFlags&xlfKernel64 == 0 {
		return fmt.Errorf("%w: a bzImage, but not a 64-bit one (boot protocol %#x)", ErrNotKernel, h.Hdr.Version)
	}
	i.header = h
	i.Release = release(i.file, h)
	p, err := findPayload(i.file, info.Size(), h)
	if err != nil {
		return err
	}
	vmlinux, err := unpacked(i.file, info, p, cacheDir)
	if errors.Is(err, errNoDecoder) {
		i.Opaque = true
		i.program, err = selfUnpacking(h, info.Size())
		return err
	}
	if err != nil {
		return err
	}
	i.file.Close()
	i.file = vmlinux.file
	i.program = vmlinux.program
	return nil
}

// release reads the version string of the setup header: the part before the
// first space is what uname -r prints.
func release(f io.ReaderAt, h *bootparam.BootParam) string {
	text := make([]byte, 256)
	n, _ := f.ReadAt(text, setupEnd+int64(h.Hdr.KernelVersion))
	text, _, _ = bytes.Cut(text[:n], []byte{0})
	text, _, _ = bytes.Cut(text, []byte(" "))
	return string(text)
}

// setupLen returns the length of the real-mode part, after which the
// protected-mode code begins.
func setupLen(h *bootparam.BootParam) int64 {
	sects := int64(h.Hdr.SetupSects)
	if sects == 0 {
		sects = defaultSects
	}
	return (sects + 1) * sector
}

// payload is the compressed vmlinux inside a bzImage: n bytes at off of the
// file, of which the last four are the length of the result.
type payload struct {
	off, n int64
	size   int64
}

// tailLen is the length of the size that ends every payload. Of gzip's it is
// part of the format, the others have it appended by the kernel's build.
const tailLen = 4

func findPayload(f io.ReaderAt, fileSize int64, h *bootparam.BootParam) (payload, error) {
	p := payload{off: setupLen(h) + int64(h.Hdr.PayloadOffset), n: int64(h.Hdr.PayloadLength)}
	if p.n <= tailLen || p.off+p.n > fileSize {
		return p, fmt.Errorf("%w: the bzImage is truncated (its payload ends at %d, the file at %d)",
			ErrNotKernel, p.off+p.n, fileSize)
	}
	var tail [tailLen]byte
	if _, err := f.ReadAt(tail[:], p.off+p.n-tailLen); err != nil {
		return p, err
	}
	p.size = int64(binary.LittleEndian.Uint32(tail[:]))
	if p.size == 0 || p.size > maxImage {
		return p, fmt.Errorf("%w: the bzImage claims to unpack to %d bytes", ErrNotKernel, p.size)
	}
	return p, nil
}

// selfUnpacking is the program of a bzImage that is booted as it is: the
// protected-mode code at its preferred address, and the room it unpacks into.
func selfUnpacking(h *bootparam.BootParam, fileSize int64) (program, error) {
	start := uint64(setupLen(h))
	code := uint64(fileSize) - start
	p := program{entry: h.Hdr.PrefAddress + entry64}
	err := p.add(segment{at: h.Hdr.PrefAddress, off: start, filesz: code, memsz: max(code, uint64(h.Hdr.InitSize))})
	return p, err
}
