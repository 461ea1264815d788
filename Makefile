# Everything that is done to this tree by hand or by CI, one target each. The
# targets set up what they need themselves; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null),devel)
BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false

# Programs that the driver runs, and more that the tests do.
RUN_PROGRAMS := mkfs.btrfs mkfs.xfs mkfs.ext4 e2fsck resize2fs
TEST_PROGRAMS := $(RUN_PROGRAMS) losetup mount unshare xfs_db dumpe2fs gcc git promtool

# A real database and its load, and what measures disks.
DATABASE_PROGRAMS := mariadbd mariadb sysbench
BENCH_PROGRAMS := $(TEST_PROGRAMS) $(DATABASE_PROGRAMS) fio

# Programs of the test cluster, beside those that it builds.
CLUSTER_PROGRAMS := $(TEST_PROGRAMS) containerd runc /usr/lib/cni/bridge busybox ip

# The name that the manifests have.
IMAGE ?= ghcr.io/holdfast-csi/holdfast:v0.1.0

# The newest of 1.34 that can be had as a Go module; 1.36 is in test/cluster. It is not
# in .ci/run: its programs share no package with those of 1.36, and take thirteen minutes of
# processor time to build.
OLD_KUBERNETES := v1.34.4

GOLANGCI_VERSION := v2.15.0
LINTER := bin/tools/golangci-lint-$(GOLANGCI_VERSION)
GOVULNCHECK_VERSION := v1.8.0
GOVULNCHECK := bin/tools/govulncheck-$(GOVULNCHECK_VERSION)
SYFT_VERSION := v1.54.0
SYFT := bin/tools/syft-$(SYFT_VERSION)

FUZZTIME ?= 10s
BENCHTIME ?= 1s
BENCH_PAGE ?= docs/reference/performance.md
SCALE_PAGE ?= docs/reference/scale.md

# Upstream's storage tests: which ones, and where the results go.
FOCUS ?=
SKIP ?=
FSTYPE ?= xfs
BINDING ?= WaitForFirstConsumer
PROCS ?= 4
# true lets the disruptive ones log in to the node; they need openssh-server.
NODE_SSH ?= false
EXTERNAL_DIR ?= dist/external-$(FSTYPE)
EXTERNAL_RUNS ?= dist/external-xfs+dist/external-short dist/external-ext4 dist/external-disruptive

.PHONY: help
help: ## print the targets
	@sed -nE 's/^([a-z0-9.-]+):.*## (.*)$$/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s $$'\t' 2>/dev/null || \
	  sed -nE 's/^([a-z0-9.-]+):.*## (.*)$$/  \1: \2/p' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: packages build ## the life of a volume on a throw-away pool, with times (root; installs what it needs)
	@bin/driver demo

.PHONY: demo-recording
demo-recording: packages build ## run the demo and write what it says to docs/pictures, for the README (root)
	@go run ./hack/record -cast docs/pictures/demo.cast -svg docs/pictures/demo.svg -title "make demo" bin/driver demo

.PHONY: build
build: ## bin/driver, a static binary
	@$(BUILD) -ldflags '-X main.version=$(VERSION)' -o bin/driver ./cmd/driver

.PHONY: dev
dev: packages build ## a running driver on a throw-away pool; Ctrl-C removes it (root)
	@hack/dev.sh bin/driver

.PHONY: cluster
cluster: cluster-packages ## a one-node Kubernetes with Holdfast on it; built once, which takes some minutes (root)
	@go run ./hack/cluster up

.PHONY: cluster-down
cluster-down: ## remove every trace of it, volumes included (root)
	@go run ./hack/cluster down

.PHONY: test
test: test-packages bin/summary ## everything that this machine can test without a cluster, counted in the last line
	@mkdir -p dist
	@hack/test.sh unit race root | bin/summary -out dist/test-summary

.PHONY: test-unit
test-unit: bin/summary ## the tests that need nothing but Go
	@hack/test.sh unit | bin/summary

.PHONY: test-race
test-race: test-packages bin/summary ## unit tests under the race detector (needs gcc)
	@hack/test.sh race | bin/summary

.PHONY: test-root
test-root: test-packages bin/summary ## tests on real loop devices and filesystems (root)
	@hack/test.sh root | bin/summary

.PHONY: sanity
sanity: test-packages bin/summary ## csi-sanity against the driver on real pools (root)
	@hack/test.sh sanity | bin/summary

.PHONY: e2e
e2e: cluster-packages bin/summary ## tests on a real Kubernetes; on the cluster that runs, or on one of their own (root)
	@mkdir -p dist
	@hack/e2e.sh | bin/summary -out dist/e2e-summary

.PHONY: e2e-external
e2e-external: cluster-packages ## upstream's storage tests that match FOCUS and not SKIP, PROCS at a time, JUnit in EXTERNAL_DIR; built once, which takes minutes (root)
	@hack/e2e-external.sh -focus '$(FOCUS)' -skip '$(SKIP)' -fstype $(FSTYPE) -binding $(BINDING) -procs $(PROCS) -ssh=$(NODE_SSH) -out $(EXTERNAL_DIR)

.PHONY: e2e-external-short
e2e-external-short: cluster-packages ## a selection of them, a few of each kind, some ten minutes (root)
	@hack/e2e-external.sh -selection test/e2e/external/short.txt -stress 4 -procs $(PROCS) -out dist/external-short

.PHONY: conformance
conformance: ## write docs/reference/conformance.md from what the runs in EXTERNAL_RUNS left
	@go run ./test/e2e/external page $(EXTERNAL_RUNS)

