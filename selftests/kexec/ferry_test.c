// SPDX-License-Identifier: GPL-2.0
/*
 * A handler in plain C whose operations fail on demand: for the self-tests,
 * and as the shortest example of a handler (docs/handler.md).
 *
 * Each open of /dev/ferry_test is a file of its own that can be preserved. A
 * write to it is one command:
 *
 *	name NAME		what the log calls it
 *	data TEXT		travels with it
 *	needs FD		another file that it depends on; tell at preserve
 *	needs-late FD		the same; tell at freeze
 *	forget			drop these again (two files may need each other)
 *	stall MS		take that long in each freeze; 0 ends one that does
 *	fail OP ERRNO [TIMES]	let the operation fail (1 time; 0: never again);
 *				what is left of it at save() travels along
 *	fail-all OP ERRNO [TIMES]	the same for files of all names
 *	clear			empty the log
 *
 * A read gives the log: "OP NAME [-ERRNO]", a line for each operation called.
 * After the kexec another line follows: "data NAME TEXT", when it is retrieved.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/cleanup.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <ferry/luo.h>

#define TEST_COMPATIBLE	"test-v1"
#define TEST_NEEDS	4
#define TEST_LOG	16384

enum test_op {
	OP_PRESERVE,
	OP_UNPRESERVE,
	OP_FREEZE,
	OP_UNFREEZE,
	OP_SAVE,
	OP_RETRIEVE,
	OP_CAN_FINISH,
	OP_FINISH,
	NR_OPS,
};

static const char *const test_op_names[NR_OPS] = {
	"preserve", "unpreserve", "freeze", "unfreeze", "save", "retrieve", "can_finish", "finish",
};

/* What travels. */
#define FERRY_TEST_FIELDS(F, T)				\
	F(T, STR, name, 1, 0, 31, 32)			\
	F(T, STR, data, 1, 0, 63, 64)			\
	F(T, U32, needs, 1, 0, TEST_NEEDS, 0)		\
	F(T, U32, fail_retrieve, 1, 0, 4095, 0)		\
	F(T, U32, times_retrieve, 1, 0, ~0u, 0)		\
	F(T, U32, fail_can_finish, 1, 0, 4095, 0)	\
	F(T, U32, times_can_finish, 1, 0, ~0u, 0)
FERRY_RECORD(ferry_test_file, "test-file", 1, 1, FERRY_TEST_FIELDS);

struct test_failure {
	int error;
	unsigned int times;
};

struct test_file {
	char name[32];
	char data[64];
	struct test_failure fail[NR_OPS];
	unsigned int stall_ms;
	unsigned int nr_needs;
	struct {
		struct file *file;
		bool late;
	} needs[TEST_NEEDS];
};

/* Protects everything below, and the files. No call to luo is made under it. */
static DEFINE_MUTEX(test_lock);
static struct test_failure test_fail_all[NR_OPS];
static char test_log[TEST_LOG];
static size_t test_log_len;

static int test_fails(struct test_failure *failure)
{
	if (!failure->times)
		return 0;
	failure->times--;
	return -failure->error;
}

/* Note that an operation was called, and find out whether it is to fail. */
static int test_called(enum test_op op, struct test_file *test, const char *name)
{
	int err;

	guard(mutex)(&test_lock);
	err = test_fails(&test_fail_all[op]);
	if (!err && test)
		err = test_fails(&test->fail[op]);
	test_log_len += scnprintf(test_log + test_log_len, TEST_LOG - test_log_len,
				  err ? "%s %s %d\n" : "%s %s\n", test_op_names[op], name, err);
	return err;
}

static const struct file_operations test_fops;

static struct test_file *to_test(struct file *file)
{
	return file->private_data;
}

static bool test_can_preserve(struct file *file)
{
	return file->f_op == &test_fops;
}

/* Tell luo about the files that this one needs. */
static int test_depend(struct ferry_luo_args *args, bool late)
{
	struct test_file *test = to_test(args->file);
	int err = 0;

	for (unsigned int i = 0; i < test->nr_needs && !err; i++)
		if (test->needs[i].late == late)
			err = ferry_luo_depend(args->self, test->needs[i].file);
	return err;
}

