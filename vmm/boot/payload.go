package boot

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// errNoDecoder says that the host cannot unpack this payload and the guest must.
var errNoDecoder = errors.New("no decoder for this compression")

// decoders are the compressions the host reads, by the first bytes of the
// payload. Each decodes src into the whole of dst. The others (lzma, lzo,
// bzip2) are left to the kernel's own code in the guest.
var decoders = []struct {
	magic  string
	name   string
	decode func(dst, src []byte) error
}{
	{"\x28\xb5\x2f\xfd", "zstd", decodeZstd},
	{"\x02\x21\x4c\x18", "lz4", decodeLZ4},
	{"\x1f\x8b", "gzip", decodeGzip},
	{"\xfd7zXZ\x00", "xz", decodeXZ},
}

// decompress unpacks the payload into scratch memory, which the caller frees.
func decompress(f *os.File, p payload) (vmlinux []byte, err error) {
	src, err := scratch(p.n)
	if err != nil {
		return nil, err
	}
	defer free(src)
	if _, err := f.ReadAt(src, p.off); err != nil {
		return nil, err
	}
	for _, d := range decoders {
		if !bytes.HasPrefix(src, []byte(d.magic)) {
			continue
		}
		dst, err := scratch(p.size)
		if err != nil {
			return nil, err
		}
		if err := d.decode(dst, src); err != nil {
			free(dst)
			if errors.Is(err, errNoDecoder) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: its %s payload is damaged: %w", ErrNotKernel, d.name, err)
		}
		return dst, nil
	}
	return nil, errNoDecoder
}

// scratch returns zeroed memory outside the Go heap, so that unpacking a
// kernel leaves no trace in the heap of the machine's whole life.
func scratch(n int64) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes to unpack the kernel: %w", n, err)
	}
	return b, nil
}

func free(b []byte) { unix.Munmap(b) }

// decodeZstd decodes straight into dst, which is its window as well.
func decodeZstd(dst, src []byte) error {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxImage), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return err
	}
	defer d.Close()
	out, err := d.DecodeAll(src[:len(src)-tailLen], dst[:0])
	if err != nil {
		return err
	}
	if len(out) != len(dst) {
		return io.ErrUnexpectedEOF
	}
	if len(out) > 0 && &out[0] != &dst[0] {
		copy(dst, out)
	}
	return nil
}

func decodeLZ4(dst, src []byte) error {
	return readExactly(lz4.NewReader(bytes.NewReader(src[:len(src)-tailLen])), dst)
}

func decodeGzip(dst, src []byte) error {
	r, err := gzip.NewReader(bytes.NewReader(src))
	if err != nil {
		return err
	}
	r.Multistream(false)
	return readExactly(r, dst)
}

// decodeXZ reads xz without filters. Stock x86 kernels use the BCJ filter as
// well, which the library does not have: the number of filters, less one, is in
// the flags of the first block header (xz file format §3.1.2).
func decodeXZ(dst, src []byte) error {
	const blockFlags, filterCount = 13, 0x03
	if len(src) > blockFlags && src[blockFlags]&filterCount != 0 {
		return errNoDecoder
	}
	r, err := xz.ReaderConfig{SingleStream: true}.NewReader(bytes.NewReader(src[:len(src)-tailLen]))
	if err != nil {
		return err
	}
	return readExactly(r, dst)
}

// readExactly fills dst and checks that the stream ends there, which makes the
// decoder verify its checksum.
func readExactly(r io.Reader, dst []byte) error {
	if _, err := io.ReadFull(r, dst); err != nil {
		return err
	}
	var more [1]byte
	switch n, err := r.Read(more[:]); {
	case n != 0:
		return errors.New("more data than its size says")
	case err != nil && err != io.EOF:
		return err
	}
	return nil
}
