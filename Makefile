# flannel-lite: `make` builds dist/flannel-lite on a fresh Debian machine, installing what it needs.
# Every target may be run again; nothing is installed that is already there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

BUN := node_modules/.bin/bun
ADDON := dist/flannel-lite.node
BINARY := dist/flannel-lite
ETCD := dist/tools/etcd/usr/bin/etcd
MACHINE_ARCH := $(shell dpkg --print-architecture 2>/dev/null)
KUBE_NODES := dist/tools/kube-nodes
SOURCES := $(shell find src deploy/systemd -type f) package.json tsconfig.json
NATIVE_SOURCES := $(shell find native -path native/target -prune -o -type f -print)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT_INSTALL = $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends

# Arguments for the demo: make demo DEMO_ARGS="--engines userspace,kernel,userspace --json"
DEMO_ARGS ?=
# Arguments for the bench: make bench BENCH_ARGS="--quick --json"
BENCH_ARGS ?=
# What the image is made for, and of: the Debian release that the program was built on, since it needs that libc.
ARCH ?= $(MACHINE_ARCH)
IMAGE := dist/flannel-lite-image$(if $(filter-out $(MACHINE_ARCH),$(ARCH)),-$(ARCH)).tar
IMAGE_PROGRAM := $(if $(filter-out $(MACHINE_ARCH),$(ARCH)),dist/$(ARCH)/dist/flannel-lite,$(BINARY))
IMAGE_SUITE ?= $(shell . /etc/os-release && echo $$VERSION_CODENAME)
IMAGE_MIRROR ?=
# Labels of the image: the address of its sources, none by default, and their commit.
IMAGE_SOURCE ?=
IMAGE_REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
# The date of all files in the image, so that the same commit and packages give the same bytes.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
# How long to soak: make soak SOAK_MINUTES=30
SOAK_MINUTES ?= 30

.PHONY: build
build: $(BINARY) ## compile dist/flannel-lite (the default)

.PHONY: demo
demo: ## build, then join three hosts in network namespaces and measure every pair (DEMO_ARGS="...")
	@$(MAKE) --no-print-directory $(BINARY) $(if $(findstring etcd,$(DEMO_ARGS)),$(ETCD)) >&2
	@$(call need,ping,iputils-ping) >&2
	@$(call need,ip,iproute2) >&2
	@$(SUDO) $(BINARY) demo $(DEMO_ARGS)

.PHONY: bench
bench: ## build, then measure the engines in network namespaces (BENCH_ARGS="--quick --json"; FLANNELD_BIN=... as a peer)
	@$(MAKE) --no-print-directory $(BINARY) $(ETCD) $(KUBE_NODES) >&2
	@$(call need,ip,iproute2) >&2
	@$(call need,ping,iputils-ping) >&2
	@$(call need,ethtool,ethtool) >&2
	@$(call need,iperf3,iperf3) >&2
	@{ $(call need,wireguard-go,wireguard-go) && $(call need,tincd,tinc); } >&2 || echo "without wireguard-go or tinc: their rows are left out" >&2
	@$(SUDO) env "PATH=$$PATH" "KUBE_NODES_BIN=$(abspath $(KUBE_NODES))" $(if $(FLANNELD_BIN),"FLANNELD_BIN=$(FLANNELD_BIN)") $(BINARY) bench $(BENCH_ARGS)

.PHONY: image
image: $(IMAGE) ## a container image, dist/flannel-lite-image.tar, without a Docker engine (ARCH=arm64; docs/container.md)

.PHONY: test
test: $(BINARY) $(ETCD) $(IMAGE) ## install what is needed, run all tests; ends with "N passed, N failed"
	@$(call need,ping,iputils-ping)
	@$(call need,ip,iproute2)
	@$(call need,ethtool,ethtool)
	@$(call need,tcpdump,tcpdump)
	@$(call need,iptables-legacy,iptables)
	@$(call need,nft,nftables)
	@$(call need,openssl,openssl)
	@$(call need,ps,procps)
	@$(call need,curl,curl)
	@$(call need,iperf3,iperf3)
	@$(call need,systemctl,systemd)
	@$(call need,ansible-playbook,ansible-core)
	@$(call need,python3,python3-minimal)
	@$(call need,runc,runc)
	@$(call need_file,/usr/lib/cni/bridge,containernetworking-plugins)
	@$(call need_file,/usr/share/containers/seccomp.json,golang-github-containers-common)
	@$(SUDO) env "PATH=$$PATH" $(BUN) test/run.ts

