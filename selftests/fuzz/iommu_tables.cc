// SPDX-License-Identifier: GPL-2.0
// An iommufd of the last kernel whose page table is anything at all: it is
// retrieved, compared with a new one and finished. No page is followed that is
// not one of its own (the fake aborts on those), nothing is left over, and it is
// the same as itself or damaged.
//
// The input: what to do, the record of the page table, and changes of entries.
#include "fake/carry.hh"
#include "fake/iommu.hh"
#include "pages.hh"

#include <abi/iommu.h>
#include <abi/luo.h>
#include <ferry/luo.h>
#include <uapi/linux/liveupdate.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "kho/linux.h"
#include "luo/linux.h"

namespace {

enum : unsigned char {
	not_retrieved = 1,
	in_use = 2,
	other_levels = 4, // in the record
	with_orders = 8, // a run of the list has folios of four pages
};

struct Head {
	unsigned char how;
	unsigned char fail; // the call of the kernel that fails
	unsigned char top; // which of the pages
	unsigned char levels;
};

// One entry of a page: a page of the table, or anything.
struct Change {
	unsigned char page;
	unsigned char to; // 0x80: one of our pages
	unsigned short index;
	unsigned long long value;
};

constexpr fake::Pfn blocks = fake::first_pfn + 0x100, tables = fake::first_pfn + 0x1000;
constexpr unsigned int pages = 12;

fake::Address phys_of(unsigned int page)
{
	return (tables + page % pages) * 4096;
}

void change(fake::Handover::Page *table, fuzz::Bytes &input)
{
	while (!input.empty()) {
		const auto with = fuzz::take<Change>(input);
		fake::Address entry = with.value;
		if (with.to & 0x80)
			entry = phys_of(with.to & 0x7f) | (with.value & 0xfff);
		std::memcpy(table[with.page % pages].data() + with.index % 512 * 8, &entry,
			    sizeof(entry));
	}
}

struct Writer {
	ferry_writer *to;
	int err = 0;

