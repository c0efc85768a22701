# Each target does its own set-up on Debian and Ubuntu, and says so; Go and make must
# be there.

# What a target needs is there before it is used, whatever -j says.
.NOTPARALLEL:

# The directories of the modules in go.work, and all their packages: the one whose
# tests take longest is built while others are tested, and then has the machine.
MODULES  = $(shell go list -m -f '{{.Dir}}')
ALL      = $(shell go list $(addsuffix /...,$(MODULES)))
ROOT     = github.com/sqlrotate/sqlrotate
PACKAGES = $(filter-out $(ROOT),$(ALL)) $(ROOT)

# The modules for users that require the root.
EXTRAS = mysqlopener otel pgxopener prometheus rdstoken vaultsource

# Those of them that are openers.
OPENERS = mysqlopener pgxopener

# Whoever adds a dependency to the root module has it reviewed, and adds it here.
DEPENDENCIES = github.com/DATA-DOG/go-sqlmock github.com/fsnotify/fsnotify github.com/lib/pq

# What each of these does, in this order.
LINT_STEPS        = format vet golangci modules clone standalone fetch-check cross
SOAK_STEPS        = soak-tests soak-simulator fuzz mutate $(if $(CI),,soak-difftest)
INTEGRATION_STEPS = demo-short difftest integration-recipes vault integration-lint integration-alerts integration-vault integration-kubernetes integration-containers

# Modules outside of go.work: what they depend on is nobody else's.
DIFFTEST    = internal/credfile/difftest
INTEGRATION = $(DIFFTEST) examples/recipes integration integration/alerts integration/kubernetes integration/containers

VAULT_VERSION = $(shell cd integration/vaultbin && GOWORK=off go list -m -f '{{.Version}}' github.com/hashicorp/vault | tr -d v)
VAULT = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sqlrotate/vault-$(VAULT_VERSION)

BENCH     ?= .
BENCHTIME ?= 1s
SOAK      ?= 2m
SOAK_SECONDS = $(shell echo $$(($$(echo '$(SOAK)' | sed 's/h/*3600+/; s/m/*60+/; s/s/+/; s/$$/0/'))))

# Schedules that are soaked begin with this one; without, with another one each time.
# Not in CI: what nobody has changed is found by hand.
SEED ?= $(if $(CI),2000000)

# What runs tests. In CI one that failed for the machine's sake is run once more, and
# REPORT is a file for their names.
RETEST = $(CURDIR)/bin/retest $(if $(CI),-again) $(if $(REPORT),-report=$(REPORT)) -- -race -count=1

# The simulator runs some thousand schedules where the race detector allows for 200, and
# files are read by the million.
RETEST_FAST = $(subst -race ,,$(RETEST))

.PHONY: help demo test lint soak integration bench versions release-check postgres need-test need-integration need-compiler tools $(LINT_STEPS) $(SOAK_STEPS) $(INTEGRATION_STEPS)
.DEFAULT_GOAL = help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: postgres ## watch a login being rotated under three applications; DEMO="-every 1s" adds flags
	@echo "Compiling the demo, which takes a moment, or a minute the first time."
	@go run ./cmd/sqlrotate demo $(DEMO)

# $(call each,STEPS) makes each of them, and says how long it took.
define each
	@total=$$(date +%s); \
	for step in $(1); do \
		echo "== $$step"; start=$$(date +%s); \
		$(MAKE) --no-print-directory $$step || { echo "== $$step: failed"; exit 1; }; \
		echo "== $$step: $$(($$(date +%s) - start)) s"; \
	done; \
	echo "== all: $$(($$(date +%s) - total)) s"
endef

test: need-test bin/retest ## every promise once, with the race detector
	$(RETEST) -p=2 -timeout=30m $(PACKAGES)
	$(RETEST_FAST) -timeout=10m ./internal/rotation/sim

lint: need-compiler tools ## formats, linters, the modules' files, and the root module by itself
	$(call each,$(LINT_STEPS))

soak: need-test bin/retest ## each test named TestSoak... for SOAK=2m, rotations over each opener for a sixth of that, the simulator, and all fuzz tests for as long together; mutants of the rules
	$(call each,$(SOAK_STEPS))

