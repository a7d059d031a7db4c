# What there is to do with a checkout: `make help`. Every target does its own set-up.
#
# KERNEL=7.2, 7.3, 7.2.12 ...  the VM's kernel; default: the newest 7.x of Debian's archive
# FLAVOUR=amd64                with more drivers than cloud-amd64, DRM's vgem among them
# KERNEL_IMAGE=, KDIR=         a kernel of one's own: image and built tree (see selftests/vm/run)
# ACCEL=kvm or tcg             instead of finding out
# NO_INSTALL=1                 say which packages are missing, and install none
# PREFIX=/usr/local, DESTDIR=  where `make install` puts things; BIN=DIR with binaries that are built already

.DEFAULT_GOAL := help
.NOTPARALLEL:

vm := selftests/vm
cargo := $(vm)/cargo
# This machine's own, wherever it came from.
own_cargo := PATH="$$PATH:$${CARGO_HOME:-$$HOME/.cargo}/bin" cargo
triple := x86_64-unknown-linux-gnu
# Static binaries run in any guest. A target directory of their own: other
# flags would have cargo build everything anew each time.
static := CARGO_TARGET_DIR=target/static RUSTFLAGS='-C target-feature=+crt-static' \
	$(cargo) build --release --target $(triple)

PREFIX ?= /usr/local
BIN ?= target/static/$(triple)/release

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: vm-ready ## 256 MiB of TCP into a dmabuf through a leased queue, in the VM
	@$(vm)/run -- env $(foreach v,DEMO_SIZE STRACE,$(if $($v),$v=$($v))) /host/demo

# DRIVER=mlx5, gve, bnxt, ice, fbnic: receive, NIC, doctor and lease cases in the VM, with the
# software NIC behaving as one of that driver's (selftests/swnic/DRIVERS.md).
test: $(if $(DRIVER),,test-host) test-vm ## all tests: on this machine, then in the VM; DRIVER=mlx5: with that driver's behaviour

test-host: setup ## the tests that need no VM
	$(cargo) test --workspace --locked
	@selftests/upstream/table.test
	$(cargo) build --locked -p devmem-tcp -p ncdevmem
	@tools/dist/install.test target/debug

# Apart from the tests: another rustfmt or clippy than ours may see things differently.
lint: setup ## format, lints, documentation, shell scripts, the PTX assembled, the public API as in crates/*/api.txt
	$(cargo) fmt --all --check
	$(cargo) fmt --manifest-path selftests/api/Cargo.toml --check
	$(cargo) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(cargo) doc --workspace --no-deps --locked
	@selftests/api/run --where-possible
	@$(vm)/setup shellcheck
	@.ci/shellcheck
	@selftests/ptx/run --assemble

oldest: setup ## check that all of it builds with the oldest Rust that Cargo.toml names: Debian's, in the VM's root
	$(cargo) --oldest check --workspace --all-targets --locked

api: setup ## write the public API to crates/*/api.txt, where a change of it shows
	@selftests/api/run --update

ptx: ## the GPU kernels' PTX, after a change of crates/cuda/src/kernels; fetches NVIDIA's compiler from PyPI
	@selftests/ptx/run

# Of this machine only cargo and a linker, no package of the VM's.
# FAKE=1 has the fake of the driver do it, which says so; GPU_ARGS=... more options (--help).
gpu: ## what a GPU makes of payload: compared with the processor's work, and measured
	$(own_cargo) build --release --locked -p gpu $(if $(FAKE),-p fakecuda)
	@target/release/gpu --json target/gpu.json \
		$(if $(FAKE),--library target/release/libfakecuda.so --region 64 --batches 300) $(GPU_ARGS)

gpu-kit: ## the same as a folder, target/gpu-kit, to run on a machine that has only NVIDIA's driver
	@selftests/gpu/kit

test-vm: vm-ready test-ready ## selftests in the VM, as KTAP; CASES=word for some of them
	@$(if $(DRIVER),DRIVER=$(DRIVER)) $(vm)/test $(CASES)

test-drivers: vm-ready ## a few cases in the VM, with each driver's behaviour
	@for driver in mlx5 gve bnxt ice fbnic; do DRIVER=$$driver $(vm)/test --brief || exit; done

upstream: vm-ready ## the kernel's own suites in the VM, unmodified; SUITES=word for some of them
	@selftests/upstream/run $(SUITES)

