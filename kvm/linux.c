// SPDX-License-Identifier: GPL-2.0
/*
 * luo_kvm.ko's edge to the kernel: kvm/linux.h on the kernel's own functions.
 * Here: files, stopping a VM, making one, and the device; the rest is in
 * linux_config.c, linux_state.c, linux_memory.c and linux_ioctl.c.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>

#include <uapi/linux/liveupdate_kvm.h>
#include "linux_internal.h"

static_assert(PAGE_SHIFT == 12);
static_assert(sizeof(struct liveupdate_kvm_slot) == 56);
static_assert(sizeof(struct liveupdate_kvm_memory) == 24);

/* Of arch/x86/kvm/x86.h, which modules of other trees cannot include. */
void __user *__x86_set_memory_region(struct kvm *kvm, int id, gpa_t gpa, u32 size);

/* ---- any file ---- */

bool linux_kvm_is_vm(struct file *file)
{
	return file_is_kvm(file);
}

bool linux_kvm_is_vcpu(struct file *file)
{
	return file_is_kvm_vcpu(file);
}

bool linux_kvm_is_gmem(struct file *file)
{
	u64 flags;

	return kvm_gmem_to_kvm(file, &flags);
}

struct kvm *linux_kvm_of(struct file *file)
{
	u64 flags;

	if (file_is_kvm(file))
		return file->private_data;
	if (file_is_kvm_vcpu(file))
		return vcpu_of(file)->kvm;
	return kvm_gmem_to_kvm(file, &flags);
}

unsigned long linux_kvm_vm_id(struct file *file)
{
	return (unsigned long)file->private_data;
}

unsigned long linux_kvm_vcpu_id(struct file *file)
{
	return (unsigned long)file->private_data;
}

unsigned long linux_kvm_gmem_id(struct file *file)
{
	return (unsigned long)file_inode(file);
}

struct file *linux_kvm_fget(int fd)
{
	return fget(fd);
}

struct file *linux_kvm_share(struct file *file)
{
	return get_file(file);
}

void linux_kvm_fput(struct file *file)
{
	fput(file);
}

/* ---- stopping a VM ---- */

void linux_kvm_stop(struct kvm *kvm)
{
	set_bit(KVM_LIVEUPDATE_STOP, &kvm->liveupdate);
	/* Out of the guest, and out of a halt; vcpu_run() looks at the bit. */
	kvm_make_all_cpus_request(kvm, KVM_REQ_UNBLOCK);
}

enum linux_kvm_vcpus linux_kvm_settled(struct kvm *kvm, unsigned int *id)
{
	enum linux_kvm_vcpus worst = LINUX_KVM_SETTLED;
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		enum linux_kvm_vcpus is = LINUX_KVM_BUSY;

		/*
		 * Who holds it may wait for us: for a page of a memfd that is
		 * frozen, say.
		 */
		if (mutex_trylock(&vcpu->mutex)) {
			is = vcpu->arch.complete_userspace_io ? LINUX_KVM_UNFINISHED :
								LINUX_KVM_SETTLED;
			mutex_unlock(&vcpu->mutex);
		}
		if (is > worst) {
			worst = is;
			*id = vcpu->vcpu_id;
		}
	}
	return worst;
}

int linux_kvm_freeze(struct kvm *kvm)
{
	unsigned int i;

	/* First, so that those who come from now on leave at once. */
	set_bit(KVM_LIVEUPDATE_FROZEN, &kvm->liveupdate);
	for (i = 0; i < 5; i++) {
		if (down_write_trylock(&kvm->liveupdate_rwsem)) {
			up_write(&kvm->liveupdate_rwsem);
			/* Whoever brings an interrupt has seen the bit, or is through. */
			synchronize_srcu_expedited(&kvm->irq_srcu);
			return 0;
		}
		fsleep(200);
	}
	linux_kvm_thaw(kvm);
	return -EAGAIN;
}

void linux_kvm_thaw(struct kvm *kvm)
{
	clear_bit(KVM_LIVEUPDATE_FROZEN, &kvm->liveupdate);
	/* Before it looks for those who wait. */
	smp_mb__after_atomic();
	kvm_irqfd_resume(kvm);
}

void linux_kvm_resume(struct kvm *kvm)
{
	clear_bit(KVM_LIVEUPDATE_STOP, &kvm->liveupdate);
	linux_kvm_thaw(kvm);
}

void linux_kvm_sleep(unsigned int milliseconds)
{
	fsleep(milliseconds * 1000);
}

/* ---- in the kernel that gets them ---- */

/* The file of a new descriptor, which nobody has to see. */
static int file_of_fd(long fd, struct file **file)
{
	if (fd < 0)
		return fd;
	*file = fget(fd);
	close_fd(fd);
	return *file ? 0 : -EBADF;
}