.PHONY: profile
profile: $(BINARY) ## where the time goes in the userspace engine, by perf (docs/performance/profile.md)
	@$(call need,perf,linux-perf)
	@$(call need,ip,iproute2)
	@$(call need,ethtool,ethtool)
	@$(call need,iperf3,iperf3)
	@$(SUDO) env "PATH=$$PATH" $(BUN) test/profile/packets.ts

.PHONY: cnistart
cnistart: $(BINARY) ## how long the CNI plugin takes to start, against stock plugins (FLANNEL_CNI_BIN=... for flannel's)
	@$(call need_file,/usr/lib/cni/bridge,containernetworking-plugins)
	@$(BUN) test/profile/cni-start.ts

.PHONY: soak
soak: $(BINARY) $(ETCD) ## traffic, churn and faults for SOAK_MINUTES (30), the lease store killed 200 times; nothing may leak, stall, break or be lost
	@$(call need,ping,iputils-ping)
	@$(call need,ip,iproute2)
	@$(SUDO) env "PATH=$$PATH" SOAK_MINUTES=$(SOAK_MINUTES) $(BUN) test ./test/soak/store.ts ./test/soak/overlay.ts

# The programs that suites of test/interop/run.ts need, by path.
FLANNELD_BIN ?=
FLANNEL_CNI_BIN ?=
KUBE_APISERVER_BIN ?=
HELM_BIN ?=
KUBECTL_BIN ?=
# A directory: flannel's own sources, with its manifest and its chart.
FLANNEL_SOURCES ?=

.PHONY: interop
interop: $(BINARY) $(ETCD) ## tests with programs that are not ours: make interop FLANNELD_BIN=/path/to/flanneld FLANNEL_CNI_BIN=... KUBE_APISERVER_BIN=... HELM_BIN=...
	@$(call need,ping,iputils-ping)
	@$(call need,ip,iproute2)
	@$(call need,iptables-legacy,iptables)
	@$(call need,nft,nftables)
	@$(call need,systemctl,systemd)
	@$(call need,openssl,openssl)
	@$(call need,curl,curl)
	@$(SUDO) env "PATH=$$PATH" "FLANNELD_BIN=$(FLANNELD_BIN)" "FLANNEL_CNI_BIN=$(FLANNEL_CNI_BIN)" "KUBE_APISERVER_BIN=$(KUBE_APISERVER_BIN)" \
	  "HELM_BIN=$(HELM_BIN)" "KUBECTL_BIN=$(KUBECTL_BIN)" "FLANNEL_SOURCES=$(FLANNEL_SOURCES)" $(BUN) test/interop/run.ts

.PHONY: check
check: $(BINARY) ## formatting, types and lints of both languages
	$(BUN) fmt --check src test
	$(BUN) check
	node_modules/.bin/tsc --noEmit
	node_modules/.bin/biome lint src test
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy rustfmt
	cd native && cargo fmt --check
	cd native && cargo clippy --release --all-targets --locked -- -D warnings

.PHONY: fmt
fmt: node_modules/.package-lock.json ## format both languages
	$(BUN) fmt src test
	cd native && cargo fmt

.PHONY: example
example: node_modules/.package-lock.json ## write config.toml.example and docs/flags.md from the schema
	$(BUN) src/config/write-example.ts

.PHONY: manifests
manifests: node_modules/.package-lock.json ## write deploy/kubernetes/flannel-lite.yml and the goldens from the chart (HELM_BIN=/path/to/helm)
	@test -x "$(HELM_BIN)" || { echo "HELM_BIN must name helm, version 3" >&2; exit 1; }
	$(HELM_BIN) template flannel deploy/helm/flannel-lite --namespace kube-flannel --set lite.createNamespace=true \
	  | sed '/^# Source: /d' > deploy/kubernetes/flannel-lite.yml
	UPDATE_GOLDEN=1 HELM_BIN=$(HELM_BIN) $(BUN) test ./test/interop/helm.test.ts

.PHONY: docs
docs: node_modules/.package-lock.json ## write docs/metrics.md from the list of metrics
	$(BUN) src/status/write-metrics-doc.ts

.PHONY: clean
clean: ## remove everything that was built
	rm -rf dist native/target

.PHONY: help
help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 12

BUNDLE = build --compile --splitting --minify-whitespace --minify-syntax --bytecode --format=esm --sourcemap=inline \
  --define process.env.NODE_ENV='"production"' --no-compile-autoload-dotenv --no-compile-autoload-bunfig

