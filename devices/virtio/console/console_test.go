package console

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"tenon/devices/virtio/queue/queuetest"
)

// What the three ports of a machine would be; hvc's bytes go to log.
func machine(t *testing.T) (g *guest, log *bytes.Buffer, channel *Port) {
	log = &bytes.Buffer{}
	channel = &Port{Name: "tenon"}
	hvc := &Port{Name: "console", Console: true, Sink: func(p []byte) { log.Write(p) }}
	return newGuest(t, hvc, channel), log, channel
}

const channelRx, channelTx = 4, 5

func TestInfo(t *testing.T) {
	d := New(&Port{}, &Port{}, &Port{})
	i := d.Info()
	if len(i.QueueSizes) != 8 || i.ID != 3 || i.Features != 3 {
		t.Errorf("%+v", i)
	}
	d.Resize(0x1234, 0x56)
	p := bytes.Repeat([]byte{0xee}, 16)
	d.Config(0, p)
	if want := "\x34\x12\x56\x00\x03" + strings.Repeat("\x00", 11); string(p) != want {
		t.Errorf("configuration % x", p)
	}
	d.Config(100, p)
	if !bytes.Equal(p, make([]byte, 16)) {
		t.Errorf("past the end % x", p)
	}
}

func TestHandshake(t *testing.T) {
	g, _, _ := machine(t)
	g.activate(FeatureMultiport)
	g.give(controlRx, ringSize, 128)
	expect := func(want ...string) {
		t.Helper()
		if got := g.messages(); !slices.Equal(got, want) {
			t.Errorf("device said %q, want %q", got, want)
		}
	}
	expect() // nothing before DEVICE_READY
	g.control(0, eventDeviceReady, 0)
	expect()
	g.control(^uint32(0), eventDeviceReady, 1)
	expect("0 add", "1 add")
	g.control(1, eventPortReady, 1)
	expect("1 name tenon", "1 open")
	g.control(0, eventPortReady, 0) // the driver failed
	g.d.Resize(80, 25)
	expect()
	g.control(0, eventPortReady, 1)
	expect("0 console", "0 name console", "0 open", "0 resize 80x25")
	g.d.Resize(132, 50)
	expect("0 resize 132x50")
	select {
	case <-g.changes:
	default:
		t.Error("Resize did not change the configuration")
	}
	g.control(9, eventPortReady, 1) // no such port
	g.control(9, eventPortOpen, 1)
	g.control(1, 77, 1) // no such event
	g.send(controlTx, "short")
	expect()
	if len(g.broke) != 0 {
		t.Error(<-g.broke)
	}
}

// The driver gives control buffers one by one, and provokes more messages than
// there is room for: one of each kind is kept.
func TestFewControlBuffers(t *testing.T) {
	g, _, _ := machine(t)
	g.activate(FeatureMultiport)
	for range 1000 {
		g.control(0, eventDeviceReady, 1)
		g.control(0, eventPortReady, 1)
	}
	var got []string
	for range 10 {
		g.give(controlRx, 1, 128)
		got = append(got, g.messages()...)
	}
	want := []string{"0 add", "0 console", "0 name console", "0 open", "1 add"}
	if !slices.Equal(got, want) {
		t.Errorf("device said %q, want %q", got, want)
	}
}

func TestSinkIsInline(t *testing.T) {
	g, log, _ := machine(t)
	g.boot()
	long := strings.Repeat("x", 4096)
	for _, s := range []string{"hello ", "world", long} {
		g.send(1, s)
		if _, ok := g.used(1); !ok {
			t.Fatal("buffer not used when Notify returned")
		}
	}
	if log.String() != "hello world"+long {
		t.Errorf("log of %d bytes: %.20q", log.Len(), log.String())
	}
}