integration: need-integration tools bin/retest ## with a real Vault, which it builds once in 15 min, PgBouncer, promtool, containers, ORMs and the like, the kubelet's writer, and the examples for Kubernetes
	$(call each,$(INTEGRATION_STEPS))

# Rotations over each opener, in turn, are soaked for a sixth of SOAK.
soak-tests:
	SQLROTATE_SEED=$(SEED) SQLROTATE_SOAK=$(SOAK) $(RETEST) -timeout=0 -run=^TestSoak -skip=^TestSoakRotations$$ .
	SQLROTATE_SOAK=$$(($(SOAK_SECONDS) / 6 + 1))s $(RETEST) -p=1 -timeout=0 -run=^TestSoakRotations$$ . $(OPENERS:%=./%)

# It says how many schedules it ran. They are run for a quarter of SOAK.
soak-simulator:
	SQLROTATE_SEED=$(SEED) SQLROTATE_SOAK=$(SOAK) go test -v -count=1 -timeout=0 -run=^TestSoak ./internal/rotation/sim

# It says how many logins were written and read, and how many mutants. Not in CI: each run
# is another one, and finds what nobody has changed.
soak-difftest:
	cd $(DIFFTEST) && GOWORK=off SQLROTATE_SOAK=$(SOAK) go test -v -count=1 -timeout=0 -run=^TestSoak .

# In turn, for SOAK altogether; in CI but for those that look for what other readers read
# otherwise: there it is not the place to find one. (The fuzzer now and then ends with
# "context deadline exceeded" and no input when its time is over: golang/go#48591.)
fuzz:
	@targets=$$(grep -ro --include='*_test.go' $(if $(CI),--exclude-dir=difftest) '^func Fuzz[A-Za-z0-9]*' . | sed 's|/[^/]*:func | |' | sort); \
	each=$$(($(SOAK_SECONDS) / $$(echo "$$targets" | wc -l) + 1)); \
	said=$$(mktemp); trap 'rm -f "$$said"' EXIT; \
	echo "$$targets" | while read -r package target; do \
		echo "$$target in $$package"; case " $(INTEGRATION) " in *" $${package#./} "*) export GOWORK=off;; *) unset GOWORK;; esac; \
		if go test -C $$package -run '^$$' -fuzz "^$$target\$$" -fuzztime $${each}s . >"$$said" 2>&1; then tail -n 3 "$$said"; continue; fi; \
		cat "$$said"; \
		if grep -q 'Failing input written' "$$said" || ! grep -q 'context deadline exceeded' "$$said"; then exit 1; fi; \
	done

# Each rule is changed, in turn, and some test must notice: a minute or two.
mutate:
	go run ./internal/mutate -survivors internal/mutate/survivors.txt ./internal/rotation ./internal/line

bench: postgres ## the benchmarks; BENCH=Connect BENCHTIME=5s choose among them
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem $(PACKAGES)

postgres: ## install PostgreSQL, unless it is there or SQLROTATE_TEST_POSTGRES names a server
	@internal/setup.sh go.work postgres

# What the targets need is named in one line for each of them, and then installed.
need-compiler:
	@internal/setup.sh go.work compiler

need-test:
	@internal/setup.sh go.work postgres mariadb compiler

need-integration:
	@internal/setup.sh go.work integration/kubernetes/go.mod postgres compiler docker pgbouncer promtool references

tools: bin/golangci-lint

# Its own module, built outside the workspace: nobody's dependencies meet a linter's.
bin/golangci-lint: internal/tools/go.mod internal/tools/go.sum
	GOWORK=off go build -C internal/tools -v -o $(CURDIR)/bin/ tool
	@touch $@

