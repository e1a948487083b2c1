package memory

// Forbid makes the system calls for windows fail, as a filter would.
func (m *Map) Forbid() { m.pid = -1 }
