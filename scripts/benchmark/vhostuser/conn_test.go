package vhostuser

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a front end's conversation, and the back end's side of the socket.
func pair(t *testing.T, limit time.Duration) (conn, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return conn{ends[0], limit}, ends[1]
}

// TestMessages holds what is sent against the bytes that vhost-user.rst describes
// ("Message Specification"), on a little-endian machine.
func TestMessages(t *testing.T) {
	const (
		guest = 0x1_4000_0000
		user  = 0x7f00_1234_5000
	)
	for _, c := range []struct {
		name string
		got  []byte
		want string // request, flags, size; payload
	}{
		{"GET_FEATURES", message(getFeatures, 0, nil), "01000000 01000000 00000000"},
		{"SET_OWNER, to be confirmed", message(setOwner, flagAck, nil), "03000000 09000000 00000000"},
		{"SET_FEATURES", message(setFeatures, flagAck, number(1<<32|1<<30|1<<29)),
			"02000000 09000000 08000000  0000006001000000"},
		{"SET_PROTOCOL_FEATURES", message(setProtocolFeatures, 0, number(protocolMQ|protocolReplyAck)),
			"10000000 01000000 08000000  0900000000000000"},
		{"SET_MEM_TABLE", message(setMemTable, flagAck, memoryRegion(guest, 2<<20, user, 4096)),
			"05000000 09000000 28000000  01000000 00000000" +
				"0000004001000000 0000200000000000 00503412007f0000 0010000000000000"},
		{"SET_VRING_NUM", message(setVringNum, flagAck, vringState(1, 512)), "08000000 09000000 08000000  01000000 00020000"},
		{"SET_VRING_ADDR", message(setVringAddr, flagAck, vringAddress(1, guest, guest+0x3000, guest+0x2000)),
			"09000000 09000000 28000000  01000000 00000000" +
				"0000004001000000 0030004001000000 0020004001000000 0000000000000000"},
		{"SET_VRING_BASE", message(setVringBase, flagAck, vringState(1, 0)), "0a000000 09000000 08000000  01000000 00000000"},
		{"SET_VRING_KICK", message(setVringKick, flagAck, number(1)), "0c000000 09000000 08000000  0100000000000000"},
		{"SET_VRING_CALL", message(setVringCall, flagAck, number(1)), "0d000000 09000000 08000000  0100000000000000"},
		{"SET_VRING_ENABLE", message(setVringEnable, flagAck, vringState(1, 1)), "12000000 09000000 08000000  01000000 01000000"},
		{"GET_VRING_BASE", message(getVringBase, 0, vringState(1, 0)), "0b000000 01000000 08000000  01000000 00000000"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, c.got, want)
		}
	}
}

// TestAnswers shows which answers to a request are believed.
func TestAnswers(t *testing.T) {
	reply := func(r request, flags, size uint32, payload []byte) []byte {
		return append(words(nil, uint32(r), flags, size), payload...)
	}
	for _, c := range []struct {
		name   string
		answer []byte
		want   string // in the error; empty: none
	}{
		{"done", reply(setOwner, version|flagReply, 8, number(0)), ""},
		{"done, with the flag of the request", reply(setOwner, version|flagReply|flagAck, 8, number(0)), ""},
		{"refused", reply(setOwner, version|flagReply, 8, number(1)), "refuses (1)"},
		{"to another request", reply(setFeatures, version|flagReply, 8, number(0)), "to request 2"},
		{"no reply", reply(setOwner, version, 8, number(0)), "flags 0x1"},
		{"another version", reply(setOwner, 2|flagReply, 8, number(0)), "flags 0x6"},
		{"too long", reply(setOwner, version|flagReply, 16, number(0)), "16 bytes"},
		{"half a header", reply(setOwner, version|flagReply, 8, nil)[:6], "unexpected EOF"},
		{"half a payload", reply(setOwner, version|flagReply, 8, number(0)[:4]), "unexpected EOF"},
		{"none", nil, "hung up"},
	} {
		t.Run(c.name, func(t *testing.T) {
			front, back := pair(t, 10*time.Second)
			if _, err := back.Write(c.answer); err != nil {
				t.Fatal(err)
			}
			if err := back.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			err := front.set(setOwner, nil)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "SET_OWNER")):
				t.Errorf("error %v, not one of SET_OWNER with %q", err, c.want)
			}
		})
	}
}

