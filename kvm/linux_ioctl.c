// SPDX-License-Identifier: GPL-2.0
/* Calling KVM's ioctls from the kernel, in the process of a VMM or beside it. */
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "linux_internal.h"

/* ---- scratch memory ---- */

/*
 * The worker's: an address space with nothing but the scratch memory in it. The
 * address is any that user space could have.
 */
#define WORKER_SCRATCH	0x100000ul

static struct mm_struct *worker_mm;
static DEFINE_MUTEX(worker_lock);

struct job {
	struct work_struct work;
	int (*call)(void *ctx, unsigned long scratch);
	void *ctx;
	int result;
};

static void run_job(struct work_struct *work)
{
	struct job *job = container_of(work, struct job, work);

	kthread_use_mm(worker_mm);
	job->result = job->call(job->ctx, WORKER_SCRATCH);
	kthread_unuse_mm(worker_mm);
}

int linux_kvm_in_worker(int (*work)(void *ctx, unsigned long scratch), void *ctx)
{
	struct job job = { .call = work, .ctx = ctx };

	guard(mutex)(&worker_lock);
	INIT_WORK_ONSTACK(&job.work, run_job);
	queue_work(system_dfl_wq, &job.work);
	flush_work(&job.work);
	destroy_work_on_stack(&job.work);
	return job.result;
}

static int map_worker_scratch(void *ctx, unsigned long scratch)
{
	unsigned long at = vm_mmap(NULL, scratch, LINUX_KVM_SCRATCH_BYTES, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);

	return IS_ERR_VALUE(at) ? (int)at : 0;
}

int linux_kvm_scratch_map(unsigned long *scratch)
{
	*scratch = vm_mmap(NULL, 0, LINUX_KVM_SCRATCH_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, 0);
	return IS_ERR_VALUE(*scratch) ? (int)*scratch : 0;
}

void linux_kvm_scratch_unmap(unsigned long scratch)
{
	vm_munmap(scratch, LINUX_KVM_SCRATCH_BYTES);
}

int linux_scratch_put(unsigned long scratch, const void *data, size_t bytes)
{
	if (bytes > LINUX_KVM_SCRATCH_BYTES)
		return -E2BIG;
	return copy_to_user((void __user *)scratch, data, bytes) ? -EFAULT : 0;
}

int linux_scratch_take(void *data, unsigned long scratch, size_t bytes)
{
	if (bytes > LINUX_KVM_SCRATCH_BYTES)
		return -E2BIG;
	return copy_from_user(data, (void __user *)scratch, bytes) ? -EFAULT : 0;
}

/* ---- calling ioctls ---- */

long linux_ioctl(struct file *file, unsigned int request, unsigned long arg)
{
	return kvm_liveupdate_ioctl(file, request, arg);
}

long linux_ioctl_with(unsigned long scratch, struct file *file, unsigned int request, void *data,
		      size_t in, size_t out)
{
	long ret = linux_scratch_put(scratch, data, in);

	if (ret >= 0)
		ret = linux_ioctl(file, request, scratch);
	if (ret >= 0 && out) {
		int err = linux_scratch_take(data, scratch, out);

		if (err)
			ret = err;
	}
	return ret;
}

int linux_ioctl_init(void)
{
	int err;

	worker_mm = mm_alloc();
	if (!worker_mm)
		return -ENOMEM;
#ifdef CONFIG_MEMCG
	/* Not who loads the module, and exits: what is mapped there belongs to nobody. */
	RCU_INIT_POINTER(worker_mm->owner, NULL);
#endif
	err = linux_kvm_in_worker(map_worker_scratch, NULL);
	if (err)
		mmput(worker_mm);
	return err;
}

void linux_ioctl_exit(void)
{
	mmput(worker_mm);
}
