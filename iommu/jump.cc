// SPDX-License-Identifier: GPL-2.0
#include "iommu/jump.hh"

#include <ferry/iommu.h>
#include <ferry/lock.hh>
#include <ferry/own.hh>
#include <ferry/scope.hh>

#include <algorithm>

#include "iommu/table.hh"

using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace iommu {

namespace {

static_assert(sizeof(ferry_jump) <= page_size);
static_assert(sizeof(ferry_jump_device) == 56);

// The locks of a device's interrupts and of the session are taken before; a leaf.
using Locked = ferry::Locked<Jump, "iommu.jump">;
constinit Locked *jump;

using Words = unsigned long long *;

constexpr unsigned long long present = 1;
constexpr unsigned int words_of_pasid_entry = LINUX_PASID_WORDS;

Words words_at(unsigned long long entry)
{
	return static_cast<Words>(linux_kept(entry & address_bits));
}

Result<Words> keep_page()
{
	void *page = linux_keep_page();
	if (!page)
		return fail(Errno::NoMem);
	return static_cast<Words>(page);
}

// Where a root table leads to the context table of a device: two words for each
// bus, in scalable mode one for each half of its devices (VT-d spec, 9.1 and 9.2).
unsigned int root_slot(const ferry_jump_device &is)
{
	return (is.rid >> 8) * 2 + (is.scalable && is.rid & 0x80);
}

// Where the device is in there: entries of 16 bytes, or of 32 (9.3 and 9.4).
unsigned int context_slot(const ferry_jump_device &is)
{
	return is.scalable ? (is.rid & 0x7f) * 4 : (is.rid & 0xff) * 2;
}

// A PASID directory that leads to a table with this entry alone, of requests
// without a PASID (9.5 and 9.6); 128 entries are the least that it can have.
Result<void> put_pasid(ferry_jump_device &is, const unsigned long long *entry)
{
	Words directory = TRY(keep_page());
	ferry::Undo undo{[directory] { linux_keep_end(directory); }};
	Words table = TRY(keep_page());
	std::copy_n(entry, words_of_pasid_entry, table);
	directory[0] = linux_kept_phys(table) | present;
	linux_kept_flush(table);
	linux_kept_flush(directory);
	is.context[0] = linux_kept_phys(directory) | present;
	is.context[1] = 0;
	undo.dismiss();
	return {};
}

void end_pasid(const ferry_jump_device &is)
{
	Words directory = words_at(is.context[0]);
	linux_keep_end(words_at(directory[0]));
	linux_keep_end(directory);
}

void end_root(unsigned long long phys)
{
	Words root = words_at(phys);
	for (unsigned int i = 0; i < LINUX_TABLE_ENTRIES; ++i) {
		if (root[i])
			linux_keep_end(words_at(root[i]));
	}
	linux_keep_end(root);
}

void set_crc(ferry_jump &record)
{
	record.crc = 0;
	record.crc = ferry_crc32c(~0u, &record, page_size);
}

} // namespace

// ---- the record ----

Result<void> Jump::open()
{
	if (record_)
		return {};
	auto *page = static_cast<ferry_jump *>(linux_keep_page());
	if (!page)
		return fail(Errno::NoMem);
	page->magic = FERRY_JUMP_MAGIC;
	page->version = FERRY_JUMP_VERSION;
	if (int err = linux_record_publish(page)) {
		linux_keep_end(page);
		return fail(Errno(-err));
	}
	record_ = page;
	return {};
}

void Jump::close()
{
	if (record_->nr) {
		set_crc(*record_);
		return;
	}
	linux_record_withdraw(record_);
	linux_keep_end(record_);
	record_ = nullptr;
}

// nr: it is not there.
unsigned int Jump::find(const device *dev) const
{
	return record_ ? std::find(devices_, devices_ + record_->nr, dev) - devices_ : 0;
}

bool Jump::has_root(unsigned long long root) const
{
	return std::any_of(record_->device, record_->device + record_->nr,
			   [root](const ferry_jump_device &each) { return each.root == root; });
}

// ---- a device ----

Result<void> Jump::save(device *dev)
{
	ferry_jump_device is{};
	unsigned long long pasid[words_of_pasid_entry] = {};
	if (record_ && find(dev) < record_->nr)
		return fail(Errno::Busy);
	if (record_ && record_->nr == FERRY_JUMP_MAX)
		return fail(Errno::NoSpc);
	TRY(check_status(linux_device_look(dev, &is, pasid)));
	TRY(open());
	auto done = put(is, pasid);
	if (done.has_value()) {
		devices_[record_->nr] = dev;
		record_->device[record_->nr++] = is;
		linux_device_leave(dev, words_at(is.root));
		linux_device_spare(dev, 1);
	}
	close();
	return done;
}

// Puts a device into the root table of its IOMMU, which is made for the first one.
Result<void> Jump::put(ferry_jump_device &is, const unsigned long long *pasid)
{
	if (is.scalable)
		TRY(put_pasid(is, pasid));
	ferry::Undo no_pasid{[&is] {
		if (is.scalable)
			end_pasid(is);
	}};
	const auto *end = record_->device + record_->nr;
	const auto *other =
		std::find_if(record_->device, record_->device + record_->nr,
			     [&is](const ferry_jump_device &each) { return each.unit == is.unit; });
	Words root = other == end ? TRY(keep_page()) : words_at(other->root);
	is.root = linux_kept_phys(root);
	ferry::Undo no_root{[this, &is] { drop(is); }};
	unsigned long long &slot = root[root_slot(is)];
	if (!slot)
		slot = linux_kept_phys(TRY(keep_page())) | present;
	Words context = words_at(slot);
	std::copy_n(is.context, 2, context + context_slot(is));
	linux_kept_flush(context);
	linux_kept_flush(root);
	no_root.dismiss();
	no_pasid.dismiss();
	return {};
}

// The root table of a device that is not in the record (any more).
void Jump::drop(const ferry_jump_device &is)
{
	if (!has_root(is.root))
		end_root(is.root);
}

void Jump::unsave(device *dev)
{
	const unsigned int at = find(dev);
	const ferry_jump_device is = record_->device[at];
	Words context = words_at(words_at(is.root)[root_slot(is)]);
	std::fill_n(context + context_slot(is), 2, 0);
	linux_kept_flush(context);
	const unsigned int last = --record_->nr;
	record_->device[at] = record_->device[last];
	devices_[at] = devices_[last];
	record_->device[last] = {};
	linux_device_spare(dev, -1);
	if (!has_root(is.root))
		linux_device_leave(dev, nullptr);
	drop(is);
	if (is.scalable)
		end_pasid(is);
	close();
}

// ---- in the next kernel ----

namespace {

/*
 * What was handed over says which pages these are. So only such pages are freed, or
 * looked into, that the last kernel has preserved and nobody has freed since: also
 * when the module is loaded for a second time, or two devices have one in common.
 */
void free_page(unsigned long long entry)
{
	if (entry & present && linux_came(entry & address_bits))
		linux_came_free(entry & address_bits);
}

unsigned long long word_of(unsigned long long phys, unsigned int index)
{
	return linux_came(phys) ? linux_table_page(phys)[index] : 0;
}

template <class Visit> void for_each_device(Visit visit)
{
	linux_adoption how;
	for (unsigned int i = 0; const auto *is = linux_incoming_device(i, &how); ++i)
		visit(*is, how);
}

} // namespace

void free_jump_tables()
{
	for_each_device([](const ferry_jump_device &is, linux_adoption how) {
		if (how != LINUX_DEVICE_REFUSED)
			free_page(word_of(is.root, root_slot(is)));
	});
	for_each_device([](const ferry_jump_device &is, linux_adoption how) {
		if (how != LINUX_DEVICE_REFUSED)
			free_page(is.root | present);
	});
}

bool table_in_use(unsigned long long top)
{
	bool used = false;
	for_each_device([top, &used](const ferry_jump_device &is, linux_adoption how) {
		used |= is.table == top && how == LINUX_DEVICE_ADOPTED;
	});
	return used;
}

void free_jump_pasids(unsigned long long top)
{
	for_each_device([top](const ferry_jump_device &is, linux_adoption how) {
		if (is.table != top || how != LINUX_DEVICE_DONE || !is.scalable)
			return;
		free_page(word_of(is.context[0] & address_bits, 0));
		free_page(is.context[0]);
	});
}

Result<void> jump_create()
{
	jump = TRY(ferry::make<Locked>()).release();
	return {};
}

void jump_destroy()
{
	ferry::destroy(jump);
	jump = nullptr;
}

} // namespace iommu

int ferry_iommu_save(device *dev)
{
	auto locked = iommu::jump->lock();
	return ferry::to_errno(locked->save(dev));
}

void ferry_iommu_unsave(device *dev)
{
	auto locked = iommu::jump->lock();
	locked->unsave(dev);
}
