// SPDX-License-Identifier: GPL-2.0
/* The memory of VMs: slots, what is behind them, and guest_memfds. */
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/srcu.h>

#include "linux_internal.h"

/* ---- memory slots ---- */

static u32 number_of(const struct kvm_memory_slot *slot)
{
	return (u32)slot->as_id << 16 | slot->id;
}

static struct kvm_memory_slot *find_slot(struct kvm *kvm, u32 number)
{
	u32 as = number >> 16;

	if (as >= kvm_arch_nr_memslot_as_ids(kvm))
		return NULL;
	return id_to_memslot(__kvm_memslots(kvm, as), number & 0xffff);
}

static void describe_slot(const struct kvm_memory_slot *from, struct linux_kvm_slot *slot)
{
	*slot = (struct linux_kvm_slot) {
		.is = {
			.slot = number_of(from),
			.flags = from->flags & (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY |
						KVM_MEM_GUEST_MEMFD),
			.gfn = from->base_gfn,
			.pages = from->npages,
			.hva = from->userspace_addr,
		},
	};
	if (from->flags & KVM_MEM_GUEST_MEMFD) {
		slot->is.first = from->gmem.pgoff;
		slot->gmem = READ_ONCE(from->gmem.file);
	}
}

int linux_kvm_slots(struct kvm *kvm, struct linux_kvm_slot *slot, unsigned int room)
{
	struct kvm_memory_slot *at;
	unsigned int nr = 0;
	int as, bkt, idx;

	/* Not slots_lock: who holds it may be waiting for a frozen memfd. */
	idx = srcu_read_lock(&kvm->srcu);
	for (as = 0; as < kvm_arch_nr_memslot_as_ids(kvm); as++) {
		kvm_for_each_memslot(at, bkt, __kvm_memslots(kvm, as)) {
			if (at->id >= KVM_USER_MEM_SLOTS)
				continue;
			if (nr < room)
				describe_slot(at, &slot[nr]);
			nr++;
		}
	}
	srcu_read_unlock(&kvm->srcu, idx);
	return nr;
}

static int backing_of(struct mm_struct *mm, unsigned long hva, unsigned long end,
		      struct file **file, unsigned long long *first)
{
	struct vm_area_struct *vma;
	unsigned long at = hva;
	struct vma_iterator vmi;

	vma_iter_init(&vmi, mm, hva);
	*file = NULL;
	for_each_vma_range(vmi, vma, end) {
		if (vma->vm_start > at)
			return -EFAULT;
		if (!vma->vm_file || !(vma->vm_flags & VM_SHARED))
			return -EOPNOTSUPP;
		if (!*file) {
			*file = vma->vm_file;
			*first = vma->vm_pgoff + ((hva - vma->vm_start) >> PAGE_SHIFT);
		} else if (file_inode(vma->vm_file) != file_inode(*file) ||
			   vma->vm_pgoff != *first + ((at - hva) >> PAGE_SHIFT)) {
			return -EOPNOTSUPP;
		}
		at = vma->vm_end;
	}
	return at >= end ? 0 : -EFAULT;
}

int linux_kvm_backing(struct kvm *kvm, unsigned long long hva, unsigned long long pages,
		      struct file **file, unsigned long long *first)
{
	struct mm_struct *mm = kvm ? kvm->mm : current->mm;
	int err;

	if (!mm || !mmget_not_zero(mm))
		return -ESRCH;
	err = -EAGAIN;
	if (mmap_read_trylock(mm)) {
		err = backing_of(mm, hva, hva + (pages << PAGE_SHIFT), file, first);
		if (!err)
			get_file(*file);
		mmap_read_unlock(mm);
	}
	/* Not here: with the last user of the mm would go all that it maps. */
	mmput_async(mm);
	return err;
}

bool linux_kvm_same_contents(struct file *a, struct file *b)
{
	return file_inode(a) == file_inode(b);
}

long linux_kvm_dirty_get(struct kvm *kvm, unsigned int number, void *bitmap, size_t bytes)
{
	struct kvm_memory_slot *slot;
	long got = 0;
	int idx;

	idx = srcu_read_lock(&kvm->srcu);
	slot = find_slot(kvm, number);
	if (slot && slot->dirty_bitmap) {
		got = min(bytes, BITS_TO_LONGS(slot->npages) * sizeof(long));
		memcpy(bitmap, slot->dirty_bitmap, got);
	}
	srcu_read_unlock(&kvm->srcu, idx);
	return got;
}

