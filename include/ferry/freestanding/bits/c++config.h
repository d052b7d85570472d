// SPDX-License-Identifier: GPL-2.0
// libstdc++ without a C library below it, and with assertions that trap.
//
// gcc 12 believes that it is hosted even with -ffreestanding; later versions
// ask the flag. An assertion must not call a function that does not return:
// objtool knows only those of the kernel.
#pragma once
#include_next <bits/c++config.h>

#undef _GLIBCXX_HOSTED
#define _GLIBCXX_HOSTED 0
#undef _GLIBCXX_VERBOSE
#define _GLIBCXX_VERBOSE 0
#undef _GLIBCXX_USE_WCHAR_T
#undef _GLIBCXX_HAVE_WCHAR_H
#undef _GLIBCXX_HAVE_MBSTATE_T

#undef __glibcxx_assert
#undef __glibcxx_assert_impl
#define __glibcxx_assert(condition)                                                                \
	do {                                                                                       \
		if (__builtin_expect(!bool(condition), false))                                     \
			__builtin_trap();                                                          \
	} while (false)
#define __glibcxx_assert_impl(condition) __glibcxx_assert(condition)
