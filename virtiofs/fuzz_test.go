package virtiofs_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/fuse"
	"tenon/virtiofs/passthrough"
)

// FuzzServe serves any bytes as a conversation: each message is a 2-byte room
// for the reply, then a request whose header says its length. Whatever they
// are, Serve returns, stays inside the room, answers with the length it wrote,
// and opens no more than the budget has.
func FuzzServe(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	old := unix.Umask(0)
	f.Cleanup(func() { unix.Umask(old) })
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/f", []byte("data"), 0o644))
		budget, err := passthrough.NewBudget()
		must(t, err)
		fs, err := passthrough.New(dir, passthrough.Options{Budget: budget})
		must(t, err)
		s := virtiofs.NewServer(fs, virtiofs.Options{})
		c := fstest.Dial(t, s)
		for len(data) > 2 {
			room := int(le.Uint16(data))
			data = data[2:]
			n := len(data)
			if n >= 4 {
				n = min(n, int(le.Uint32(data)))
			}
			msg := tame(append([]byte(nil), data[:n]...))
			reply, _ := c.Raw(msg, room)
			if len(reply) != 0 && int(le.Uint32(reply)) != len(reply) {
				t.Fatalf("out.len %d, used length %d", le.Uint32(reply), len(reply))
			}
			data = data[max(n, 1):]
		}
		must(t, s.Close())
		if budget.Used() != 0 {
			t.Fatalf("%d descriptors are left", budget.Used())
		}
	})
}

// tame takes out of a request what would fill or stall the machine that fuzzes:
// real allocation of space, copies of sparse terabytes, syncing all file systems.
func tame(msg []byte) []byte {
	if len(msg) < fuse.InHeaderSize {
		return msg
	}
	switch op := fuse.Opcode(le.Uint32(msg[4:])); {
	case op == fuse.Fallocate && len(msg) >= 72:
		le.PutUint64(msg[56:], le.Uint64(msg[56:])&0xffff)
	case (op == fuse.CopyFileRange || op == fuse.CopyFileRange64) && len(msg) >= 96:
		le.PutUint64(msg[80:], le.Uint64(msg[80:])&0xffff)
	case op == fuse.Syncfs || op == fuse.Fsync || op == fuse.Fsyncdir:
		le.PutUint32(msg[4:], uint32(fuse.Statfs))
	}
	return msg
}

// seeds is one conversation for each operation, after INIT and a LOOKUP.
func seeds() [][]byte {
	c := fstest.Dial(nil, nil)
	say := func(msgs ...[]byte) []byte {
		var b []byte
		for _, m := range msgs {
			b = append(b, 0, 2)
			b = append(b, m...)
		}
		return b
	}
	start := say(
		c.Message(fuse.Init, 0, fstest.U32(7, 45, 0, ^uint32(0), ^uint32(0)), make([]byte, 44)),
		c.Message(fuse.Lookup, root, fstest.Str("f")),
		c.Message(fuse.Create, root, fstest.U32(unix.O_RDWR, 0o644, 0, 0), fstest.Str("g")),
		c.Message(fuse.Opendir, root, fstest.U32(0, 0)),
	)
	name, two := fstest.Str("f"), append(fstest.Str("f"), fstest.Str("h")...)
	var all [][]byte
	for op := fuse.Opcode(1); op < fuse.Opcodes; op++ {
		row := fuse.Row(op)
		args := make([]byte, row.In)
		if len(args) >= 20 {
			args[0], args[16] = 64, 100 // the first handle; a size
		}
		switch {
		case row.Names[1] != fuse.NoName:
			args = append(args, two...)
		case row.Names[0] != fuse.NoName:
			args = append(args, name...)
		}
		if row.Ext {
			c.Ext = append(fstest.U32(16, fuse.ExtGroups), fstest.U32(1, 0)...)
		}
		all = append(all, append(append([]byte(nil), start...), say(
			c.Message(op, root, args),
			c.Message(op, 64, args, make([]byte, 100)),
		)...))
		c.Ext = nil
	}
	return all
}
