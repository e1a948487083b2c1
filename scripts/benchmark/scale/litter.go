package scale

import (
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// litter is the directories that measuring leaves. A million files in memory would stay
// there when somebody loses patience, so they are removed then too.
type litter struct {
	mu   sync.Mutex
	dirs []string
}

// dir makes a directory.
func (l *litter) dir(parent string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	dir, err := os.MkdirTemp(parent, "tenon-scale-")
	if err == nil {
		l.dirs = append(l.dirs, dir)
	}
	return dir, err
}

func (l *litter) remove() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, dir := range l.dirs {
		os.RemoveAll(dir)
	}
	l.dirs = nil
}

// watch removes everything and ends the program when it is interrupted, until stop.
func (l *litter) watch() (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM)
	go func() {
		if _, ok := <-c; ok {
			l.remove()
			os.Exit(1)
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}
