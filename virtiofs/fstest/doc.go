// Package fstest tests file servers. It has two floors.
//
// The lower one is the guest's side of a FUSE conversation without a guest: a
// heap-backed virtiofs.Cursor, and Conn, a client that sends raw request bytes
// to a Server, or through any transport, and holds the replies against the
// protocol.
//
// The upper one is a conformance suite. It knows nothing of what is right: a
// Case is a script of file operations, and running it on a Target writes a
// Trace, one line an operation with its arguments and its errno or values.
// Inode numbers, times and block counts are in it as relations only ("same
// inode", "mtime changed"). The trace of plain system calls on a local directory
// is the expectation; Compare holds another trace against it line by line. What
// may differ is in Differences, each entry with its reason, and an entry that no
// longer occurs is an error too.
//
// There are two targets. Host makes system calls below a directory: it is the
// control, and it is the subject too when the directory is a mounted share, in a
// guest for example. Client is a small path-walking FUSE client over a Conn: it
// looks up each component, forgets what it looked up, and Close checks that the
// server has forgotten as well.
//
// To run the suite on a mounted directory, with the file system below the share
// as the control:
//
//	control, err := fstest.NewHost("/srv/export/control") // empty directories
//	share, err := fstest.NewHost("/mnt/share/subject")
//	want := fstest.Run(control, fstest.Cases(), fstest.Knobs{})
//	got := fstest.Run(share, fstest.Cases(), fstest.Knobs{})
//	for _, p := range fstest.Compare(want, got, fstest.Differences(), "guest") {
//		t.Error(p)
//	}
//
// For another FUSE server, send its requests by DialFunc, and run the suite on
// NewClient. Traces are JSON lines (WriteTraces, ReadTraces), so the two sides
// may run in different places. Most cases want root and a umask of 0 (Run sets
// none); cases that need a kernel above the server (permission checks, mappings,
// locks) are passed over on a Client.
//
// Nothing here imports package testing: the suite also runs inside of guests.
package fstest
