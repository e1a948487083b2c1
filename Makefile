# make build       bin/tenon
# make run         boot a microVM on this machine's root directory, read-only,
#                  and run something telling in it; or: make run CMD='ls /; id'
# make test        everything; STRICT=1 makes a skipped test a failure
# make lint, unit, alloc, guest-test, bench-smoke     one rung of it
# make bench       figures beside the bare system calls and both virtiofsds
# make bench-guest figures of Linux guests beside QEMU's, on this host's KVM or in the lab
# make fuzz T=60s  every fuzz target, each for that long; tells how often each was executed
# make diff        the file server beside go-fuse's; or: make diff ARGS='-conversations 50'
# make clean

CMD = uname -sr; grep ' / ' /proc/mounts; head -n 1 /etc/os-release; nproc; free -m | head -n 2

.PHONY: build run test lint unit alloc guest-test bench-smoke bench bench-guest fuzz diff clean

# The version is stamped in from git by the Go toolchain.
build:
	CGO_ENABLED=0 go build -buildvcs=auto -trimpath -tags urfave_cli_no_docs -ldflags "-s -w" -o bin/tenon .

# By value: what make would expand is meant for the guest's shell.
run: export COMMAND = $(value CMD)
run: build
	@scripts/kernel >/dev/null
	@printf '%s\n' "--- in a microVM: $$COMMAND"
	@scripts/lab bin/tenon run -- sh -c "$$COMMAND"; \
		status=$$?; echo "--- exit status $$status"; exit $$status

test: build
	@scripts/test lint unit alloc guest bench

lint unit alloc:
	@scripts/test $@

guest-test: build
	@scripts/test guest

bench-smoke: build
	@scripts/test bench

bench:
	@scripts/bench device
	@scripts/bench exit
	@scripts/bench scale

bench-guest: build
	@scripts/bench guest

fuzz:
	@scripts/fuzz $(T)

diff:
	@scripts/diff/run $(ARGS)

clean:
	rm -rf bin
