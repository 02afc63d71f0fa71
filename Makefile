# The commands of this project. Each does its own set-up on a Debian-like machine with root, cargo and npm.
#
#   make demo            one prompt through everything, shown live
#   make up, make down   a gateway that stays, reachable from this machine
#   make test [T=name]   every test a change needs, or those whose names contain T
#   make test-full       the heavy ones as well
#   make test-gitea     git against a real Gitea (GITEA_BIN, or built where Go is)
#   make test-console    the pages in a real Chromium; pictures in .build/screenshots
#   make test-schemathesis  the API against its description
#   make bench           figures beside their limits
#   make soak            an hour of use with deaths in between (SOAK_SECONDS, SOAK_USERS)
#   make lint            formatting, clippy, licences and advisories
#   make deb             the Debian packages, in .build/deb
#   make test-debian     those packages on fresh Debian 12 and 13, from installation to purge

SHELL := /bin/bash
RUNTIME := .build/runtime/1.5.2/pins
BINARIES := target/release/pi-gateway target/release/pi-gateway-launcher
.PHONY: demo up down test test-full test-gitea test-console test-schemathesis bench soak lint deb test-debian setup build clean

demo: setup build
	tests/demo

up: setup build
	tests/up

down:
	tests/testhost down up

test: setup build
	tests/run-tests $(T)

test-full: setup build
	HEAVY=1 tests/run-tests $(T)
	@[ -n "$(T)" ] || $(MAKE) test-debian

test-gitea: setup build
	tests/gitea-real

test-console: setup build
	tests/console/run $(T)

test-schemathesis: setup build
	tests/schemathesis/run

bench: setup build
	tests/bench/run

soak: setup build
	tests/soak/run

lint:
	tests/lint

deb: setup build
	@tests/setup packages
	@packaging/deb

test-debian: deb
	@tests/debian

# Programs of Debian that are missing, and pi with its node.
setup:
	@tests/setup
	@packaging/runtime/fetch .build/runtime

# The helper on its own: together with the rest its crates would get features that it does not ask for.
build:
	@cargo build --quiet --release -p pi-gateway-helper
	@cargo build --quiet --release -p pi-gateway -p pi-gateway-upstream
	@cargo build --quiet --release -p pi-gateway-gitea

clean:
	rm -rf .build target
