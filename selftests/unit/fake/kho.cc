// SPDX-License-Identifier: GPL-2.0
// kho/linux.h on the host: physical memory, and a KHO that keeps it.
#include "kho.hh"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>

#include <sanitizer/asan_interface.h>

#include "kho/linux.h"

namespace fake {

Pfn node_boundary = end_pfn, node_width = end_pfn;
bool scatter;
bool fail_restore;

namespace {

constexpr std::size_t page_size = LINUX_PAGE_SIZE;

// Folios of an order, side by side.
struct Range {
	unsigned long long count;
	unsigned int order;

	Pfn pages() const
	{
		return count << order;
	}
};
using Ranges = std::map<Pfn, Range>;

Ranges::iterator covering(Ranges &ranges, Pfn pfn)
{
	auto at = ranges.upper_bound(pfn);
	if (at == ranges.begin())
		return ranges.end();
	--at;
	return pfn < at->first + at->second.pages() ? at : ranges.end();
}

bool overlaps(Ranges &ranges, Pfn pfn, Pfn pages)
{
	auto at = ranges.lower_bound(pfn);
	return covering(ranges, pfn) != ranges.end() ||
	       (at != ranges.end() && at->first < pfn + pages);
}

unsigned char *memory()
{
	static auto *arena = [] {
		void *at = mmap(nullptr, (end_pfn - first_pfn) * page_size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (at == MAP_FAILED)
			std::abort();
		ASAN_POISON_MEMORY_REGION(at, (first_folio - first_pfn) * page_size);
		return static_cast<unsigned char *>(at);
	}();
	return arena;
}

std::set<Pfn> allocated; // by linux_page_alloc()
Pfn next_page = first_pfn;
Ranges preserved_now; // with the arguments of linux_preserve()
Ranges owned; // after linux_restore()
std::map<std::string, Handover::Subtree> subtrees;
Handover incoming; // what is left of it

bool is_small(Pfn pfn)
{
	return pfn >= first_pfn && pfn < first_folio;
}

void poison(Pfn pfn)
{
	if (is_small(pfn))
		ASAN_POISON_MEMORY_REGION(page_at(pfn), page_size);
}

void unpoison(Pfn pfn)
{
	if (is_small(pfn))
		ASAN_UNPOISON_MEMORY_REGION(page_at(pfn), page_size);
}

bool exists(Pfn pfn, Pfn pages)
{
	return pfn >= first_pfn && pages <= end_pfn - first_pfn && pfn <= end_pfn - pages;
}

// As __kho_preserve_pages_order() does.
unsigned int piece_order(Pfn pfn, Pfn end, bool by_node)
{
	unsigned int order =
		std::min<unsigned int>(std::countr_zero(pfn), std::bit_width(end - pfn) - 1);
	while (by_node && order && linux_node(pfn) != linux_node(pfn + (1ull << order) - 1))
		--order;
	return order;
}

void free_pages(Pfn pfn, Pfn pages)
{
	for (Pfn at = pfn; at < pfn + pages; ++at)
		poison(at);
}

struct Setup {
	Setup()
	{
		add_counter("pages", [] { return long(allocated.size()); });
		add_counter("preservations", [] { return long(preserved_now.size()); });
		add_counter("subtrees", [] { return long(subtrees.size()); });
		add_counter("restored folios", [] {
			long folios = 0;
			for (auto &[pfn, range] : owned)
				folios += long(range.count);
			return folios;
		});
		add_counter("folios not restored", [] { return long(incoming.keys.size()); });
		add_counter("references to kho", [] { return long(kho_module().refs); });
		add_reset([] {
			node_boundary = node_width = end_pfn;
			scatter = false;
			fail_restore = false;
			next_page = first_pfn;
			// A test that failed may have kept one.
			kho_module().refs = 0;
		});
	}
} setup;

} // namespace

module &kho_module()
{
	static module module{.name = "kho"};
	return module;
}

void *page_at(Pfn pfn)
{
	if (!exists(pfn, 1)) {
		bug("an access to page frame %#llx, which is not memory", pfn);
		static unsigned char nothing[page_size];
		return nothing;
	}
	return memory() + (pfn - first_pfn) * page_size;
}

bool owns(Pfn pfn)
{
	return covering(owned, pfn) != owned.end();
}

bool preserved(Pfn pfn)
{
	return covering(preserved_now, pfn) != preserved_now.end();
}

std::size_t waiting()
{
	return incoming.keys.size();
}

void Handover::preserve(Pfn pfn, const Page &page)
{
	keys[pfn] = 0;
	pages[pfn] = page;
}

std::vector<Pfn> Handover::find(const void *magic, std::size_t size) const
{
	std::vector<Pfn> found;
	for (auto &[pfn, page] : pages) {
		if (!std::memcmp(page.data(), magic, size))
			found.push_back(pfn);
	}
	return found;
}

Handover handover()
{
	Handover carried;
	carried.subtrees = subtrees;
	for (auto &[pfn, range] : preserved_now) {
		Pfn end = pfn + range.pages();
		for (Pfn at = pfn; at < end;) {
			unsigned int order = range.order ? range.order : piece_order(at, end, true);
			carried.keys[at] = order;
			at += 1ull << order;
		}
		for (Pfn at = pfn; at < end && is_small(at); ++at)
			std::memcpy(carried.pages[at].data(), page_at(at), page_size);
	}
	return carried;
}

void boot(const Handover &handover)
{
	if (!allocated.empty() || !preserved_now.empty() || !subtrees.empty())
		bug("a boot with %zu pages allocated, %zu preservations and %zu subtrees",
		    allocated.size(), preserved_now.size(), subtrees.size());
	power_off();
	incoming = handover;
	for (auto &[pfn, page] : handover.pages) {
		unpoison(pfn);
		std::memcpy(page_at(pfn), page.data(), page_size);
	}
}

void power_off()
{
	for (auto &[pfn, page] : incoming.pages)
		poison(pfn);
	incoming = {};
	for (auto &[pfn, range] : owned)
		free_pages(pfn, range.pages());
	owned.clear();
}

} // namespace fake

using namespace fake;

extern "C" {

// ---- pages, in the kernel that preserves ----

void *linux_page_alloc(void)
{
	if (inject("linux_page_alloc"))
		return nullptr;
	for (Pfn tried = first_pfn; tried < first_folio; ++tried) {
		Pfn pfn = next_page;
		next_page += scatter ? 3 : 1;
		if (next_page >= first_folio)
			next_page = first_pfn + next_page % 3;
		// Not one that the last kernel's data or their new owner is in.
		if (allocated.count(pfn) || incoming.pages.count(pfn) || owns(pfn))
			continue;
		allocated.insert(pfn);
		unpoison(pfn);
		return std::memset(page_at(pfn), 0, page_size);
	}
	return nullptr;
}

void linux_page_free(void *page)
{
	Pfn pfn = linux_page_phys(page) / page_size;
	if (!allocated.erase(pfn))
		bug("page frame %#llx is freed, but not allocated", pfn);
	if (preserved(pfn))
		bug("page frame %#llx is freed while it is preserved", pfn);
	poison(pfn);
}

unsigned long long linux_page_phys(const void *page)
{
	auto at = static_cast<const unsigned char *>(page);
	if (at < memory() || at >= memory() + (end_pfn - first_pfn) * page_size) {
		bug("the physical address of something that is not a page");
		return 0;
	}
	return first_pfn * page_size + (at - memory());
}

void *linux_page_at(unsigned long long phys)
{
	return static_cast<unsigned char *>(page_at(phys / page_size)) + phys % page_size;
}

int linux_node(unsigned long long pfn)
{
	if (!exists(pfn, 1))
		bug("the node of page frame %#llx, which is not memory", pfn);
	return pfn < node_boundary ? 0 : static_cast<int>(1 + (pfn - node_boundary) / node_width);
}

static int preserve_one(unsigned long long pfn, unsigned int count, unsigned int order)
{
	Range range{count, order};
	if (!count || order > LINUX_MAX_ORDER || pfn & ((1ull << order) - 1) ||
	    !exists(pfn, range.pages())) {
		bug("%u folios of order %u at page frame %#llx cannot be preserved", count, order,
		    pfn);
		return -EINVAL;
	}
	if (overlaps(preserved_now, pfn, range.pages()))
		bug("page frame %#llx is preserved twice", pfn);
	for (Pfn at = pfn; at < pfn + range.pages() && is_small(at); ++at) {
		if (!allocated.count(at))
			bug("page frame %#llx is preserved, but not allocated", at);
	}
	preserved_now[pfn] = range;
	return 0;
}

int linux_preserve(const struct ferry_run *run, unsigned int nr)
{
	if (!nr || nr > LINUX_MAX_RUNS)
		bug("%u runs are preserved at a time", nr);
	if (inject("linux_preserve"))
		return -ENOMEM;
	for (unsigned int i = 0; i < nr; ++i) {
		if (int err = preserve_one(run[i].pfn, run[i].count, run[i].order))
			return err;
	}
	return 0;
}

static void unpreserve_one(unsigned long long pfn, unsigned int count, unsigned int order)
{
	auto at = preserved_now.find(pfn);
	if (at == preserved_now.end() || at->second.count != count || at->second.order != order) {
		bug("%u folios of order %u at page frame %#llx were not preserved as that", count,
		    order, pfn);
		return;
	}
	preserved_now.erase(at);
}

void linux_unpreserve(const struct ferry_run *run, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; ++i)
		unpreserve_one(run[i].pfn, run[i].count, run[i].order);
}

int linux_preserve_list(unsigned long long pfn, unsigned int order, const unsigned int *place,
			unsigned int nr)
{
	if (!nr)
		bug("an empty list is preserved");
	if (inject("linux_preserve_list"))
		return -ENOMEM;
	for (unsigned int i = 0; i < nr; ++i) {
		if (int err = preserve_one(pfn + (Pfn{place[i]} << order), 1, order))
			return err;
	}
	return 0;
}

void linux_unpreserve_list(unsigned long long pfn, unsigned int order, const unsigned int *place,
			   unsigned int nr)
{
	for (unsigned int i = 0; i < nr; ++i)
		unpreserve_one(pfn + (Pfn{place[i]} << order), 1, order);
}

// ---- pages, in the kernel that gets them ----

static bool is_preserved(unsigned long long pfn, unsigned int count, unsigned int order)
{
	const Pfn end = pfn + Range{count, order}.pages();
	for (Pfn at = pfn; at < end;) {
		unsigned int want = order ? order : piece_order(at, end, false);
		auto key = incoming.keys.find(at);
		if (key == incoming.keys.end() || key->second != want)
			return false;
		at += 1ull << want;
	}
	return true;
}

unsigned int linux_count_preserved(const struct ferry_run *run, unsigned int nr)
{
	if (!nr || nr > LINUX_MAX_RUNS)
		bug("%u runs are looked for at a time", nr);
	for (unsigned int i = 0; i < nr; ++i) {
		if (!is_preserved(run[i].pfn, run[i].count, run[i].order))
			return i;
	}
	return nr;
}

unsigned int linux_count_preserved_list(unsigned long long pfn, unsigned int order,
					const unsigned int *place, unsigned int nr)
{
	if (!nr)
		bug("an empty list is looked for");
	for (unsigned int i = 0; i < nr; ++i) {
		if (!is_preserved(pfn + (Pfn{place[i]} << order), 1, order))
			return i;
	}
	return nr;
}

static bool restore_one(unsigned long long pfn, unsigned int count, unsigned int order)
{
	if (!is_preserved(pfn, count, order) || (fail_restore && inject("linux_restore")))
		return false;

	Range range{count, order};
	const Pfn end = pfn + range.pages();
	incoming.keys.erase(incoming.keys.lower_bound(pfn), incoming.keys.lower_bound(end));
	for (Pfn page = pfn; page < end && is_small(page); ++page)
		incoming.pages.erase(page);
	owned[pfn] = range;
	return true;
}

unsigned int linux_restore(const struct ferry_run *run, unsigned int nr)
{
	if (!nr || nr > LINUX_MAX_RUNS)
		bug("%u runs are restored at a time", nr);
	for (unsigned int i = 0; i < nr; ++i) {
		if (!restore_one(run[i].pfn, run[i].count, run[i].order))
			return i;
	}
	return nr;
}

unsigned int linux_restore_list(unsigned long long pfn, unsigned int order,
				const unsigned int *place, unsigned int nr)
{
	if (!nr)
		bug("an empty list is restored");
	for (unsigned int i = 0; i < nr; ++i) {
		if (!restore_one(pfn + (Pfn{place[i]} << order), 1, order))
			return i;
	}
	return nr;
}

void linux_release(unsigned long long pfn, unsigned int count, unsigned int order)
{
	Range range{count, order};
	Pfn end = pfn + range.pages();

	for (Pfn at = pfn; at < end;) {
		auto own = covering(owned, at);
		if (own == owned.end() || own->second.order != order ||
		    (at - own->first) & ((1ull << order) - 1)) {
			bug("page frame %#llx is released, but nobody has it", at);
			return;
		}
		// Whatever of this range lies before and after stays owned.
		Pfn own_begin = own->first, own_end = own_begin + own->second.pages();
		Pfn until = std::min(end, own_end);
		owned.erase(own);
		if (own_begin < at)
			owned[own_begin] = {(at - own_begin) >> order, order};
		if (until < own_end)
			owned[until] = {(own_end - until) >> order, order};
		free_pages(at, until - at);
		at = until;
	}
}

// ---- the one page that the kernel's KHO knows ----

int linux_publish(const char *name, void *page, ferry_size size)
{
	unsigned long long phys = linux_page_phys(page);
	if (!preserved(phys / page_size))
		bug("subtree '%s' is published, but not preserved", name);
	if (inject("linux_publish"))
		return -ENOMEM;
	if (!subtrees.emplace(name, Handover::Subtree{phys, size}).second)
		return -EEXIST;
	return 0;
}

void linux_withdraw(void *page)
{
	unsigned long long phys = linux_page_phys(page);
	// Of a page that is not published the kernel takes no notice either.
	std::erase_if(subtrees, [&](auto &subtree) { return subtree.second.phys == phys; });
}

int linux_handed_over(const char *name, unsigned long long *phys, ferry_size *size)
{
	auto at = incoming.subtrees.find(name);
	if (at == incoming.subtrees.end())
		return -ENOENT;
	*phys = at->second.phys;
	*size = at->second.size;
	return 0;
}

void linux_forget(unsigned long long phys)
{
	for (auto &[name, is] : incoming.subtrees)
		if (is.phys == phys)
			return;
	bug("a subtree is forgotten that was never there");
}

struct module *linux_this_module(void)
{
	return &fake::kho_module();
}

} // extern "C"