static int test_preserve(struct ferry_luo_args *args)
{
	struct test_file *test = to_test(args->file);
	int err = test_called(OP_PRESERVE, test, test->name);

	return err ?: test_depend(args, false);
}

static void test_unpreserve(struct ferry_luo_args *args)
{
	struct test_file *test = to_test(args->file);

	test_called(OP_UNPRESERVE, test, test->name);
}

static int test_freeze(struct ferry_luo_args *args)
{
	struct test_file *test = to_test(args->file);
	int err = test_called(OP_FREEZE, test, test->name);

	for (unsigned int ms = 0; ms < READ_ONCE(test->stall_ms); ms += 20)
		msleep(20);
	return err ?: test_depend(args, true);
}

static void test_unfreeze(struct ferry_luo_args *args)
{
	struct test_file *test = to_test(args->file);

	test_called(OP_UNFREEZE, test, test->name);
}

static int test_save(struct ferry_luo_args *args, struct ferry_writer *writer)
{
	struct test_file *test = to_test(args->file);
	struct ferry_test_file record = {};
	int err = test_called(OP_SAVE, test, test->name);

	if (err)
		return err;
	strscpy(record.name, test->name);
	strscpy(record.data, test->data);
	record.needs = test->nr_needs;
	record.fail_retrieve = test->fail[OP_RETRIEVE].error;
	record.times_retrieve = test->fail[OP_RETRIEVE].times;
	record.fail_can_finish = test->fail[OP_CAN_FINISH].error;
	record.times_can_finish = test->fail[OP_CAN_FINISH].times;
	return ferry_put(writer, &ferry_test_file_record, &record);
}

static void test_free(struct test_file *test)
{
	for (unsigned int i = 0; i < test->nr_needs; i++)
		fput(test->needs[i].file);
	kfree(test);
}

static int test_retrieve(struct ferry_luo_args *args)
{
	struct ferry_test_file record;
	struct test_file *test;
	struct file *file;
	int err;

	err = ferry_get(args->state, &ferry_test_file_record, &record);
	if (err)
		return err;
	test = kzalloc_obj(*test);
	if (!test)
		return -ENOMEM;
	strscpy(test->name, record.name);
	strscpy(test->data, record.data);
	test->fail[OP_RETRIEVE].error = record.fail_retrieve;
	test->fail[OP_RETRIEVE].times = record.times_retrieve;
	test->fail[OP_CAN_FINISH].error = record.fail_can_finish;
	test->fail[OP_CAN_FINISH].times = record.times_can_finish;

	err = test_called(OP_RETRIEVE, test, test->name);
	while (!err && test->nr_needs < record.needs) {
		err = ferry_luo_dependency(args->self, test->nr_needs,
					   &test->needs[test->nr_needs].file);
		if (!err)
			test->nr_needs++;
	}
	if (err)
		goto err_free;

	file = anon_inode_getfile("[ferry_test]", &test_fops, test, O_RDWR);
	if (IS_ERR(file)) {
		err = PTR_ERR(file);
		goto err_free;
	}
	scoped_guard(mutex, &test_lock)
		test_log_len += scnprintf(test_log + test_log_len, TEST_LOG - test_log_len,
					  "data %s %s\n", test->name, test->data);
	args->file = file;
	return 0;

err_free:
	test_free(test);
	return err;
}

/* The name of a file that may not be retrieved. */
static const char *test_name(struct ferry_luo_args *args, struct ferry_test_file *record)
{
	if (args->file)
		return to_test(args->file)->name;
	return ferry_get(args->state, &ferry_test_file_record, record) ? "?" : record->name;
}

static int test_can_finish(struct ferry_luo_args *args)
{
	struct ferry_test_file record;

	return test_called(OP_CAN_FINISH, args->file ? to_test(args->file) : NULL,
			   test_name(args, &record));
}

static void test_finish(struct ferry_luo_args *args)
{
	struct ferry_test_file record;

	test_called(OP_FINISH, NULL, test_name(args, &record));
}

static const struct ferry_luo_ops test_ops = {
	.can_preserve = test_can_preserve,
	.preserve = test_preserve,
	.unpreserve = test_unpreserve,
	.freeze = test_freeze,
	.unfreeze = test_unfreeze,
	.save = test_save,
	.retrieve = test_retrieve,
	.can_finish = test_can_finish,
	.finish = test_finish,
};