// read reads up to n bytes and fails the test on an error.
func read(t *testing.T, p *Port, n int) string {
	t.Helper()
	b := make([]byte, n)
	n, err := p.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// The guest gets a buffer back when all of it was read, not before.
func TestReadHoldsBack(t *testing.T) {
	g, _, p := machine(t)
	g.boot()
	g.send(channelTx, "abcdef")
	g.send(channelTx, "ghi")
	if s := read(t, p, 4); s != "abcd" {
		t.Errorf("read %q", s)
	}
	if _, ok := g.used(channelTx); ok {
		t.Error("buffer used before it was read")
	}
	if s := read(t, p, 100); s != "efghi" {
		t.Errorf("read %q", s)
	}
	g.wait(channelTx)
	g.wait(channelTx)
	g.send(channelTx, "last")
	g.d.Close()
	if s := read(t, p, 100); s != "last" {
		t.Errorf("after Close read %q", s)
	}
	if _, err := p.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("then %v", err)
	}
	if n, err := p.Read(nil); n != 0 || err != nil {
		t.Errorf("empty read: %d, %v", n, err)
	}
}

type result struct {
	n   int
	err error
}

// write writes on another goroutine.
func write(p *Port, b string) <-chan result {
	done := make(chan result, 1)
	go func() {
		n, err := p.Write([]byte(b))
		done <- result{n, err}
	}()
	return done
}

// readLater reads on another goroutine until Close.
func readLater(p *Port) { go func() { _, _ = p.Read(make([]byte, 1)) }() }

func await(t *testing.T, done <-chan result) result {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(patience):
		t.Fatal("still waiting")
		return result{}
	}
}

// Nothing is written to a port the guest has not opened: Linux throws it away.
func TestWriteWaitsForOpen(t *testing.T) {
	g, _, p := machine(t)
	g.activate(FeatureMultiport)
	g.give(controlRx, ringSize, 128)
	g.control(0, eventDeviceReady, 1)
	g.control(1, eventPortReady, 1)
	g.give(channelRx, 4, 10)
	done := write(p, "to whom it may concern")
	g.control(1, eventPortOpen, 0)
	if s, ok := g.used(channelRx); ok {
		t.Fatalf("a closed port got %q", s)
	}
	g.control(1, eventPortOpen, 1)
	if s := g.wait(channelRx) + g.wait(channelRx) + g.wait(channelRx); s != "to whom it may concern" {
		t.Errorf("guest read %q", s)
	}
	if r := await(t, done); r.n != 22 || r.err != nil {
		t.Errorf("Write: %+v", r)
	}
	g.control(1, eventPortOpen, 0)
	done = write(p, "nobody")
	g.d.Close()
	if r := await(t, done); r.n != 0 || r.err != io.ErrClosedPipe {
		t.Errorf("Write after Close: %+v", r)
	}
}

func TestWriteWaitsForBuffers(t *testing.T) {
	g, _, p := machine(t)
	g.boot()
	text := strings.Repeat("0123456789", 500)
	done := write(p, text)
	var got strings.Builder
	for got.Len() < len(text) {
		g.give(channelRx, 1, 64)
		got.WriteString(g.wait(channelRx))
	}
	if r := await(t, done); r.n != len(text) || r.err != nil || got.String() != text {
		t.Errorf("Write: %+v, %d bytes", r, got.Len())
	}
}

// A megabyte there and back with everything at once.
func TestEcho(t *testing.T) {
	g, _, p := machine(t)
	g.boot()
	text := make([]byte, 1<<20)
	for i := range text {
		text[i] = byte(i * i >> 5)
	}
	done := write(p, string(text))
	back := make(chan []byte)
	go func() {
		b := make([]byte, len(text))
		n, _ := io.ReadFull(p, b)
		back <- b[:n]
	}()
	g.give(channelRx, ringSize, bufSize)
	for echoed := 0; echoed < len(text); {
		s := g.wait(channelRx)
		echoed += len(s)
		g.give(channelRx, 1, bufSize)
		for g.rings[channelTx].Free() == 0 {
			g.wait(channelTx)
		}
		g.send(channelTx, s)
	}
	if r := await(t, done); r.err != nil {
		t.Error(r.err)
	}
	if got := <-back; !bytes.Equal(got, text) {
		t.Errorf("%d bytes came back, or others", len(got))
	}
}

