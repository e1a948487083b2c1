package kvm

import "unsafe"

const ioctlX86MCECapSupported = 0x8008ae9d

func (s *System) mceCap() (cap uint64, err error) {
	err = ioctlPtr(s.fd, ioctlX86MCECapSupported, unsafe.Pointer(&cap))
	return cap, err
}
