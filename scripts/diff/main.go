// Diff holds Tenon's file server against another one: go-fuse's protocol server
// with its loopback file system. The same conversation, made from a seed, goes
// to both, each with a directory of its own; errors, replies and in the end the
// two directories must be the same. What is known to be different is in known.go.
//
// usage: diff [-seed N] [-conversations N] [-requests N]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	seed := flag.Uint64("seed", 1, "of the first conversation; the next ones follow")
	conversations := flag.Int("conversations", 200, "how many `conversations` there are")
	requests := flag.Int("requests", 300, "how many `requests` each has")
	flag.Parse()
	if err := run(*seed, *conversations, *requests); err != nil {
		fmt.Fprintln(os.Stderr, "diff:", err)
		os.Exit(1)
	}
}

func run(seed uint64, conversations, requests int) error {
	unix.Umask(0)
	if os.Getuid() != 0 {
		return errors.New("only root can give files to a guest's users: run as root")
	}
	wrong, err := checkKnown()
	if err != nil {
		return err
	}
	var sum result
	for i := range uint64(conversations) {
		if err := in(seed+i, func(t *talk) {
			t.converse(requests)
			sum.add(&t.result)
			for _, d := range t.unknown {
				fmt.Printf("conversation %d: %s\n", seed+i, d)
			}
		}); err != nil {
			return fmt.Errorf("conversation %d: %w", seed+i, err)
		}
		if sum.different > 20 {
			break
		}
	}
	fmt.Printf("%d conversations with go-fuse beside: %d requests compared, %d succeeded and %d failed alike, %d different; %d trees compared; %d known differences held\n",
		sum.conversations, sum.compared, sum.succeeded, sum.compared-sum.succeeded-sum.different, sum.different, sum.trees, len(known)-wrong)
	if sum.different+wrong > 0 {
		return fmt.Errorf("%d differences that known.go does not list, %d that it has wrong", sum.different, wrong)
	}
	return nil
}

// in lets do talk to two servers on two new directories.
func in(seed uint64, do func(t *talk)) error {
	dir, err := os.MkdirTemp("", "tenon-diff-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t, err := newTalk(dir, seed)
	if err != nil {
		return err
	}
	do(t)
	return t.sides[ours].close()
}