# With the race detector because the tests are: nothing is compiled twice.
bin/retest: $(wildcard internal/retest/*.go)
	go build -race -v -o $@ ./internal/retest

format:
	@bad=$$(bin/gofumpt -l .); if [ -n "$$bad" ]; then echo "gofumpt would change:"; echo "$$bad"; exit 1; fi

golangci: # as in .golangci.yml, and staticcheck
	@for dir in $(MODULES); do \
		echo "golangci-lint and staticcheck in $$dir"; \
		(cd $$dir && $(CURDIR)/bin/golangci-lint run --config $(CURDIR)/.golangci.yml ./... && $(CURDIR)/bin/staticcheck ./...) || exit 1; \
	done

vet:
	go vet $(PACKAGES)

# Each module's files are tidy and what they name is what was downloaded; and the
# root module depends on what it is meant to, and on nothing else. (What is for users
# beside it is tidied by fetch-check: it requires a version of the root that may not be
# out yet.)
modules:
	@for dir in $(filter-out $(addprefix $(CURDIR)/,$(EXTRAS)),$(MODULES)) $(CURDIR)/internal/tools; do \
		echo "go.mod in $$dir"; (cd $$dir && GOWORK=off go mod tidy -diff && GOWORK=off go mod verify) || exit 1; \
	done
	@direct=$$(GOWORK=off go list -m -f '{{if not (or .Main .Indirect)}}{{.Path}}{{end}}' all | sort | xargs); \
	if [ "$$direct" != "$(DEPENDENCIES)" ]; then echo "dependencies: $$direct; reviewed: $(DEPENDENCIES)"; exit 1; fi

# Who looks around in a fresh clone changes nothing in it.
clone:
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && git clone -q . "$$dir" && cd "$$dir" && export GOFLAGS=-trimpath && \
	go doc . >/dev/null && go build ./... && go vet ./... && go list -m all >/dev/null && go mod download && \
	changed=$$(git status --porcelain) && if [ -n "$$changed" ]; then echo "changed in a clone:"; git diff; echo "$$changed"; exit 1; fi

# As users get it: the root module by itself, with its own versions of what it uses.
standalone:
	GOWORK=off go build ./...
	GOWORK=off go vet ./...
	GOWORK=off go test -run "File|LibPQ|Postgres|Example|Conform" -skip "^TestSoak" ./...

# The modules as users will fetch them, and README's lines with them.
fetch-check:
	go run ./internal/release fetch

versions: ## write the version that CHANGELOG.md begins with to each go.mod and go.sum
	go run ./internal/release versions

release-check: ## rehearse the release of what is committed, in a clone
	go run ./internal/release rehearse

# Nobody runs them there, but they build, and so do their tests.
cross:
	@for platform in darwin/arm64 windows/amd64; do \
		echo "build and vet for $$platform"; export GOOS=$${platform%/*} GOARCH=$${platform#*/}; \
		go build ./... $(EXTRAS:%=./%/...) && go vet ./... $(EXTRAS:%=./%/...) || exit 1; \
	done

demo-short:
	go run ./cmd/sqlrotate demo -duration 12s -every 3s -overlap 8s

# Its main package, as the module proxy has it. In PATH there may be one already.
vault:
	@if ! command -v vault && [ ! -x "$(VAULT)" ]; then \
		mkdir -p "$(dir $(VAULT))"; \
		GOWORK=off go build -C integration/vaultbin -v -ldflags '-s -w' -o "$(VAULT).new" github.com/hashicorp/vault && mv "$(VAULT).new" "$(VAULT)"; \
	fi

integration-lint:
	@for dir in $(INTEGRATION); do \
		echo "vet, golangci-lint and go.mod in $$dir"; \
		(cd $$dir && export GOWORK=off && go vet ./... && $(CURDIR)/bin/golangci-lint run --config $(CURDIR)/.golangci.yml --disable gomoddirectives ./... && go mod tidy -diff) || exit 1; \
	done

# What is read of files is what others read, and what was written.
difftest:
	cd $(DIFFTEST) && GOWORK=off $(RETEST_FAST) -timeout=30m -skip=^TestSoak ./...

# What people put on top of database/sql, while logins are rotated.
integration-recipes:
	cd examples/recipes && GOWORK=off $(RETEST) -timeout=10m ./...

integration-alerts:
	cd integration/alerts && GOWORK=off $(RETEST) -timeout=10m ./...

integration-vault:
	cd integration && GOWORK=off $(RETEST) -timeout=30m ./...

# The kubelet's writer, and the examples.
integration-kubernetes:
	cd integration/kubernetes && GOWORK=off $(RETEST) -timeout=30m ./...

integration-containers:
	cd integration/containers && GOWORK=off $(RETEST) -timeout=30m ./...