static const struct ferry_luo_handler test_handler = {
	.compatible = TEST_COMPATIBLE,
	.module = THIS_MODULE,
	.ops = &test_ops,
};

/* ---- /dev/ferry_test ---- */

static int test_open(struct inode *inode, struct file *file)
{
	struct test_file *test = kzalloc_obj(*test);

	if (!test)
		return -ENOMEM;
	strscpy(test->name, "unnamed");
	file->private_data = test;
	return 0;
}

static int test_release(struct inode *inode, struct file *file)
{
	test_free(to_test(file));
	return 0;
}

static ssize_t test_read(struct file *file, char __user *buf, size_t size, loff_t *pos)
{
	guard(mutex)(&test_lock);
	return simple_read_from_buffer(buf, size, pos, test_log, test_log_len);
}

static int test_need(struct test_file *test, const char *text, bool late)
{
	struct file *file;
	int fd, err;

	err = kstrtoint(text, 10, &fd);
	if (err)
		return err;
	if (test->nr_needs == TEST_NEEDS)
		return -ENOSPC;
	file = fget(fd);
	if (!file)
		return -EBADF;
	test->needs[test->nr_needs].late = late;
	test->needs[test->nr_needs++].file = file;
	return 0;
}

static int test_set_failure(struct test_failure *failures, const char *text)
{
	unsigned int error, times = 1;
	char name[16];
	int op;

	if (sscanf(text, "%15s %u %u", name, &error, &times) < 2 || error > 4095)
		return -EINVAL;
	op = match_string(test_op_names, NR_OPS, name);
	if (op < 0)
		return -EINVAL;
	failures[op].error = error;
	failures[op].times = times;
	return 0;
}

static int test_command(struct test_file *test, char *rest)
{
	const char *word = strsep(&rest, " ");

	if (!strcmp(word, "clear")) {
		test_log_len = 0;
		return 0;
	}
	if (!strcmp(word, "forget")) {
		while (test->nr_needs)
			fput(test->needs[--test->nr_needs].file);
		return 0;
	}
	if (!rest)
		return -EINVAL;
	if (!strcmp(word, "name"))
		return strscpy(test->name, rest) < 0 ? -E2BIG : 0;
	if (!strcmp(word, "data"))
		return strscpy(test->data, rest) < 0 ? -E2BIG : 0;
	if (!strcmp(word, "stall"))
		return kstrtouint(rest, 10, &test->stall_ms);
	if (!strcmp(word, "needs"))
		return test_need(test, rest, false);
	if (!strcmp(word, "needs-late"))
		return test_need(test, rest, true);
	if (!strcmp(word, "fail"))
		return test_set_failure(test->fail, rest);
	if (!strcmp(word, "fail-all"))
		return test_set_failure(test_fail_all, rest);
	return -EINVAL;
}

static ssize_t test_write(struct file *file, const char __user *buf, size_t size, loff_t *pos)
{
	char text[128];
	int err;

	if (size >= sizeof(text))
		return -E2BIG;
	if (copy_from_user(text, buf, size))
		return -EFAULT;
	text[size] = '\0';
	guard(mutex)(&test_lock);
	err = test_command(to_test(file), strim(text));
	return err ?: size;
}

static const struct file_operations test_fops = {
	.owner = THIS_MODULE,
	.open = test_open,
	.release = test_release,
	.read = test_read,
	.write = test_write,
	.llseek = default_llseek,
};

static struct miscdevice test_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "ferry_test",
	.fops = &test_fops,
	.mode = 0600,
};

static int __init test_init(void)
{
	int err = misc_register(&test_device);

	if (err)
		return err;
	err = ferry_luo_register(&test_handler);
	if (err)
		misc_deregister(&test_device);
	return err;
}
module_init(test_init);

static void __exit test_exit(void)
{
	ferry_luo_unregister(&test_handler);
	misc_deregister(&test_device);
}
module_exit(test_exit);

MODULE_DESCRIPTION("Ferry: a handler that fails on demand");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
MODULE_IMPORT_NS("FERRY");
