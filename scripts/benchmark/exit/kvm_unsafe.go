package exit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl numbers of what the product does without (include/uapi/linux/kvm.h).
const (
	ioctlRegisterCoalesced = 0x4010ae67
	ioctlSetGSIRouting     = 0x4008ae6a
	ioctlIRQFD             = 0x4020ae76
	ioctlIOEventFD         = 0x4040ae79
)

// kvmFile finds a descriptor of this process by what it is: "kvm-vm".
func kvmFile(name string) (int, error) {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1, err
	}
	for _, e := range list {
		to, _ := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil && to == "anon_inode:"+name {
			return fd, nil
		}
	}
	return -1, errors.New("no descriptor is " + name)
}

func ioctl(fd int, op uintptr, p unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, uintptr(p)); e != 0 {
		return e
	}
	return nil
}

// ioEvent makes a store or an OUT of 2 bytes write to an eventfd, or not any more
// (api.rst, KVM_IOEVENTFD).
func ioEvent(vm int, addr uint64, pio bool, fd int, off bool) error {
	const onPort, deassign = 1 << 1, 1 << 2
	arg := struct {
		match, addr uint64
		len         uint32
		fd          int32
		flags       uint32
		_           [36]byte
	}{addr: addr, len: 2, fd: int32(fd)}
	if pio {
		arg.flags |= onPort
	}
	if off {
		arg.flags |= deassign
	}
	if err := ioctl(vm, ioctlIOEventFD, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("KVM_IOEVENTFD at %#x: %w", addr, err)
	}
	return nil
}

// coalesce makes KVM keep stores of up to 4 bytes in a page of vCPU 0 until that is
// full; forget empties it (api.rst, KVM_REGISTER_COALESCED_MMIO). The page stays
// mapped.
func coalesce(vm int, addr uint64) (forget func(), err error) {
	cpu, err := kvmFile("kvm-vcpu:0")
	if err != nil {
		return nil, err
	}
	const offset, size = 2 * 4096, 4096 // KVM_COALESCED_MMIO_PAGE_OFFSET
	b, err := unix.Mmap(cpu, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the page of coalesced stores: %w", err)
	}
	arg := struct {
		addr      uint64
		size, pio uint32
	}{addr, 4, 0}
	if err := ioctl(vm, ioctlRegisterCoalesced, unsafe.Pointer(&arg)); err != nil {
		return nil, fmt.Errorf("KVM_REGISTER_COALESCED_MMIO at %#x: %w", addr, err)
	}
	ring := (*struct{ first, last uint32 })(unsafe.Pointer(unsafe.SliceData(b)))
	return func() { ring.first = ring.last }, nil
}

// irqEvent makes writes to an eventfd send an MSI (api.rst, KVM_IRQFD,
// KVM_SET_GSI_ROUTING).
func irqEvent(vm, fd int, addr uint64, data uint32) error {
	const gsi, msi = 24, 2
	route := struct {
		n, _                         uint32
		gsi, kind, _, _              uint32
		addrLow, addrHigh, data, dev uint32
		_                            [4]uint32
	}{n: 1, gsi: gsi, kind: msi, addrLow: uint32(addr), addrHigh: uint32(addr >> 32), data: data}
	if err := ioctl(vm, ioctlSetGSIRouting, unsafe.Pointer(&route)); err != nil {
		return fmt.Errorf("KVM_SET_GSI_ROUTING: %w", err)
	}
	arg := struct {
		fd, gsi, flags, resample uint32
		_                        [16]byte
	}{fd: uint32(fd), gsi: gsi}
	if err := ioctl(vm, ioctlIRQFD, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("KVM_IRQFD: %w", err)
	}
	return nil
}

// statx is what GETATTR stands for. It allocates nothing.
func statx(fd int, st *unix.Statx_t) error {
	var empty [1]byte
	_, _, e := unix.Syscall6(unix.SYS_STATX, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(st)), 0)
	if e != 0 {
		return e
	}
	return nil
}