int linux_kvm_dirty_add(struct kvm *kvm, unsigned int number, const void *bitmap, size_t bytes)
{
	const unsigned long *word = bitmap;
	struct kvm_memory_slot *slot;
	size_t i;

	guard(mutex)(&kvm->slots_lock);
	slot = find_slot(kvm, number);
	if (!slot || !slot->dirty_bitmap)
		return -ENOENT;
	if (bytes != BITS_TO_LONGS(slot->npages) * sizeof(long))
		return -EINVAL;
	/* A page gets its bit when it is written next, whether it is set or not. */
	for (i = 0; i < bytes / sizeof(long); i++)
		atomic_long_or(word[i], (atomic_long_t *)&slot->dirty_bitmap[i]);
	return 0;
}

int linux_kvm_set_slot(unsigned long scratch, struct file *vm, const struct ferry_kvm_slot *slot,
		       unsigned long long hva, struct file *gmem)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot->slot,
		.flags = slot->flags,
		.guest_phys_addr = slot->gfn << PAGE_SHIFT,
		.memory_size = slot->pages << PAGE_SHIFT,
		.userspace_addr = hva,
		.guest_memfd_offset = slot->first << PAGE_SHIFT,
	};
	int fd = -1;
	long err;

	if (gmem) {
		fd = get_unused_fd_flags(O_CLOEXEC);
		if (fd < 0)
			return fd;
		fd_install(fd, get_file(gmem));
		region.guest_memfd = fd;
	} else {
		region.guest_memfd_offset = 0;
	}
	err = linux_ioctl_with(scratch, vm, KVM_SET_USER_MEMORY_REGION2, &region, sizeof(region), 0);
	if (fd >= 0)
		close_fd(fd);
	return err;
}

/* ---- guest_memfd ---- */

void linux_gmem_look(struct file *gmem, struct ferry_kvm_gmem *record)
{
	u64 flags = 0;

	kvm_gmem_to_kvm(gmem, &flags);
	record->bytes = i_size_read(file_inode(gmem));
	record->flags = flags;
}

bool linux_gmem_is_shared(struct file *gmem)
{
	u64 wanted = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	u64 flags = 0;

	return kvm_gmem_to_kvm(gmem, &flags) && (flags & wanted) == wanted;
}

void linux_gmem_set_state(struct file *gmem, enum linux_gmem_state state)
{
	kvm_gmem_set_frozen(gmem, state == LINUX_GMEM_FROZEN ? KVM_GMEM_FROZEN :
				  state == LINUX_GMEM_PRESERVED ? KVM_GMEM_PRESERVED :
								  KVM_GMEM_THAWED);
}

unsigned long long linux_gmem_pages(struct file *gmem)
{
	return READ_ONCE(gmem->f_mapping->nrpages);
}

/* As every user of the page would: one that is not up to date has no data yet. */
static void make_uptodate(struct folio *folio)
{
	folio_lock(folio);
	if (!folio_test_uptodate(folio)) {
		folio_zero_range(folio, 0, folio_size(folio));
		folio_mark_uptodate(folio);
	}
	folio_unlock(folio);
}

unsigned int linux_gmem_find(struct file *gmem, unsigned long long first, struct ferry_run *run,
			     unsigned int room)
{
	pgoff_t at = first;
	struct folio_batch batch;
	unsigned int nr = 0, i;
	bool full = false;

	folio_batch_init(&batch);
	while (!full && filemap_get_folios(gmem->f_mapping, &at, ULONG_MAX, &batch)) {
		for (i = 0; i < folio_batch_count(&batch) && !full; i++) {
			struct folio *folio = batch.folios[i];
			unsigned long pfn = folio_pfn(folio);

			/* A run lies in one node. */
			bool follows = nr && run[nr - 1].pfn + run[nr - 1].count == pfn &&
				       folio_nid(folio) == page_to_nid(pfn_to_page(run[nr - 1].pfn)) &&
				       run[nr - 1].index + run[nr - 1].count == folio->index;

			full = !follows && nr == room;
			if (full)
				break;
			if (!follows)
				run[nr++] = (struct ferry_run) {
					.pfn = pfn,
					.index = folio->index,
				};
			run[nr - 1].count++;
			make_uptodate(folio);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
	return nr;
}

int linux_gmem_insert(struct file *gmem, const struct ferry_run *run)
{
	unsigned int i;
	int err = 0;

	for (i = 0; i < run->count; i++) {
		bool down = run->flags & FERRY_RUN_DESCENDING;
		struct folio *folio = pfn_folio(run->pfn + (down ? run->count - 1 - i : i));

		if (!err) {
			/* Before it can be found: else KVM would clear it. */
			folio_mark_uptodate(folio);
			err = filemap_add_folio(gmem->f_mapping, folio, run->index + i,
						mapping_gfp_mask(gmem->f_mapping));
			if (!err)
				folio_unlock(folio);
		}
		folio_put(folio);
		cond_resched();
	}
	return err;
}
