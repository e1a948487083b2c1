package main

import (
	"io"
	"log"
	"os"
	"path/filepath"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"tenon/virtiofs"
	"tenon/virtiofs/fstest"
	"tenon/virtiofs/passthrough"
)

// side is one of the two servers.
type side interface {
	// serve answers a request and returns the reply.
	serve(msg []byte, room int) []byte
	close() error
}

// The two sides, as indices.
const (
	ours = iota
	theirs
)

type tenon struct {
	s *virtiofs.Server
	r *virtiofs.Request
}

func newTenon(dir string) (*tenon, error) {
	fs, err := passthrough.New(dir, passthrough.Options{})
	if err != nil {
		return nil, err
	}
	t := &tenon{virtiofs.NewServer(fs, virtiofs.Options{}), virtiofs.NewRequest()}
	t.r.MayBlock = true
	return t, nil
}

func (t *tenon) serve(msg []byte, room int) []byte {
	out := make([]byte, room)
	n, _ := t.s.Serve(t.r, fstest.NewCursor(msg, 0), fstest.NewCursor(out, 0))
	return out[:n]
}

func (t *tenon) close() error { return t.s.Close() }

type goFuse struct{ s *gofuse.ProtocolServer }

func newGoFuse(dir string) (*goFuse, error) {
	root, err := gofs.NewLoopbackRoot(dir)
	if err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0)
	o := &gofs.Options{NullPermissions: true, Logger: quiet}
	o.MountOptions.Logger = quiet
	o.MaxWrite = virtiofs.MaxIO
	return &goFuse{gofuse.NewProtocolServer(gofs.NewNodeFS(root, o), &o.MountOptions)}, nil
}

func (g *goFuse) serve(msg []byte, room int) []byte {
	out := make([]byte, room)
	n, _ := g.s.HandleRequest([][]byte{msg}, [][]byte{out})
	return out[:n]
}

// close has nothing to do: what the server holds ends with the process.
func (g *goFuse) close() error { return nil }

// newSides makes a directory for each side and the server on it.
func newSides(dir string) (sides [2]side, roots [2]string, err error) {
	for i, name := range []string{"tenon", "go-fuse"} {
		roots[i] = filepath.Join(dir, name)
		if err := os.Mkdir(roots[i], 0o755); err != nil {
			return sides, roots, err
		}
	}
	if sides[ours], err = newTenon(roots[ours]); err != nil {
		return sides, roots, err
	}
	sides[theirs], err = newGoFuse(roots[theirs])
	return sides, roots, err
}
