package vhostuser

import "encoding/binary"

// request is a front end's request (vhost-user.rst, "Front-end message types").
type request uint32

const (
	getFeatures         request = 1
	setFeatures         request = 2
	setOwner            request = 3
	setMemTable         request = 5
	setVringNum         request = 8
	setVringAddr        request = 9
	setVringBase        request = 10
	getVringBase        request = 11
	setVringKick        request = 12
	setVringCall        request = 13
	getProtocolFeatures request = 15
	setProtocolFeatures request = 16
	getQueueNum         request = 17
	setVringEnable      request = 18
)

// names are those of the specification, without VHOST_USER_.
var names = map[request]string{
	getFeatures: "GET_FEATURES", setFeatures: "SET_FEATURES", setOwner: "SET_OWNER", setMemTable: "SET_MEM_TABLE",
	setVringNum: "SET_VRING_NUM", setVringAddr: "SET_VRING_ADDR", setVringBase: "SET_VRING_BASE",
	getVringBase: "GET_VRING_BASE", setVringKick: "SET_VRING_KICK", setVringCall: "SET_VRING_CALL",
	getProtocolFeatures: "GET_PROTOCOL_FEATURES", setProtocolFeatures: "SET_PROTOCOL_FEATURES",
	getQueueNum: "GET_QUEUE_NUM", setVringEnable: "SET_VRING_ENABLE",
}

func (r request) String() string { return names[r] }

// Feature bits: of the device (virtio 1.3 §6, vhost-user.rst) and of the protocol.
const (
	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	featureVersion1 = 1 << 32 // VIRTIO_F_VERSION_1

	protocolMQ       = 1 << 0 // VHOST_USER_PROTOCOL_F_MQ
	protocolReplyAck = 1 << 3 // VHOST_USER_PROTOCOL_F_REPLY_ACK
)

// Flags of a message: the lowest two bits are the version.
const (
	version     = 1
	versionMask = 3
	flagReply   = 1 << 2
	flagAck     = 1 << 3 // need_reply: answer with a u64, 0 if all went well
)

const headerSize = 12

var order = binary.NativeEndian // "in the machine native byte order"

// message is a request with its payload as it is sent.
func message(r request, flags uint32, payload []byte) []byte {
	b := make([]byte, 0, headerSize+len(payload))
	b = words(b, uint32(r), version|flags, uint32(len(payload)))
	return append(b, payload...)
}

func words(b []byte, list ...uint32) []byte {
	for _, v := range list {
		b = order.AppendUint32(b, v)
	}
	return b
}

func longs(b []byte, list ...uint64) []byte {
	for _, v := range list {
		b = order.AppendUint64(b, v)
	}
	return b
}

// number is a payload of one u64.
func number(v uint64) []byte { return longs(nil, v) }

// vringState is "a vring state description": of a ring, some number.
func vringState(index, num uint32) []byte { return words(nil, index, num) }

// vringAddress is "a vring address description". The addresses are the front end's,
// without a log.
func vringAddress(index uint32, desc, used, avail uint64) []byte {
	return longs(words(nil, index, 0), desc, used, avail, 0)
}

// memoryRegion is "multiple memory regions description" of one region. What it calls
// the user address is where the front end has it; it is used for nothing but to
// translate the addresses of rings.
func memoryRegion(guest, size, user, offset uint64) []byte {
	return longs(words(nil, 1, 0), guest, size, user, offset)
}