	void put(const ferry_record &record, const void *object)
	{
		err = err ? err : ferry_put(to, &record, object);
	}
	void begin(const char *name)
	{
		err = err ? err : ferry_begin(to, name);
	}
	void end()
	{
		err = err ? err : ferry_end(to);
	}
};

ferry_hwpt its_hwpt;
ferry_bulk its_pages;

int save(void *, ferry_writer *to, bool)
{
	const ferry_update update{.number = 1,
				  .sessions = 1,
				  .files = 1,
				  .pages = pages,
				  .runs = 1,
				  .metadata = 0,
				  .preserve_ns = 0,
				  .freeze_ns = 0,
				  .tsc = 0,
				  .tsc_khz = 1,
				  .refusals = 0,
				  .frozen_at = 0,
				  .from = {}};
	const ferry_session session{.session_name = "vm",
				    .policy = 0,
				    .deadline_ms = 0,
				    .keyed = 0,
				    .salt = {},
				    .key_hash = {},
				    .maker = {},
				    .uid = 0,
				    .tag = 0};
	const ferry_file file{.token = 1,
			      .handler = FERRY_IOMMUFD_COMPATIBLE,
			      .pages = 0,
			      .runs = 0,
			      .metadata = 0,
			      .preserve_ns = 0,
			      .freeze_ns = 0,
			      .label = {}};
	const ferry_iommufd iommufd{.hwpts = 1};
	Writer writer{to};
	writer.put(ferry_update_record, &update);
	writer.begin("session@0");
	writer.put(ferry_session_record, &session);
	writer.begin("file@0");
	writer.put(ferry_file_record, &file);
	writer.begin("state");
	writer.put(ferry_iommufd_record, &iommufd);
	writer.begin("hwpt@0");
	writer.put(ferry_hwpt_record, &its_hwpt);
	writer.begin("tables");
	writer.put(ferry_bulk_record, &its_pages);
	for (int i = 0; i < 5; ++i)
		writer.end();
	return writer.err;
}

constexpr ferry_provider provider{"luo", nullptr, save, nullptr};

// What the last kernel left: made with kho.ko's own writer of trees.
fake::Handover carry(const Head &head, fuzz::Bytes input)
{
	fake::Handover::Page table[pages]{};
	change(table, input);
	its_hwpt = {.top = phys_of(head.top),
		    .levels = head.how & other_levels ? 3 + head.levels % 3u : 3,
		    .format = FERRY_HWPT_VTD_SECOND_STAGE,
		    .ioas = 1};
	const bool orders = head.how & with_orders;
	const ferry_run run{tables, 0, orders ? pages / 4 : pages,
			    static_cast<unsigned short>(orders ? 2 : 0), 0};
	its_pages = {};
	fake::boot({});
	void *tree = nullptr;
	long size = -1;
	if (!kho_module_init() && !ferry_kho_register(&provider)) {
		// The bulk record has to be right for the block that is made below.
		fake::Handover unused;
		its_pages = fake::carry_runs(unused, blocks, {&run, 1});
		size = kho_tree_copy(false, &tree);
		ferry_kho_unregister(&provider);
	}
	if (size < 0)
		fake::bug("the tree was not written");
	fake::Handover handover = fake::carry_tree(
		{static_cast<unsigned char *>(tree), static_cast<std::size_t>(size)});
	ferry_free(tree);
	kho_module_exit();
	fake::carry_runs(handover, blocks, {&run, 1});
	for (unsigned int i = 0; i < pages; ++i)
		handover.pages[tables + i] = table[i];
	if (orders) {
		for (unsigned int i = 0; i < pages; i += 4)
			handover.keys[tables + i] = 2;
	} else {
		fake::preserve_pages(handover, tables, pages);
	}
	return handover;
}

template <class Arg> long call(Arg &arg, const std::function<long(void *)> &ioctl)
{
	fake::user_memory(&arg, sizeof(arg));
	long result = ioctl(&arg);
	fake::user_memory_gone(&arg);
	fake::run_releases();
	return result;
}

int open_session()
{
	liveupdate_ioctl_retrieve_session arg{};
	arg.size = sizeof(arg);
	std::strcpy(reinterpret_cast<char *>(arg.name), "vm");
	long err = call(arg, [](void *user) {
		return luo_device_ioctl(LIVEUPDATE_IOCTL_RETRIEVE_SESSION, user);
	});
	return err ? -1 : arg.fd;
}

void use_session(int session, unsigned char fail)
{
	const fake::PageTable empty;
	fake::arm(fail);
	liveupdate_session_retrieve_fd arg{};
	arg.size = sizeof(arg);
	arg.token = 1;
	long err = call(arg, [&](void *user) {
		return luo_session_ioctl(fake::file_of(session)->session,
					 LIVEUPDATE_SESSION_RETRIEVE_FD, user);
	});
	const linux_table old{its_hwpt.top, its_hwpt.levels};
	const int same = iommu_compare(&old, &empty.where);
	fake::disarm();
	if (err && same != -ENOENT)
		fake::bug("a page table is known that was not retrieved");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char *data, std::size_t size)
{
	fuzz::Bytes input{data, size};
	const auto head = fuzz::take<Head>(input);
	fake::reset();
	fake::boot({});
	auto before = fake::counters();
	fake::boot(carry(head, input));
	if (kho_module_init() || luo_module_init() || iommu_module_init())
		fake::bug("a module was not loaded");
	if (head.how & in_use) {
		ferry_jump_device device{};
		device.table = its_hwpt.top;
		fake::incoming_devices = {{device, LINUX_DEVICE_ADOPTED}};
	}
	int session = open_session();
	if (session >= 0 && !(head.how & not_retrieved))
		use_session(session, head.fail);
	if (session >= 0) {
		liveupdate_session_finish arg{};
		arg.size = sizeof(arg);
		call(arg, [&](void *user) {
			return luo_session_ioctl(fake::file_of(session)->session,
						 LIVEUPDATE_SESSION_FINISH, user);
		});
	}
	for (int fd = 3; fd < 16; ++fd) {
		if (fake::file_of(fd))
			fake::close(fd);
	}
	// What is in use stays, on purpose.
	const unsigned int order = head.how & with_orders ? 2 : 0;
	for (unsigned int i = 0; i < pages; i += 1u << order) {
		if (fake::owns(tables + i))
			linux_release(tables + i, 1, order);
	}
	iommu_module_exit();
	luo_module_exit();
	fake::run_releases();
	ferry_incoming_done();
	kho_module_exit();
	fuzz::check_nothing_left(before);
	fake::power_off();
	return 0;
}
