// SPDX-License-Identifier: GPL-2.0
/* Sizes of the kernel types that C++ embeds; becomes layout.h. */
#include <linux/kbuild.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>

#define LAYOUT(type)						\
	DEFINE(FERRY_SIZEOF_##type, sizeof(struct type));	\
	DEFINE(FERRY_ALIGNOF_##type, __alignof__(struct type))

int main(void)
{
	LAYOUT(mutex);
	LAYOUT(rw_semaphore);
	LAYOUT(lock_class_key);
	return 0;
}
