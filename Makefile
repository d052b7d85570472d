# SPDX-License-Identifier: GPL-2.0
# Ferry. Start with `make help`; Kbuild has the modules' build rules.

FLAVOUR ?= base
BUILD   ?= $(CURDIR)/build
ARGS    ?=
# What check covers: every flavour's self-tests (the first one's in full, see scripts/check).
FLAVOURS ?= base debug

export KVER KERNEL_SRC FERRY_CACHE

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := modules

# KDIR= builds for a kernel of your own (a build directory, or /lib/modules/VERSION/build). Otherwise
# it is the kernel of that flavour in the cache, fetched and built when it is not there yet.
ifdef KDIR
kdir = kdir="$(KDIR)"
else
kdir = scripts/deps && kdir=$$(scripts/kernel build $(FLAVOUR))
endif
# FERRY_TEST=m also builds the modules that only the self-tests need.
kbuild = $(MAKE) -C "$$kdir" M="$(CURDIR)" MO="$(BUILD)/$(FLAVOUR)" $(if $(FERRY_TEST),FERRY_TEST=$(FERRY_TEST))

# --- build -----------------------------------------------------------------------------------------

modules: ## the modules, for KDIR=, or for the cached kernel of FLAVOUR=base|debug
	@$(kdir) && mkdir -p "$(BUILD)/$(FLAVOUR)" && $(kbuild) modules

tools: ## luctl, luod and libliveupdate
	@scripts/deps && $(MAKE) -C tools BUILD="$(BUILD)"

install: modules tools ## install the modules for KDIR= (INSTALL_MOD_PATH=), and the tools (DESTDIR= prefix=)
	@$(kdir) && $(kbuild) modules_install
	@$(MAKE) -C tools install BUILD="$(BUILD)"

uninstall: ## remove what install put there: the same variables
	@$(kdir) && tools/package/remove-modules "$$kdir"
	@$(MAKE) -C tools uninstall BUILD="$(BUILD)"

deb: ## Debian packages of the modules (DKMS) and the tools, in build/deb
	@scripts/deps && $(MAKE) -C tools deb BUILD="$(BUILD)"

kernel: ## the patched kernel of FLAVOUR= in the cache; prints its build directory
	@scripts/deps && scripts/kernel build $(FLAVOUR)

# --- try -------------------------------------------------------------------------------------------

demo: modules ## a live update from start to end, in QEMU
	@scripts/demo $(ARGS)

bench: modules ## where each millisecond of the blackout goes, next to mainline's
	@scripts/bench $(ARGS)

vm: modules ## a shell in the test machine; or ARGS="--stage1 CMD --stage2 CMD"
	@scripts/vm --flavour $(FLAVOUR) $(ARGS)

# --- test ------------------------------------------------------------------------------------------

check: ## every test there is; the last line has the totals
	@scripts/deps && scripts/check $(FLAVOURS)

unit: ## the unit tests, on this machine
	@scripts/deps
	@$(MAKE) -C selftests/unit check BUILD="$(BUILD)/unit"
	@$(MAKE) -C selftests/tools check BUILD="$(BUILD)/unit" TOOLS="$(BUILD)"
	@selftests/run_test.py

fuzz: ## the fuzzers, on this machine (FUZZ_SECONDS=10 each)
	@scripts/deps
	@$(MAKE) -C selftests/unit fuzz BUILD="$(BUILD)/unit"

kselftest: FERRY_TEST = m
kselftest: modules ## the self-tests in QEMU, on FLAVOUR=base|debug; ARGS= go to selftests/run
	@selftests/run $(FLAVOUR) $(ARGS)

soak: FERRY_TEST = m
soak: modules tools ## what takes long: 50 updates in a row, NUMA, on FLAVOUR=base|debug; the Debian packages
	@selftests/run $(FLAVOUR) --soak $(ARGS)
	@$(if $(filter base,$(FLAVOUR)),selftests/tools/packages --all)

style: ## is the code formatted, and are the scripts clean?
	@scripts/deps && scripts/style

tidy: ## clang-tidy, on the modules' C++
	@scripts/deps
	@$(MAKE) -C selftests/unit tidy BUILD="$(BUILD)/unit" -j"$$(nproc)"

# --- clean -----------------------------------------------------------------------------------------

clean: ## remove what was built here
	rm -rf "$(BUILD)"

clean-cache: ## remove the cached kernels, sources and compiler results
	scripts/kernel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo; scripts/kernel help | sed -n '/^environment/,$$p'

.PHONY: modules tools install uninstall deb kernel demo bench vm check unit fuzz kselftest soak style tidy clean clean-cache help