# No file of the current directory is read at run time, and names stay whole in traces (--production would
# shorten them, so NODE_ENV is defined instead). Split, so that the CNI plugin's start loads no more than the plugin;
# the maps beside the program are in it too. Never strip the result: it would lose the program.
$(BINARY): $(SOURCES) $(ADDON) node_modules/.package-lock.json
	$(BUN) $(BUNDLE) src/main.ts --outfile $@
	rm -f dist/*.js.map

$(ADDON): $(NATIVE_SOURCES)
	@native/ensure-rust.sh
	cd native && cargo build --release --locked
	mkdir -p dist
	cp native/target/release/libflannel_lite_native.so $@

# The same for arm64 on another machine. The sources are copied, since they name the addon by its place beside them.
ARM64 := aarch64-unknown-linux-gnu
dist/arm64/dist/flannel-lite: $(SOURCES) $(NATIVE_SOURCES) node_modules/.package-lock.json
	@$(call need,aarch64-linux-gnu-gcc,gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
	@native/ensure-rust.sh
	@command -v rustup >/dev/null || { echo "for arm64 cargo must be rustup's, which has the libraries for it" >&2; exit 1; }
	rustup target add $(ARM64)
	cd native && CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc cargo build --release --locked --target $(ARM64)
	rm -rf dist/arm64
	mkdir -p dist/arm64/dist
	cp native/target/$(ARM64)/release/libflannel_lite_native.so dist/arm64/dist/flannel-lite.node
	cp -r src deploy package.json tsconfig.json dist/arm64
	ln -s ../../node_modules dist/arm64/node_modules
	cd dist/arm64 && $(BUN) $(BUNDLE) --target=bun-linux-arm64 src/main.ts --outfile dist/flannel-lite

# `install` with the lockfile, not `ci`: that one fails where a registry lacks packages for other platforms.
node_modules/.package-lock.json: package.json package-lock.json
	@$(call need,npm,npm)
	npm install --no-save --no-fund --no-audit
	@$(BUN) --version >/dev/null || node node_modules/bun/install.js
	@touch $@

# Debian's part is kept until it is asked for anew (make clean): what changes daily is the program.
dist/image/$(ARCH)/base.tar: deploy/image/base-layer.sh deploy/image/finish-root.sh
	@$(call need,mmdebstrap,mmdebstrap)
	mkdir -p $(@D)
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) deploy/image/base-layer.sh $@ $(ARCH) $(IMAGE_SUITE) $(IMAGE_MIRROR)

# The names are those by which kube-flannel's manifests call flannel's images.
dist/image/$(ARCH)/program.tar: $(IMAGE_PROGRAM)
	rm -rf $(@D)/program
	mkdir -p $(@D)/program/usr/local/bin $(@D)/program/opt/bin
	ln $< $(@D)/program/usr/local/bin/flannel-lite
	ln -s /usr/local/bin/flannel-lite $(@D)/program/flannel
	for name in flanneld install-conf mk-docker-opts.sh; do ln -s /usr/local/bin/flannel-lite $(@D)/program/opt/bin/$$name; done
	$(REPRODUCIBLE_TAR) -cf $@ -C $(@D)/program flannel opt usr

$(IMAGE): dist/image/$(ARCH)/base.tar dist/image/$(ARCH)/program.tar src/image/layout.ts src/image/write-image.ts
	rm -rf dist/image/$(ARCH)/layout
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) IMAGE_SOURCE="$(IMAGE_SOURCE)" IMAGE_REVISION="$(IMAGE_REVISION)" \
	  $(BUN) src/image/write-image.ts dist/image/$(ARCH)/layout $(ARCH) dist/image/$(ARCH)/base.tar dist/image/$(ARCH)/program.tar
	$(REPRODUCIBLE_TAR) -cf $@ -C dist/image/$(ARCH)/layout oci-layout index.json manifest.json blobs

REPRODUCIBLE_TAR = tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@$(SOURCE_DATE_EPOCH)

# The test suite's API server, with many nodes, as a program for the bench.
$(KUBE_NODES): test/support/kube-nodes.ts test/support/kube-api.ts node_modules/.package-lock.json
	mkdir -p $(@D)
	$(BUN) build --compile test/support/kube-nodes.ts --outfile $@

# Unpacked, not installed: installing the package would start a service.
$(ETCD):
	mkdir -p dist/tools
	@command -v apt-get >/dev/null || { echo "put etcd and etcdctl into PATH, or into dist/tools/etcd/usr/bin" >&2; exit 1; }
	$(SUDO) apt-get update -qq
	cd dist/tools && apt-get download etcd-server etcd-client && for deb in etcd-*.deb; do dpkg -x "$$deb" etcd; done

# $(call need,PROGRAM,PACKAGE): installs PACKAGE where PROGRAM is missing.
need = command -v $(1) >/dev/null || { echo "installing $(2)"; $(APT_INSTALL) $(2); }

# $(call need_file,PATH,PACKAGE): the same for what is not in PATH.
need_file = test -e $(1) || { echo "installing $(2)"; $(APT_INSTALL) $(2); }
