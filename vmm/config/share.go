package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// The share grammars:
//
//	root    DIR[,OPTION]...
//	volume  HOST:GUEST[,OPTION]...
//	share   TAG=DIR[,OPTION]...
//
// A backslash takes the next character as it is: "\," in a DIR or GUEST, "\:" in
// a HOST or GUEST, "\=" in a TAG and "\\" for a backslash. A comma in a HOST, and
// a colon or an equals sign in a DIR, need none. Relative host directories are
// relative to the working directory. ShareOptions has the options.
const (
	rootForm   = "DIR[,OPTION]"
	volumeForm = "HOST:GUEST[,OPTION]"
	shareForm  = "TAG=DIR[,OPTION]"
)

// ParseRoot reads DIR[,OPTION]... as the guest's root, read-only unless it says rw.
func ParseRoot(s string) (Share, error) {
	dir, stop, rest, err := field(s, ",")
	if err != nil {
		return Share{}, badValue(s, rootForm, err)
	}
	share := Share{Tag: RootTag, ReadOnly: true}
	return share, badValue(s, rootForm, share.finish(dir, stop, rest))
}

// ParseVolume reads HOST:GUEST[,OPTION]..., writable unless it says ro. The volume
// has no tag yet: see VolumeTag.
func ParseVolume(s string) (Share, error) {
	host, stop, rest, err := field(s, ":")
	if err == nil && stop != ':' {
		err = errors.New("it has no colon: write the guest's path after one, such as /src:/src")
	}
	if err != nil {
		return Share{}, badValue(s, volumeForm, err)
	}
	guest, stop, rest, err := field(rest, ":,")
	if err == nil && stop == ':' {
		err = fmt.Errorf("it has a second colon: options follow a comma, such as %s:%s,ro", host, guest)
	}
	if err != nil {
		return Share{}, badValue(s, volumeForm, err)
	}
	share := Share{Guest: guest}
	return share, badValue(s, volumeForm, share.finish(host, stop, rest))
}

// ParseShare reads TAG=DIR[,OPTION]..., writable unless it says ro.
func ParseShare(s string) (Share, error) {
	tag, stop, rest, err := field(s, "=")
	if err == nil && stop != '=' {
		err = errors.New("it has no equals sign: write the tag before one, such as data=/srv/data")
	}
	if err != nil {
		return Share{}, badValue(s, shareForm, err)
	}
	dir, stop, rest, err := field(rest, ",")
	if err != nil {
		return Share{}, badValue(s, shareForm, err)
	}
	share := Share{Tag: tag}
	return share, badValue(s, shareForm, share.finish(dir, stop, rest))
}

// VolumeTag is the tag of the volume with index i. Volumes are mounted by path, so
// nobody has to know it.
func VolumeTag(i int) string { return "tenon.v" + strconv.Itoa(i) }

// field reads s up to the first byte of stops that no backslash protects, and
// removes the backslashes. stop is that byte and rest what follows it; at the end
// of s stop is 0.
func field(s, stops string) (value string, stop byte, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 == len(s):
			return "", 0, "", errors.New(`it ends in a backslash: write \\ for a backslash`)
		case c == '\\':
			i++
			b.WriteByte(s[i])
		case strings.IndexByte(stops, c) >= 0:
			return b.String(), c, s[i+1:], nil
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), 0, "", nil
}

// finish sets the host directory and applies the options that follow a comma.
func (s *Share) finish(dir string, stop byte, options string) error {
	if dir == "" {
		return errors.New("it names no host directory: write its path")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("%w: write an absolute path", err)
	}
	s.Dir = abs
	s.Sharing = DefaultSharing()
	given := make(map[string]string)
	for stop != 0 {
		var option string
		if option, stop, options, err = field(options, ","); err == nil {
			err = s.apply(option, given)
		}
		if err != nil {
			return err
		}
	}
	return s.settle(given)
}

// badValue says which value does not have which form.
func badValue(s, form string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%q is not %s: %w", s, form, err)
}
