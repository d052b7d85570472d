// SPDX-License-Identifier: GPL-2.0
#include "iommu.hh"

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kho/linux.h"

extern "C" void linux_file_put(struct file *file); // luo/linux.h

namespace fake {

std::vector<Incoming> incoming_devices;
std::set<file *> huge_files;
unsigned int lookups;
std::function<void()> at_table_page;
bool verifier;

namespace {

std::map<file *, std::map<Address, Pfn>> file_pages;
std::map<Pfn, std::array<unsigned long long, LINUX_TABLE_ENTRIES>> in_memory;
long frozen;

[[maybe_unused]] const bool counted = [] {
	add_counter("frozen iommufds", [] { return frozen; });
	add_counter("verifiers", [] { return long(verifier); });
	add_reset([] {
		incoming_devices.clear();
		huge_files.clear();
		file_pages.clear();
	});
	return true;
}();

constexpr Address present = 3, large = 0x80, address = 0xffffffffff000;

unsigned int index_of(Address iova, unsigned int level)
{
	return iova >> (12 + 9 * (level - 1)) & 511;
}

} // namespace

// ---- page tables ----

// Not one of those allocations that can be made to fail.
Address *PageTable::new_page()
{
	void *page = linux_page_alloc();
	if (!page)
		std::abort();
	return static_cast<Address *>(page);
}

PageTable::PageTable(unsigned int levels) : where{linux_page_phys(new_page()), levels}
{
	pages.push_back(where.top / 4096);
}

PageTable::~PageTable()
{
	for (Pfn pfn : pages)
		linux_page_free(page_at(pfn));
}

Address &PageTable::entry(Address iova, unsigned int level)
{
	auto table = static_cast<Address *>(page_at(where.top / 4096));
	for (unsigned int at = where.levels; at > level; --at) {
		Address &next = table[index_of(iova, at)];
		if (!(next & present)) {
			next = linux_page_phys(new_page()) | present;
			pages.push_back((next & address) / 4096);
		}
		table = static_cast<Address *>(page_at((next & address) / 4096));
	}
	return table[index_of(iova, level)];
}

void PageTable::map(Address iova, Address phys, unsigned int level, unsigned int rights)
{
	entry(iova, level) = phys | rights | (level > 1 ? large : 0);
}

// ---- files ----

file *new_iommufd()
{
	file *made = new_file("iommufd", iommufd_kind);
	made->behind = std::make_shared<Iommufd>();
	return made;
}

Iommufd &iommufd_of(file *file)
{
	return *static_cast<Iommufd *>(file->behind.get());
}

std::map<Address, Pfn> &pages_of(file *file)
{
	return file_pages[file];
}

unsigned long long flushed(unsigned long long phys, unsigned int index)
{
	return in_memory[phys / 4096][index];
}

} // namespace fake

using namespace fake;

