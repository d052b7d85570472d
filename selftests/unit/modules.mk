# SPDX-License-Identifier: GPL-2.0
# The modules and their fakes as static libraries of the host: lib<part>.a in
# $(out) for the parts base, kho, luo, memfd, fdbox, kvm, iommu and vfio. For the Makefiles of unit/ and
# fuzz/, which say with what $(CXX) and $(sanitize).

root := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))../..)
unit := $(root)/selftests/unit
out := $(abspath $(BUILD))
Q := $(if $(V),,@)
# On its own, make uses all CPUs. What came from a parent is in the environment.
ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS) $(shell echo "$$MAKEFLAGS")),)
MAKEFLAGS += -j$(shell nproc)
endif

modules := kho luo memfd fdbox kvm iommu vfio
name-kho := kho
name-luo := luo
name-memfd := luo_memfd
name-fdbox := fdbox
name-kvm := luo_kvm
name-iommu := luo_iommu
name-vfio := luo_vfio

warnings := -Wall -Wextra -Werror -Wnon-virtual-dtor -Woverloaded-virtual -Wno-psabi
flags := -std=gnu++23 -g -O1 -fno-omit-frame-pointer $(warnings) -D_GLIBCXX_ASSERTIONS \
	$(sanitize) -fno-sanitize-recover=all \
	-I$(root) -I$(root)/include -I$(unit) -I$(unit)/fake $(CXXFLAGS)
module-flags := -fno-exceptions -fno-rtti -fno-threadsafe-statics -Wframe-larger-than=4096
libs := -lfdt -pthread

# In the kernel each module has its own THIS_MODULE.
this-module = -Dlinux_this_module=$(1)_this_module -DFERRY_MODULE='"$(name-$(1))"'

# What a program named after a module is linked with: <module>_something.
with-kho := base kho
with-luo := base kho luo
with-memfd := base kho luo memfd
with-fdbox := base kho luo fdbox
with-kvm := base kho luo kvm
with-iommu := base kho luo iommu
with-vfio := base kho luo vfio
archives-of = $(patsubst %,$(out)/lib%.a,$(or $(with-$(firstword $(subst _, ,$(1)))),base))

# unit.cc is Kbuild's.
sources = $(filter-out %/unit.cc,$(wildcard $(root)/$(1)/*.cc))
objects = $(patsubst $(root)/%.cc,$(out)/%.o,$(call sources,$(1))) \
	$(patsubst $(unit)/%.cc,$(out)/%.o,$(wildcard $(unit)/fake/$(1).cc))

define module-rule
$(out)/$(1)/%.o: $(root)/$(1)/%.cc $(out)/flags
	@mkdir -p $$(@D)
	$$(Q)$$(CXX) $$(flags) $$(module-flags) $(call this-module,$(1)) -MMD -MP -c -o $$@ $$<
endef
$(foreach module,$(modules),$(eval $(call module-rule,$(module))))

define archive-rule
$(out)/lib$(1).a: $(call objects,$(1)) $(out)/files
	@rm -f $$@
	$$(Q)ar rcs $$@ $$(filter %.o,$$^)
endef
$(foreach part,base $(modules),$(eval $(call archive-rule,$(part))))

$(out)/fake/%.o: $(unit)/fake/%.cc $(out)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) $(flags) $(call this-module,$*) -MMD -MP -c -o $@ $<

$(out)/%.o: %.cc $(out)/flags
	@mkdir -p $(@D)
	$(Q)$(CXX) $(flags) $(test-flags) -MMD -MP -c -o $@ $<

# Everything is built anew when the compiler or a flag changes, and the archives
# when the list of files does.
define changed-rule
$(out)/$(1): FORCE
	@mkdir -p $(out)
	@echo '$(subst ','\'',$(2))' | cmp -s - $$@ || echo '$(subst ','\'',$(2))' > $$@
endef
$(eval $(call changed-rule,flags,$(CXX) $(flags) $(module-flags) $(test-flags)))
$(eval $(call changed-rule,files,$(foreach part,base $(modules),$(call objects,$(part)))))
.PHONY: FORCE
FORCE:
.DELETE_ON_ERROR:
.SECONDARY:

-include $(wildcard $(out)/*.d $(out)/*/*.d)