bench: vm-ready ## what receivers cost, ours and others, side by side in the VM; about a quarter of an hour
	@selftests/bench/run

bench-host: ## user space alone: time per frag, validation against memcmp; target/criterion-summary.json
	$(own_cargo) bench --locked -p hostbench --bench receive
	@selftests/bench/host

# DATA=docs/performance/data.json: from the committed figures.
performance-docs: setup ## write docs/performance.md, its figures and pictures from the last run of `make bench`
	@$(cargo) run --quiet --locked -p selftests --bin selftests-bench -- docs --out docs \
		"$(or $(DATA),target/vm/$(or $(KERNEL),$$(cat target/vm/newest))/bench/performance/data.json)" >/dev/null

# RUN="./my-program words": runs that instead of a shell; the file is copied. MINE="./my-program ...": the shell has
# these files in its PATH.
vm: vm-can-run vm-ready ## a shell in the VM, with the NIC, its peer and a container's namespace (leave it with exit); RUN=, MINE=./my-program
	@rm -rf target/guest/mine && mkdir target/guest/mine
	@$(if $(RUN)$(MINE),install -t target/guest/mine $(firstword $(RUN)) $(MINE))
	@$(vm)/run --interactive -- /host/ready $(if $(RUN),/host/mine/$(notdir $(firstword $(RUN))) $(wordlist 2,$(words $(RUN)),$(RUN)))

vm-can-run:
	@for file in $(firstword $(RUN)) $(MINE); do [ -f "$$file" ] || { echo "vm: no file $$file here" >&2; exit 1; }; done
	@$(if $(RUN),,[ -t 0 ] || { echo "vm: a shell wants a terminal; RUN=./script runs a script there" >&2; exit 1; })

build: setup ## static binaries, in target/guest/bin
	$(static) --locked -p devmem-tcp -p ncdevmem -p selftests -p receiver -p memory --bins --examples
	@install -D -t target/guest/bin $(addprefix target/static/$(triple)/release/,devmem-tcp ncdevmem selftests selftests-bench probe-receiver examples/pass \
		$(patsubst crates/receiver/%.rs,%,$(subst /main.rs,.rs,$(wildcard crates/receiver/examples/*.rs crates/receiver/examples/*/main.rs))))
	@strip --strip-debug target/guest/bin/* # a guest reads them anew each time: 20 MB otherwise
	@install -t target/guest selftests/demo selftests/ready

# Not `build`, which strips copies of them.
release: setup
	$(static) --locked -p devmem-tcp -p ncdevmem --bins

install: $(if $(filter file,$(origin BIN)),release) ## tools, man pages, completions, systemd unit; PREFIX=/usr/local, DESTDIR=
	@tools/dist/install install "$(BIN)" "$(DESTDIR)" "$(PREFIX)"

uninstall: ## what install put there
	@tools/dist/install uninstall "$(DESTDIR)" "$(PREFIX)"

dist: release ## all that install puts somewhere, as target/dist/devmem-tcp-VERSION-x86_64.tar.gz
	@tools/dist/install tarball "$(BIN)"

module: setup ## the software NIC for the VM's kernel
	@$(vm)/module

setup: ## install the packages that this takes, if any is missing
	@$(vm)/setup

vm-ready: build module

# What the tests take beside: what plays a GPU's driver, programs that can load it (static ones
# cannot), and the NIC for the kernel that has DRM.
test-ready: setup
	$(cargo) build --locked -p devmem-tcp -p fakecuda
	$(cargo) build --locked -p receiver --example collective
	@install -D -t target/guest/fake target/debug/devmem-tcp target/debug/examples/collective
	@install target/debug/libfakecuda.so target/guest/fake/libcuda.so.1
	@strip --strip-debug target/guest/fake/*
	@FLAVOUR=amd64 $(vm)/module

clean: ## remove what cargo and the module's build made
	rm -rf target/debug target/release target/static target/guest target/vm/*/*/module target/vm/*/*/swnic.ko

distclean: ## remove all of target/, the VM's roots too
	$(vm)/as-root rm -rf target

.PHONY: help demo gpu gpu-kit test test-host test-vm test-drivers upstream bench bench-host performance-docs lint oldest api ptx vm vm-can-run build release install uninstall dist module setup vm-ready test-ready clean distclean
