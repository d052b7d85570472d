# SPDX-License-Identifier: GPL-2.0
# C++ in Kbuild: a module's .cc files become one object, FOLDER/unit.o.
#
# One object, because a function that is emitted in two objects of a module (an
# inline one, a template) is discarded from one of them, and the tables that
# ftrace and objtool keep about it then point nowhere.
#
# Every flag comes from the kernel's own $(c_flags), less those that only C
# takes, so that whatever this kernel is built with (thunks, IBT, kCFI, KASAN,
# ftrace, ...) holds for C++ as well. The compiler is $(CC) with -x c++.

# ---- flags ----

cxx-c-only := -std=% -nostdinc $(LINUXINCLUDE) \
	-include %/compiler_types.h %/compiler-version.h %/kconfig.h \
	-Wstrict-prototypes -Werror=strict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wdeclaration-after-statement -Wno-declaration-after-statement \
	-Werror=implicit-function-declaration -Werror=implicit-int \
	-Werror=incompatible-pointer-types -Wno-incompatible-pointer-types% \
	-Werror=designated-init -Wno-override-init -Wno-initializer-overrides \
	-Wno-pointer-sign -Wno-discarded-qualifiers -Wno-unterminated-string-initialization \
	-Wno-default-const-init-unsafe -fms-extensions -fms-anonymous-structs \
	-Wno-microsoft-anon-tag -fplugin-arg-randomize% \
	-Wno-format-overflow-non-kprintf -Wno-format-truncation-non-kprintf -fmin-function-alignment=%

# clang refuses any mention of long double, as in <limits>, without the x87.
# gcc does not, and so catches what would use it.
cxx-c-only += $(if $(CONFIG_CC_IS_CLANG),-mno-80387 -mno-fp-ret-in-387)

# The compiler's own headers and libstdc++'s, as the compiler says, without
# those of the C library.
cxx-incdirs := $(shell $(CC) -x c++ -E -v - </dev/null 2>&1 >/dev/null | \
	sed -n '/^.include </,/^End/{s/^ //p}' | grep -E '/c\+\+/|/gcc/|/clang/' | grep -v '/backward$$')

# pahole cannot encode C++ and then fails the module: no DWARF for C++ where
# there is BTF. The types that C shares with it are there from C.
cxx-no-dwarf := $(if $(CONFIG_DEBUG_INFO_BTF_MODULES),-g0)

cxx-flags = $(filter-out $(cxx-c-only),$(c_flags)) \
	-nostdinc -nostdinc++ -ffreestanding -std=gnu++23 \
	-fno-exceptions -fno-rtti -fno-threadsafe-statics -fno-use-cxa-atexit \
	-fno-asynchronous-unwind-tables -fno-unwind-tables $(call cc-option,-fno-gnu-unique) \
	$(call cc-option,-fmin-function-alignment=16) \
	-D_GLIBCXX_ASSERTIONS \
	-Wall -Wextra -Wnon-virtual-dtor -Woverloaded-virtual -Wno-psabi \
	-Werror=unused-result -Wframe-larger-than=2048 \
	$(if $(CONFIG_CC_IS_CLANG),-Werror=global-constructors -Werror=exit-time-destructors) \
	$(cxx-no-dwarf) \
	-I$(src) -I$(obj) -isystem $(src)/include/ferry/freestanding \
	$(addprefix -isystem ,$(cxx-incdirs)) -DFERRY_MODULE='"$(cxx-module)"'

# ---- rules ----

# The loader runs dynamic initialisers on some kernels only (those with KASAN),
# and destructors on none; unwind tables mean that exceptions came in.
# KASAN's own constructors make the check impossible there; other kernels do it.
cmd_cxx_no_initialisers = ; if $(OBJDUMP) -h $@ | \
	grep -E ' \.(init_array|ctors|fini_array|dtors|eh_frame|gcc_except_table)'; then \
		echo "$(@:.o=.cc): dynamic initialisers or unwind tables; use constinit" >&2; \
		rm -f $@; exit 1; fi

quiet_cmd_cxx_o_cc = CXX $(quiet_modtag) $@
      cmd_cxx_o_cc = $(CC) -x c++ $(cxx-flags) -c -o $@ $< \
		$(if $(CONFIG_CONSTRUCTORS),,$(cmd_cxx_no_initialisers)) \
		$(cmd_ld_single) $(cmd_objtool)

define rule_cxx_o_cc
	$(call cmd_and_fixdep,cxx_o_cc)
	$(call cmd,gen_objtooldep)
endef

filechk_cxx_unit = printf '\#include "%s"\n' $(cxx-files)

# $(call cxx-unit,FOLDER,MODULE): FOLDER/unit.o from the files in MODULE-cc
define cxx-unit
targets += $(1)/unit.o $(1)/unit.cc
clean-files += $(1)/unit.cc
$(obj)/$(1)/unit.cc: private cxx-files := $($(2)-cc)
$(obj)/$(1)/unit.cc: FORCE
	$$(call filechk,cxx_unit)
$(obj)/$(1)/unit.o: private cxx-module := $(2)
$(obj)/$(1)/unit.o: $(obj)/$(1)/unit.cc $(obj)/layout.h FORCE
	$$(call if_changed_rule,cxx_o_cc)
endef

# Sizes of kernel types for this very kernel, by the mechanism of asm-offsets.
targets += scripts/layout.s layout.h
clean-files += layout.h
$(obj)/layout.h: $(obj)/scripts/layout.s FORCE
	$(call filechk,offsets,FERRY_LAYOUT_H)
