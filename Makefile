# The one entrance. `make run` starts the server, `make test` proves it.

CARGO ?= cargo

.PHONY: help run test install lint doc unit dtls abuse conformance conformance-in-kernel \
  conformance-tables fuzz fuzz-long lab lab-full lab-unprivileged bench instructions profile soak

help:
	@echo "make run    run the server with its built-in defaults"
	@echo "make test   install what the tests need, then run all of them"
	@echo "make lint   formatting, clippy, documentation"
	@echo "make unit   every test but the lab's"
	@echo "make dtls   the same with DTLS, which needs libssl-dev"
	@echo "make abuse  attacks on a server in a namespace: docs/abuse.md"
	@echo "make fuzz   every fuzz target for a while; make fuzz-long TARGET=authenticated MINUTES=10 one for longer"
	@echo "make lab    the lab: browsers behind NATs calling each other; make lab-full [SERVER=coturn] every NAT against every other"
	@echo "make bench  what packets and requests cost, beside coturn and a bare forwarder; ARGUMENTS=--help tells what it takes"
	@echo "make soak   an hour under everything that clients do, and whether the server grows"
	@echo "make instructions  what they cost the machine alone, in instructions; make profile where a relayed packet's time goes"
	@echo "make conformance [SERVER=turn:host:port USERNAME=… PASSWORD=…]"
	@echo "            the requirements of the standards, put to Hairpin or to any TURN server"
	@echo "make conformance-in-kernel   the same, put to Hairpin at the other end of a cable, where the kernel relays"

run:
	$(CARGO) run --release

# The lab comes last: its summary closes the run.
test: install lint unit abuse dtls conformance conformance-in-kernel fuzz lab-unprivileged lab

install:
	@.ci/install

lint: doc
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

unit:
	$(CARGO) test --workspace --locked

# The feature has no effect on what the other tests see, so its own and those over all transports are enough.
dtls:
	@if pkg-config --exists openssl 2>/dev/null; then $(MAKE) --no-print-directory dtls-tests; \
	else echo "SKIP DTLS: OpenSSL's headers are missing (packages libssl-dev and pkg-config)"; fi

.PHONY: dtls-tests
dtls-tests:
	$(CARGO) clippy --all-targets --features dtls --locked -- -D warnings
	$(CARGO) test --features dtls --locked --lib
	$(CARGO) test --features dtls --locked --test interop dtls

# Servers in a namespace of their own, attacked: with relaying in the kernel where that is possible, and without.
# FLOOD=10000000 in the environment makes its floods longer.
abuse:
	$(CARGO) test --locked --test abuse
	OFFLOAD=off $(CARGO) test --locked --test abuse -- s

# DTLS too where it can be built; `make test` has built that much for `make dtls` already.
HAS_OPENSSL = $(shell pkg-config --exists openssl 2>/dev/null && echo yes)
CONFORMANCE = $(CARGO) test --locked $(if $(HAS_OPENSSL),--features dtls) --test conformance --

# More arguments, like ARGUMENTS="--only TURN-8656 --transcripts": tests/conformance/main.rs lists them.
conformance:
	$(if $(HAS_OPENSSL),,@echo "SKIP DTLS: OpenSSL's headers are missing (packages libssl-dev and pkg-config)")
	$(CONFORMANCE) $(if $(SERVER),--server "$(SERVER)") \
	  $(if $(USERNAME),--username "$(USERNAME)") $(if $(PASSWORD),--password "$(PASSWORD)") $(ARGUMENTS)

# The same of a server in a namespace, where the kernel relays: as root.
conformance-in-kernel:
	$(CONFORMANCE) --in-kernel $(ARGUMENTS)

# Writes the tables in the document again. What coturn fails is what they are for: no error.
conformance-tables:
	$(CONFORMANCE) --markdown docs/conformance.md
	-$(CONFORMANCE) --markdown docs/conformance.md --against coturn

# A fixed number of runs, so that it ends everywhere: see fuzz/ and CONTRIBUTING.md.
fuzz:
	@.ci/fuzz

fuzz-long:
	@.ci/fuzz $(TARGET) $(MINUTES)

lab:
	$(CARGO) test --locked --test netlab

# Every NAT against every other: a quarter of an hour. The page target/netlab/matrix.html shows the grid while it grows;
# with SERVER=coturn it is that of the control, matrix-coturn.html.
LAB_SERVER = $(if $(SERVER),$(SERVER),hairpin)
LAB_GRID = target/netlab/matrix$(if $(SERVER),-$(SERVER))
lab-full:
	$(CARGO) build --workspace --locked
	mkdir -p target/netlab
	$${CARGO_TARGET_DIR:-target}/debug/netlab --turn-server $(LAB_SERVER) --output $(LAB_GRID) --capture matrix \
	  --json $(LAB_GRID).json --junit $(LAB_GRID).xml --html $(LAB_GRID).html

# As a user without rights: user namespaces have to do. The binaries are copied to where that user can read them.
lab-unprivileged:
	$(CARGO) build --workspace --locked
	@.ci/lab-unprivileged

# In namespaces, as root. docs/performance.md says how; ARGUMENTS="--quick --only relay" makes it short,
# ARGUMENTS="--markdown docs/performance.md" writes the tables there.
bench: release-benches
	@$${CARGO_TARGET_DIR:-target}/release/compare $(ARGUMENTS)

# One server for an hour under everything that clients do: whether it grows. As root; ARGUMENTS="--minutes 5" is the
# shortest that says something.
soak: release-benches
	@$${CARGO_TARGET_DIR:-target}/release/compare soak $(ARGUMENTS)

# Shares of the server's core while it relays, by symbol. More: ARGUMENTS="--only relay-160-2000 --servers hairpin,coturn"
profile: release-benches
	@$${CARGO_TARGET_DIR:-target}/release/compare --profile --rounds 1 --servers hairpin --only relay-160-100 $(ARGUMENTS)

# Fails when counts have grown; ARGUMENTS=--write accepts them.
instructions: release-benches
	@$${CARGO_TARGET_DIR:-target}/release/instructions $(ARGUMENTS)

.PHONY: release-benches
release-benches:
	$(CARGO) build --release --locked -p hairpin -p benches --bins
