package passthrough

import (
	"golang.org/x/sys/unix"

	"tenon/virtiofs"
)

// Getlk implements virtiofs.Locks.
func (f *FS) Getlk(file virtiofs.File, l *virtiofs.Lock) unix.Errno { return unix.ENOSYS }

// Setlk implements virtiofs.Locks.
func (f *FS) Setlk(file virtiofs.File, l *virtiofs.Lock) unix.Errno { return unix.ENOSYS }

// Flush implements virtiofs.Locks.
func (f *FS) Flush(file virtiofs.File, owner uint64) unix.Errno { return unix.ENOSYS }
