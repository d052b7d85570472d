/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sizes of the types that C++ embeds; on a kernel they are generated. Here they
 * have room for the checks of fake/base.cc.
 */
#ifndef FERRY_LAYOUT_H
#define FERRY_LAYOUT_H

/*
 * Before ferry/kernel.h declares some of the same functions: the C library's
 * header must come first.
 */
#include <string.h>

#define FERRY_SIZEOF_mutex		128
#define FERRY_ALIGNOF_mutex		8
#define FERRY_SIZEOF_rw_semaphore	128
#define FERRY_ALIGNOF_rw_semaphore	8
#define FERRY_SIZEOF_lock_class_key	8
#define FERRY_ALIGNOF_lock_class_key	1

#endif