extern "C" {

bool linux_iommufd_is(struct file *file)
{
	return file->kind == iommufd_kind;
}

unsigned long linux_iommufd_id(struct file *file)
{
	return reinterpret_cast<unsigned long>(file->behind.get());
}

int linux_iommufd_freeze(struct file *file)
{
	Iommufd &iommufd = iommufd_of(file);
	if (iommufd.other_object)
		return -EOPNOTSUPP;
	if (iommufd.frozen || inject("iommufd_liveupdate_freeze"))
		return -EBUSY;
	iommufd.frozen = true;
	++frozen;
	return 0;
}

void linux_iommufd_thaw(struct file *file)
{
	if (!std::exchange(iommufd_of(file).frozen, false))
		bug("an iommufd is thawed that is not frozen");
	--frozen;
}

int linux_iommufd_mappings(struct file *file,
			   int (*visit)(void *ctx, const struct linux_mapping *mapping), void *ctx)
{
	Iommufd &iommufd = iommufd_of(file);
	if (!iommufd.frozen)
		bug("an iommufd is walked that is not frozen");
	for (const linux_mapping &mapping : iommufd.mappings) {
		if (int err = visit(ctx, &mapping))
			return err;
	}
	if (iommufd.meanwhile)
		iommufd.meanwhile(iommufd);
	return 0;
}

int linux_iommufd_tables(struct file *file,
			 int (*visit)(void *ctx, unsigned int ioas,
				      const struct linux_table *table),
			 void *ctx)
{
	Iommufd &iommufd = iommufd_of(file);
	if (!iommufd.frozen)
		bug("an iommufd is walked that is not frozen");
	if (iommufd.other_format)
		return -EOPNOTSUPP;
	for (const Iommufd::Hwpt &hwpt : iommufd.hwpts) {
		if (int err = visit(ctx, hwpt.ioas, &hwpt.table->where))
			return err;
	}
	return 0;
}

int linux_iommufd_create(struct file **file)
{
	if (inject("iommufd_create_file"))
		return -ENFILE;
	*file = new_iommufd();
	return 0;
}

void linux_iommufd_put(struct file *file)
{
	linux_file_put(file);
	run_releases();
}

const unsigned long long *linux_table_page(unsigned long long phys)
{
	if (phys % 4096 || phys / 4096 < first_pfn || phys / 4096 >= first_folio) {
		bug("a page table at %#llx, which is not memory", phys);
		static const unsigned long long empty[LINUX_TABLE_ENTRIES] = {};
		return empty;
	}
	if (at_table_page)
		at_table_page();
	return static_cast<const unsigned long long *>(page_at(phys / 4096));
}

int linux_file_page(struct file *file, unsigned long long index, unsigned long long *pfn,
		    unsigned long long *count)
{
	lookups++;
	if (huge_files.count(file))
		return -EOPNOTSUPP;
	auto &pages = file_pages[file];
	auto at = pages.find(index);
	if (at == pages.end())
		return -ENOENT;
	*pfn = at->second;
	for (*count = 1; (at = pages.find(index + *count)) != pages.end(); ++*count) {
		if (at->second != *pfn + *count)
			break;
	}
	return 0;
}

// ---- devices, on the way out ----

int linux_device_look(struct device *dev, struct ferry_jump_device *is, unsigned long long *pasid)
{
	if (dev->error)
		return dev->error;
	*is = dev->is;
	std::copy(std::begin(dev->pasid), std::end(dev->pasid), pasid);
	return 0;
}

void linux_device_leave(struct device *dev, void *root)
{
	dev->root = root;
}

void linux_device_spare(struct device *dev, int more)
{
	dev->spare += more;
}

void *linux_keep_page(void)
{
	void *page = linux_page_alloc();
	if (!page)
		return nullptr;
	const ferry_run run{linux_page_phys(page) / 4096, 0, 1, 0, 0};
	if (linux_preserve(&run, 1)) {
		linux_page_free(page);
		return nullptr;
	}
	in_memory[run.pfn] = {};
	return page;
}

void linux_keep_end(void *page)
{
	const ferry_run run{linux_page_phys(page) / 4096, 0, 1, 0, 0};
	linux_unpreserve(&run, 1);
	in_memory.erase(run.pfn);
	linux_page_free(page);
}

unsigned long long linux_kept_phys(const void *page)
{
	return linux_page_phys(page);
}

void *linux_kept(unsigned long long phys)
{
	if (phys % 4096 || !preserved(phys / 4096))
		bug("there is no kept page at %#llx", phys);
	return linux_page_at(phys);
}

void linux_kept_flush(const void *page)
{
	std::memcpy(in_memory[linux_page_phys(page) / 4096].data(), page, 4096);
}

int linux_record_publish(void *page)
{
	return linux_publish("iommu-liveupdate", page, 4096);
}

void linux_record_withdraw(void *page)
{
	linux_withdraw(page);
}

// ---- adopted devices ----

const struct ferry_jump_device *linux_incoming_device(unsigned int nr, enum linux_adoption *how)
{
	if (nr >= incoming_devices.size())
		return nullptr;
	*how = incoming_devices[nr].how;
	return &incoming_devices[nr].is;
}

bool linux_came(unsigned long long phys)
{
	const ferry_run run{phys / 4096, 0, 1, 0, 0};
	return linux_count_preserved(&run, 1) == 1;
}

void linux_came_free(unsigned long long phys)
{
	const ferry_run run{phys / 4096, 0, 1, 0, 0};
	if (phys % 4096 || linux_restore(&run, 1) != 1)
		bug("there is nothing to free at %#llx", phys);
	linux_release(phys / 4096, 1, 0);
}

void linux_verify(bool on)
{
	if (verifier == on)
		bug("the verifier is set twice");
	verifier = on;
}

static module iommu_module{.name = "iommu"};

struct module *linux_this_module(void)
{
	return &iommu_module;
}

} // extern "C"