// TestSilence: nobody answers, and then nobody even reads.
func TestSilence(t *testing.T) {
	front, _ := pair(t, 20*time.Millisecond)
	if _, err := front.get(getFeatures); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	if err := front.SetWriteBuffer(4096); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 100_000 {
		if err = front.tell(setFeatures, number(0)); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody reads: %v", err)
	}
}

// TestDescriptors shows that a descriptor goes with the first byte of its request.
func TestDescriptors(t *testing.T) {
	front, back := pair(t, 10*time.Second)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	done := make(chan error, 1)
	go func() { done <- front.set(setVringKick, number(1), int(file.Fd())) }()
	got, rights := make([]byte, headerSize+8), make([]byte, unix.CmsgSpace(4))
	n, length, _, _, err := back.ReadMsgUnix(got, rights)
	if err != nil || n != len(got) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	sent := descriptors(t, rights[:length])
	if len(sent) != 1 {
		t.Fatalf("%d descriptors", len(sent))
	}
	defer unix.Close(sent[0])
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(int(file.Fd()), &a), unix.Fstat(sent[0], &b)); err != nil {
		t.Fatal(err)
	}
	if a.Ino != b.Ino || a.Dev != b.Dev {
		t.Error("the descriptor is of another file")
	}
	answer(t, back, setVringKick, 0)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func descriptors(t *testing.T, rights []byte) []int {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		t.Fatal(err)
	}
	var list []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fds...)
	}
	return list
}

// answer sends a back end's answer of one number.
func answer(t *testing.T, back io.Writer, r request, v uint64) {
	t.Helper()
	if _, err := back.Write(message(r, flagReply, number(v))); err != nil {
		t.Error(err)
	}
}

// TestNegotiate shows what a back end must offer, and what is settled.
func TestNegotiate(t *testing.T) {
	const (
		all      = 1<<28 | 1<<29 | 1<<30 | 1<<32
		protocol = 1<<0 | 1<<3 | 1<<9
	)
	for _, c := range []struct {
		name                       string
		features, protocol, queues uint64
		want                       string // in the error; empty: none
		settled                    uint64
	}{
		{"all", all | 1<<26, protocol, 2, "", all},
		{"plain rings", 1<<30 | 1<<32, protocol, 2, "", 1<<30 | 1<<32},
		{"a device of old", all &^ (1 << 32), protocol, 2, "VERSION_1", 0},
		{"no features of the protocol", all &^ (1 << 30), protocol, 2, "PROTOCOL_FEATURES", 0},
		{"no answers", all, protocol &^ (1 << 3), 2, "REPLY_ACK", 0},
		{"no number of queues", all, protocol &^ 1, 2, "MQ", 0},
		{"too few queues", all, protocol, 1, "2 rings: it serves 1", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			front, back := pair(t, 10*time.Second)
			numbers := map[request]uint64{getFeatures: c.features, getProtocolFeatures: c.protocol, getQueueNum: c.queues}
			told := make(chan map[request]uint64, 1)
			go func() { told <- backEnd(t, back, numbers) }()
			p := &Peer{conn: front}
			err := p.negotiate(2)
			_ = front.Close()
			got := <-told
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, not one with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got[setProtocolFeatures] != 1<<0|1<<3 || got[setFeatures] != c.settled || p.Features() != c.settled&(1<<28|1<<29) {
				t.Errorf("told %#x, features of the rings %#x", got, p.Features())
			}
		})
	}
}

// backEnd answers until the front end hangs up, and returns what it was told. Before
// REPLY_ACK was settled it must not be asked to confirm.
func backEnd(t *testing.T, back *net.UnixConn, numbers map[request]uint64) map[request]uint64 {
	told := make(map[request]uint64)
	header := make([]byte, headerSize)
	for {
		if _, err := io.ReadFull(back, header); err != nil {
			return told
		}
		r, flags := request(order.Uint32(header)), order.Uint32(header[4:])
		payload := make([]byte, order.Uint32(header[8:]))
		if _, err := io.ReadFull(back, payload); err != nil {
			t.Error(err)
		}
		if len(payload) == 8 {
			told[r] = order.Uint64(payload)
		}
		question := slices.Contains([]request{getFeatures, getProtocolFeatures, getQueueNum}, r)
		_, settled := told[setProtocolFeatures]
		if confirm := flags&flagAck != 0; confirm != (settled && !question && r != setProtocolFeatures) {
			t.Errorf("%s: asks for a confirmation: %v", r, confirm)
		}
		if question || flags&flagAck != 0 {
			answer(t, back, r, numbers[r])
		}
	}
}
