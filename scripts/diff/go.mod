module tenon/scripts/diff

go 1.26.3

require (
	github.com/hanwen/go-fuse/v2 v2.12.1
	golang.org/x/sys v0.49.0
	tenon v0.0.0
)

replace tenon => ../..