.PHONY: e2e-1.34
e2e-1.34: cluster-packages bin/summary ## the chart on the oldest Kubernetes that can be built, from install to uninstall; builds that first (root)
	@mkdir -p dist
	@HOLDFAST_KUBERNETES=$(OLD_KUBERNETES) E2E_ARGS='-run TestTheChartFromInstallToUninstall' hack/e2e.sh | bin/summary -out dist/e2e-1.34-summary

.PHONY: figures
figures: cluster-packages bin/summary ## measure a pod's start on a real Kubernetes and write docs/reference/start.md (root)
	@HOLDFAST_E2E_FIGURES=$(CURDIR)/docs/reference/start.md E2E_ARGS='-v -run TestTheDriversShareOfAStart' hack/e2e.sh | bin/summary

.PHONY: fault
fault: test-packages bin/summary ## kill the driver at every step of every operation (root)
	@hack/test.sh fault | bin/summary

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10s)
	@FUZZTIME=$(FUZZTIME) hack/fuzz.sh

.PHONY: bench
bench: bench-packages build ## measure the driver, some 35 minutes, and write BENCH_PAGE and its plots; BENCH_QUICK=1: a short try (root)
	@CGO_ENABLED=0 HOLDFAST_ROOT_TESTS=1 HOLDFAST_BENCH=$(abspath $(BENCH_PAGE)) HOLDFAST_BENCH_QUICK=$(BENCH_QUICK) go test -count=1 -v -timeout 60m ./test/bench

.PHONY: scale
scale: test-packages ## a thousand volumes and 5,000 snapshots, in a pool of each kind; writes SCALE_PAGE (docs/reference/scale.md; root)
	@CGO_ENABLED=0 HOLDFAST_ROOT_TESTS=1 HOLDFAST_SCALE=$(abspath $(SCALE_PAGE)) go test -count=1 -v -timeout 90m -run TestAThousandVolumes ./test/scale

.PHONY: bench-parts
bench-parts: test-packages ## the benchmarks of single packages, for BENCHTIME (1s) each (root)
	@CGO_ENABLED=0 HOLDFAST_ROOT_TESTS=1 go test -run '^$$' -bench . -benchtime $(BENCHTIME) -p 1 -timeout 60m \
	  $$(grep -rlE '^func Benchmark' --include='*_test.go' cmd pkg test | xargs -n1 dirname | sort -u | sed 's#^#./#')

.PHONY: lint
lint: $(LINTER) ## golangci-lint, built here once
	@$(LINTER) run --timeout 20m

.PHONY: verify
verify: $(LINTER) build ## formatting, vet, lint, documents against the code, manifests against the chart, go.mod, static binary
	@hack/verify.sh $(LINTER) bin/driver

.PHONY: manifests
manifests: ## deploy/kustomize and the reference of values, from the Helm chart
	@go run ./hack/manifests

.PHONY: image
image: build ## dist/holdfast-image.tar, a container image made without a container engine (root)
	@hack/image-rootfs.sh bin/driver dist/rootfs
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 0)} go run ./hack/archive -rootfs dist/rootfs -tag $(IMAGE) -out dist/holdfast-image.tar

.PHONY: reproducible
reproducible: ## build driver and image twice, in different directories, and compare (root)
	@hack/reproducible.sh

.PHONY: sbom
sbom: $(SYFT) image ## what is in the driver and in the image, as dist/*.spdx.json and dist/*.cdx.json (root)
	@hack/sbom.sh $(SYFT) bin/driver dist/holdfast-image.tar dist

.PHONY: vulncheck
vulncheck: $(GOVULNCHECK) ## known holes in what the driver calls; GOVULNDB names another database
	@hack/vulncheck.sh $(GOVULNCHECK) || [ $$? -eq 77 ]

.PHONY: licenses
licenses: ## the licences of everything in the driver; fails if one is not allowed
	@go run ./hack/licenses

.PHONY: supply-chain
supply-chain: $(SYFT) $(GOVULNCHECK) ## all four, counted in the last line (root)
	@hack/supply-chain.sh dist/supply-chain-summary hack/reproducible.sh "hack/sbom.sh $(SYFT) bin/driver dist/holdfast-image.tar dist" \
	  "hack/vulncheck.sh $(GOVULNCHECK)" "go run ./hack/licenses"

.PHONY: clean
clean: ## remove what was built
	@rm -rf bin dist

.PHONY: packages test-packages bench-packages cluster-packages
packages:
	@hack/install-packages.sh $(RUN_PROGRAMS)
test-packages:
	@hack/install-packages.sh $(TEST_PROGRAMS) $(DATABASE_PROGRAMS)
bench-packages:
	@hack/install-packages.sh $(BENCH_PROGRAMS)

cluster-packages:
	@hack/install-packages.sh $(CLUSTER_PROGRAMS)

.PHONY: bin/summary
bin/summary:
	@$(BUILD) -o $@ ./test/summary

$(LINTER):
	@echo "building golangci-lint $(GOLANGCI_VERSION); the first time this takes some minutes"
	@GOBIN=$(CURDIR)/bin/tools CGO_ENABLED=0 go install -trimpath github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv bin/tools/golangci-lint $@

$(GOVULNCHECK):
	@GOBIN=$(CURDIR)/bin/tools CGO_ENABLED=0 go install -trimpath golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	@mv bin/tools/govulncheck $@

$(SYFT):
	@echo "building syft $(SYFT_VERSION); the first time this takes some minutes"
	@GOBIN=$(CURDIR)/bin/tools CGO_ENABLED=0 go install -trimpath github.com/anchore/syft/cmd/syft@$(SYFT_VERSION)
	@mv bin/tools/syft $@
