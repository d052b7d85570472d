// SPDX-License-Identifier: GPL-2.0
/* include/ferry/kernel.h in the kernel, for the whole suite. */
/* The name before a line is that of the module that says it. */
#define pr_fmt(fmt) fmt

#include <linux/crc32.h>
#include <linux/ctype.h>
#include <linux/export.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <asm/tsc.h>

#include <ferry/kernel.h>

void *ferry_alloc(size_t bytes)
{
	/* Several MiB may be asked for by a tree; no warning, the caller reports. */
	return kvzalloc(bytes, GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
}
EXPORT_SYMBOL_NS_GPL(ferry_alloc, "FERRY");

void ferry_free(const void *memory)
{
	kvfree(memory);
}
EXPORT_SYMBOL_NS_GPL(ferry_free, "FERRY");

unsigned int ferry_crc32c(unsigned int crc, const void *data, size_t bytes)
{
	return crc32c(crc, data, bytes);
}
EXPORT_SYMBOL_NS_GPL(ferry_crc32c, "FERRY");

void ferry_mutex_init(struct mutex *lock, const char *name, struct lock_class_key *key)
{
	__mutex_init(lock, name, key);
}
EXPORT_SYMBOL_NS_GPL(ferry_mutex_init, "FERRY");

void ferry_mutex_lock(struct mutex *lock)
{
	mutex_lock(lock);
}
EXPORT_SYMBOL_NS_GPL(ferry_mutex_lock, "FERRY");

void ferry_mutex_unlock(struct mutex *lock)
{
	mutex_unlock(lock);
}
EXPORT_SYMBOL_NS_GPL(ferry_mutex_unlock, "FERRY");

void ferry_rwsem_init(struct rw_semaphore *lock, const char *name, struct lock_class_key *key)
{
	__init_rwsem(lock, name, key);
}
EXPORT_SYMBOL_NS_GPL(ferry_rwsem_init, "FERRY");

void ferry_rwsem_read_lock(struct rw_semaphore *lock)
{
	down_read(lock);
}
EXPORT_SYMBOL_NS_GPL(ferry_rwsem_read_lock, "FERRY");

void ferry_rwsem_read_unlock(struct rw_semaphore *lock)
{
	up_read(lock);
}
EXPORT_SYMBOL_NS_GPL(ferry_rwsem_read_unlock, "FERRY");

void ferry_rwsem_write_lock(struct rw_semaphore *lock)
{
	down_write(lock);
}
EXPORT_SYMBOL_NS_GPL(ferry_rwsem_write_lock, "FERRY");

void ferry_rwsem_write_unlock(struct rw_semaphore *lock)
{
	up_write(lock);
}
EXPORT_SYMBOL_NS_GPL(ferry_rwsem_write_unlock, "FERRY");

bool ferry_module_get(struct module *module)
{
	return try_module_get(module);
}
EXPORT_SYMBOL_NS_GPL(ferry_module_get, "FERRY");

void ferry_module_put(struct module *module)
{
	module_put(module);
}
EXPORT_SYMBOL_NS_GPL(ferry_module_put, "FERRY");

unsigned long long ferry_now(void)
{
	return ktime_get_boottime_ns();
}
EXPORT_SYMBOL_NS_GPL(ferry_now, "FERRY");

unsigned long long ferry_tsc(void)
{
	return rdtsc_ordered();
}
EXPORT_SYMBOL_NS_GPL(ferry_tsc, "FERRY");

unsigned int ferry_tsc_khz(void)
{
	return tsc_khz;
}
EXPORT_SYMBOL_NS_GPL(ferry_tsc_khz, "FERRY");

/* Names come from users and from the last kernel: they must not forge lines. */
static void make_printable(char *text)
{
	for (; *text; text++) {
		if (!isascii(*text) || !isprint(*text))
			*text = '?';
	}
}

void ferry_log(enum ferry_level level, const char *module, const char *format, ...)
{
	char line[320];
	va_list args;

	va_start(args, format);
	vscnprintf(line, sizeof(line), format, args);
	va_end(args);
	make_printable(line);

	switch (level) {
	case FERRY_ERR:
		pr_err("%s: %s\n", module, line);
		break;
	case FERRY_WARN:
		pr_warn("%s: %s\n", module, line);
		break;
	case FERRY_INFO:
		pr_info("%s: %s\n", module, line);
		break;
	case FERRY_DEBUG:
		pr_debug("%s: %s\n", module, line);
		break;
	}
}
EXPORT_SYMBOL_NS_GPL(ferry_log, "FERRY");

int ferry_format(char *buffer, size_t size, const char *format, ...)
{
	va_list args;
	int length;

	va_start(args, format);
	length = vscnprintf(buffer, size, format, args);
	va_end(args);
	return length;
}
EXPORT_SYMBOL_NS_GPL(ferry_format, "FERRY");

void ferry_seq_printf(struct seq_file *file, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	seq_vprintf(file, format, args);
	va_end(args);
}
EXPORT_SYMBOL_NS_GPL(ferry_seq_printf, "FERRY");