// The driver goes and another comes: reader and writer go on with it, and the
// half-read buffer of the first is forgotten.
func TestRebind(t *testing.T) {
	g, log, p := machine(t)
	g.boot()
	g.send(channelTx, "first")
	if s := read(t, p, 2); s != "fi" {
		t.Errorf("read %q", s)
	}
	done := write(p, "waiting")
	g.d.Reset()
	g.d.Notify(channelTx)
	g.d.Notify(1)
	g.d.Notify(controlTx)
	g.boot()
	g.give(channelRx, 2, 64)
	if s := g.wait(channelRx); s != "waiting" {
		t.Errorf("guest read %q", s)
	}
	await(t, done)
	g.send(channelTx, "second")
	if s := read(t, p, 100); s != "second" {
		t.Errorf("read %q", s)
	}
	g.send(1, "log")
	if log.String() != "log" {
		t.Errorf("log %q", log)
	}
}

func TestWithoutMultiport(t *testing.T) {
	port, other := &Port{Console: true}, &Port{Name: "other"}
	g := newGuest(t, port, other)
	g.activate(FeatureSize)
	g.give(0, 1, 64)
	done := write(port, "hello")
	if s := g.wait(0); s != "hello" {
		t.Errorf("guest read %q", s)
	}
	await(t, done)
	g.send(1, "back")
	if s := read(t, port, 10); s != "back" {
		t.Errorf("read %q", s)
	}
	for i := 2; i < 6; i++ { // these queues mean nothing
		g.d.Notify(i)
	}
	g.d.Resize(80, 25)
	select {
	case <-g.changes:
	default:
		t.Error("the driver was not told the size")
	}
}

func TestHostile(t *testing.T) {
	for name, attack := range map[string]func(g *guest, p *Port){
		"control ring": func(g *guest, p *Port) {
			g.rings[controlTx].SetAvailIdx(999)
			g.d.Notify(controlTx)
		},
		"control buffer too short": func(g *guest, p *Port) {
			g.d.Resize(1, 1) // 12 bytes for 9
		},
		"console ring": func(g *guest, p *Port) {
			g.rings[1].Offer(ringSize)
			g.d.Notify(1)
		},
		"address": func(g *guest, p *Port) {
			g.rings[channelTx].Add(queuetest.Buffer{At: 1, Len: 1})
			readLater(p)
		},
		"empty transmit buffer": func(g *guest, p *Port) {
			g.rings[channelTx].Add(queuetest.Buffer{At: ramBase, Len: 1, Write: true})
			readLater(p)
		},
		"empty receive buffer": func(g *guest, p *Port) {
			g.rings[channelRx].Add(queuetest.Buffer{At: ramBase, Len: 1})
			write(p, "x")
		},
	} {
		g, log, p := machine(t)
		g.activate(FeatureMultiport)
		g.give(controlRx, 7, 128) // what the handshake takes
		g.control(0, eventDeviceReady, 1)
		for i := range uint32(2) {
			g.control(i, eventPortReady, 1)
			g.control(i, eventPortOpen, 1)
		}
		if n := len(g.messages()); n != 7 {
			t.Fatalf("%d messages", n)
		}
		g.give(controlRx, 1, 9)
		attack(g, p)
		select {
		case err := <-g.broke:
			if err == nil {
				t.Errorf("%s: no reason", name)
			}
		case <-time.After(patience):
			t.Errorf("%s: not noticed", name)
		}
		g.rings[1].SetAvailIdx(999)
		g.d.Notify(1)
		if len(g.broke) != 0 || log.Len() != 0 {
			t.Errorf("%s: went on after it", name)
		}
		g.d.Close()
	}
}