int linux_kvm_create_vm(struct file **vm)
{
	static atomic_t number;
	char name[16];
	struct kvm *kvm;

	snprintf(name, sizeof(name), "lu%u", (unsigned int)atomic_inc_return(&number));
	*vm = kvm_create_vm_file(KVM_X86_DEFAULT_VM, name);
	if (IS_ERR(*vm))
		return PTR_ERR(*vm);
	kvm = (*vm)->private_data;
	set_bit(KVM_LIVEUPDATE_PARKED, &kvm->liveupdate);
	return 0;
}

int linux_kvm_create_vcpu(struct file *vm, unsigned int id, struct file **vcpu)
{
	*vcpu = kvm_create_vcpu_file(vm->private_data, id);
	return IS_ERR(*vcpu) ? (int)PTR_ERR(*vcpu) : 0;
}

int linux_kvm_create_gmem(unsigned long scratch, struct file *vm, unsigned long long bytes,
			  unsigned long long flags, struct file **gmem)
{
	struct kvm_create_guest_memfd create = { .size = bytes, .flags = flags };
	int err = file_of_fd(linux_ioctl_with(scratch, vm, KVM_CREATE_GUEST_MEMFD, &create,
					      sizeof(create), 0), gmem);

	if (err)
		return err;
	if (linux_kvm_of(*gmem) != vm->private_data) {
		fput(*gmem);
		return -EBADF;
	}
	return 0;
}

int linux_kvm_adopt(struct kvm *kvm)
{
	return kvm_liveupdate_move(kvm);
}

bool linux_kvm_is_here(struct kvm *kvm)
{
	return kvm->mm == current->mm;
}

unsigned int linux_kvm_own_slots(struct kvm *kvm, struct linux_kvm_own_slot *own)
{
	struct kvm_memory_slot *slot;
	unsigned int nr = 0, id;

	static_assert(KVM_MEM_SLOTS_NUM - KVM_USER_MEM_SLOTS <= LINUX_KVM_OWN_SLOTS);
	guard(mutex)(&kvm->slots_lock);
	for (id = KVM_USER_MEM_SLOTS; id < KVM_MEM_SLOTS_NUM; id++) {
		slot = id_to_memslot(kvm_memslots(kvm), id);
		if (slot && slot->npages)
			own[nr++] = (struct linux_kvm_own_slot) {
				.number = id,
				.bytes = slot->npages << PAGE_SHIFT,
				.gpa = slot->base_gfn << PAGE_SHIFT,
			};
	}
	return nr;
}

int linux_kvm_drop_own_slot(struct kvm *kvm, const struct linux_kvm_own_slot *own)
{
	guard(mutex)(&kvm->slots_lock);
	return PTR_ERR_OR_ZERO((void __force *)__x86_set_memory_region(kvm, own->number, 0, 0));
}

int linux_kvm_make_own_slot(struct kvm *kvm, const struct linux_kvm_own_slot *own)
{
	guard(mutex)(&kvm->slots_lock);
	return PTR_ERR_OR_ZERO((void __force *)__x86_set_memory_region(kvm, own->number, own->gpa,
								       own->bytes));
}

void linux_kvm_unpark(struct kvm *kvm)
{
	/* Whoever does not find the bit finds all that was done before. */
	smp_mb__before_atomic();
	clear_bit(KVM_LIVEUPDATE_PARKED, &kvm->liveupdate);
}

/* ---- the device, and the module ---- */

int linux_kvm_copy_in(void *to, unsigned long long from, size_t bytes)
{
	return copy_from_user(to, u64_to_user_ptr(from), bytes) ? -EFAULT : 0;
}

int linux_kvm_copy_out(unsigned long long to, const void *from, size_t bytes)
{
	return copy_to_user(u64_to_user_ptr(to), from, bytes) ? -EFAULT : 0;
}

static long device_ioctl(struct file *file, unsigned int request, unsigned long arg)
{
	return kvm_device_ioctl(request, arg);
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/* For everybody: the descriptor of the VM is what gives the right. */
static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "liveupdate_kvm",
	.mode = 0666,
	.fops = &device_fops,
};

struct module *linux_this_module(void)
{
	return THIS_MODULE;
}

static int __init linux_init(void)
{
	int err;

	err = linux_ioctl_init();
	if (err)
		return err;
	err = kvm_module_init();
	if (err)
		goto exit_ioctl;
	err = misc_register(&device);
	if (err)
		goto exit_module;
	return 0;

exit_module:
	kvm_module_exit();
exit_ioctl:
	linux_ioctl_exit();
	return err;
}

static void __exit linux_exit(void)
{
	misc_deregister(&device);
	kvm_module_exit();
	linux_ioctl_exit();
}

module_init(linux_init);
module_exit(linux_exit);
MODULE_DESCRIPTION("Live update of virtual machines: KVM's VMs, vCPUs and guest_memfds");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("FERRY");
