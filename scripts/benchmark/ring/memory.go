// Package ring is the driver's side of a virtio-fs device in shared memory: rings and
// the request chains that Linux would put into them, for whatever serves them, a
// device in this process or a daemon behind a socket.
package ring

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"tenon/devices/memory"
	"tenon/devices/virtio/queue/queuetest"
)

const page = 4096

// base is the guest address of the memory: not 0, so that an address that was never
// set is an error.
const base = memory.GPA(1 << 30)

// Memory is one piece of guest memory that can be shared: a memfd mapped here, all of
// it, Data[0] being byte 0 of the file and at guest address GPA.
type Memory struct {
	File *os.File
	GPA  memory.GPA
	Data []byte
	Map  *memory.Map

	kept memory.GPA // what is below it stays
	next memory.GPA // what is not below it is free
}

// NewMemory returns size bytes, a multiple of 4096, all of them resident.
func NewMemory(size int) (*Memory, error) {
	fd, err := unix.MemfdCreate("ram", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("guest memory: memfd_create: %w", err)
	}
	m := &Memory{File: os.NewFile(uintptr(fd), "ram"), GPA: base, kept: base, next: base}
	if err := m.open(size); err != nil {
		m.Close()
		return nil, fmt.Errorf("guest memory of %d bytes: %w", size, err)
	}
	return m, nil
}

func (m *Memory) open(size int) (err error) {
	if err = m.File.Truncate(int64(size)); err != nil {
		return err
	}
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if m.Data, err = unix.Mmap(int(m.File.Fd()), 0, size, prot, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	m.Map, err = memory.New(memory.Region{GPA: m.GPA, Data: m.Data})
	return err
}

// Close unmaps the memory.
func (m *Memory) Close() {
	if m.Data != nil {
		_ = unix.Munmap(m.Data)
		m.Data = nil
	}
	_ = m.File.Close()
}

// take gives out n bytes at a multiple of align, a power of two.
func (m *Memory) take(n, align int) (memory.GPA, error) {
	at := (m.next + memory.GPA(align) - 1) &^ (memory.GPA(align) - 1)
	if at+memory.GPA(n) > m.GPA+memory.GPA(len(m.Data)) {
		return 0, fmt.Errorf("guest memory: no %d bytes left of %d", n, len(m.Data))
	}
	m.next = at + memory.GPA(n)
	return at, nil
}

// bytes is memory that take gave out.
func (m *Memory) bytes(at memory.GPA, n int) []byte {
	off := at - m.GPA
	return m.Data[off : off+memory.GPA(n) : off+memory.GPA(n)]
}

// keep makes what was given out so far stay.
func (m *Memory) keep() { m.kept = m.next }

// Rewind takes back everything that was given out, but for what a Share needs.
func (m *Memory) Rewind() { m.next = m.kept }

// Shape says how the data of a READ or WRITE lies in guest memory.
type Shape uint8

const (
	// Aligned: whole pages, one behind the other, in one descriptor. Linux sends a
	// large folio so.
	Aligned Shape = iota
	// Scattered: each page is a descriptor and none lies behind the one before it, as
	// those of a page cache. A single page is a buffer that begins in the middle of
	// one page and ends in that of another, as those of O_DIRECT may.
	Scattered
)

// Payload gives out memory for n bytes of data, in pieces: 4096, or a power of two from
// 16 KiB on.
func (m *Memory) Payload(n int, shape Shape) ([][]byte, error) {
	list, err := m.payload(n, shape)
	if err != nil {
		return nil, err
	}
	var data [][]byte
	for _, p := range list {
		data = append(data, m.bytes(p.At, int(p.Len)))
	}
	return data, nil
}

func (m *Memory) payload(n int, shape Shape) ([]queuetest.Buffer, error) {
	pages := n / page
	if shape == Scattered && pages == 1 {
		pages = 3
	}
	at, err := m.take(pages*page, page)
	if err != nil {
		return nil, err
	}
	return pieces(at, n, shape), nil
}

// pieces is how n bytes of data lie in the pages from at on.
func pieces(at memory.GPA, n int, shape Shape) []queuetest.Buffer {
	switch {
	case shape == Aligned:
		return []queuetest.Buffer{{At: at, Len: uint32(n)}}
	case n == page:
		return []queuetest.Buffer{{At: at + page/2, Len: page / 2}, {At: at + 2*page, Len: page / 2}}
	}
	list := make([]queuetest.Buffer, n/page)
	// An odd step goes through all of a number of pages that is a power of two.
	step := len(list)/2 + 1
	for i := range list {
		p := memory.GPA(i * step % len(list))
		list[i] = queuetest.Buffer{At: at + p*page, Len: page}
	}
	return list
}
