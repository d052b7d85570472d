// SPDX-License-Identifier: GPL-2.0
#include "memfd.hh"

#include <abi/memfd.h>

#include <algorithm>
#include <cerrno>
#include <set>

namespace fake {

std::map<unsigned long long, Loose> shmem_loose;
unsigned long long shmem_kept;
unsigned long hugetlb_adopted;
bool shmem_checks;
bool shmem_astray;

namespace {

std::set<Shmem *> made;
// Every folio in a page cache, by its page frame.
std::map<unsigned long long, Folio *> frames;
long pins;
long frozen;
long held;
long rooms;
long told; // folios that the next kernel expects

[[maybe_unused]] const bool counted = [] {
	add_counter("pins", [] { return pins; });
	add_counter("frozen files", [] { return frozen; });
	add_counter("held files", [] { return held; });
	add_counter("reserved rooms", [] { return rooms; });
	add_counter("folios of which the next kernel is told", [] { return told; });
	add_counter("loose folios", [] { return long(shmem_loose.size()); });
	add_counter("memfds", [] { return long(made.size()); });
	return true;
}();

Index size_of(const Folio &folio)
{
	return 1ull << folio.order;
}

unsigned long long free_pfn(unsigned int order)
{
	unsigned long long pfn = shmem_pfns;
	if (!frames.empty()) {
		auto &[last, folio] = *frames.rbegin();
		pfn = std::max(pfn, last + size_of(*folio));
	}
	unsigned long long align = 1ull << order;
	return (pfn + align - 1) & ~(align - 1);
}

void set_flag(bool &flag, bool value, long &count, const char *what)
{
	if (flag == value)
		bug("a file is %s twice", what);
	count += int(value) - int(flag);
	flag = value;
}

void unpin(Folio &folio)
{
	--pins;
	if (--folio.pins < 0)
		bug("a folio is unpinned more often than pinned");
}

void forget(Shmem &shmem)
{
	for (auto &[index, folio] : shmem.cache) {
		if (folio.pins)
			bug("a pinned folio is freed");
		if (shmem_folio(folio.pfn) == &folio)
			frames.erase(folio.pfn);
	}
	shmem.cache.clear();
}

} // namespace

Shmem::~Shmem()
{
	if (frozen || held)
		bug("a file goes that is frozen or held");
	forget(*this);
}

Folio &Shmem::add(Index index, unsigned int order, unsigned char byte, unsigned long long pfn)
{
	if (index & ((1ull << order) - 1))
		bug("a folio of order %u at page %llu", order, index);
	if (at(index))
		bug("page %llu is added twice", index);
	Folio &folio = cache[index];
	folio.order = order;
	folio.byte = byte;
	folio.pfn = pfn ? pfn : free_pfn(order);
	// After a kexec a file of the last kernel may still be there.
	frames.emplace(folio.pfn, &folio);
	return folio;
}

void Shmem::collapse(Index index, unsigned int order)
{
	for (Index page = index; page < index + (1ull << order); ++page) {
		auto small = cache.find(page);
		if (small == cache.end())
			continue;
		if (small->second.pins)
			bug("a pinned folio is collapsed");
		frames.erase(small->second.pfn);
		cache.erase(small);
	}
	add(index, order);
}

void Shmem::split(Index index)
{
	auto large = cache.extract(index);
	Folio folio = large.mapped();
	if (folio.pins)
		bug("a pinned folio is split");
	frames.erase(folio.pfn);
	for (Index page = 0; page < size_of(folio); ++page)
		add(index + page, 0, folio.byte, folio.pfn + page);
}

void Shmem::free(Index index)
{
	auto folio = cache.find(index);
	if (folio->second.pins)
		bug("a pinned folio is freed");
	frames.erase(folio->second.pfn);
	cache.erase(folio);
}

Folio *Shmem::at(Index index)
{
	auto next = cache.upper_bound(index);
	if (next == cache.begin())
		return nullptr;
	auto &[first, folio] = *std::prev(next);
	return index < first + size_of(folio) ? &folio : nullptr;
}

unsigned long long Shmem::pages() const
{
	unsigned long long pages = 0;
	for (auto &[index, folio] : cache)
		pages += size_of(folio);
	return pages;
}

unsigned long long Shmem::data() const
{
	unsigned long long pages = 0;
	for (auto &[index, folio] : cache)
		pages += folio.uptodate ? size_of(folio) : 0;
	return pages;
}

Folio *shmem_folio(unsigned long long pfn)
{
	auto at = frames.find(pfn);
	return at == frames.end() ? nullptr : at->second;
}

unsigned long shmem_files()
{
	return made.size();
}

void shmem_drop(struct file *file)
{
	linux_shmem_put(file);
}

} // namespace fake

using namespace fake;

extern "C" {

// ---- any shmem file ----

bool linux_shmem_is(struct file *file)
{
	return Shmem::of(file).shmem && !Shmem::of(file).nlink;
}

unsigned long linux_shmem_id(struct file *file)
{
	return reinterpret_cast<unsigned long>(file);
}

void linux_shmem_look(struct file *file, struct linux_shmem_attrs *attrs)
{
	const Shmem &shmem = Shmem::of(file);
	*attrs = {shmem.size, shmem.pos, shmem.seals, shmem.mode};
}

// ---- in the kernel that preserves ----

void linux_shmem_freeze(struct file *file, bool freeze)
{
	Shmem &shmem = Shmem::of(file);
	if (shmem.held)
		bug("the inode lock is taken while new pages are held back");
	set_flag(shmem.frozen, freeze, frozen, "frozen");
}

void linux_shmem_hold(struct file *file, bool hold)
{
	set_flag(Shmem::of(file).held, hold, held, "held");
}

unsigned long long linux_shmem_pages(struct file *file)
{
	return Shmem::of(file).pages();
}

unsigned int linux_shmem_extents(struct file *file, unsigned long long first,
				 unsigned long long end, struct linux_extent *extent,
				 unsigned int max)
{
	Shmem &shmem = Shmem::of(file);
	unsigned int nr = 0;
	if (!max || first >= end)
		bug("extents of nothing");
	for (auto &[index, folio] : shmem.cache) {
		if (index + size_of(folio) <= first)
			continue;
		if (index >= end)
			break;
		if (nr && extent[nr - 1].end == index) {
			extent[nr - 1].end += size_of(folio);
			continue;
		}
		if (nr == max)
			break;
		extent[nr++] = {index, index + size_of(folio)};
	}
	return nr;
}

void linux_shmem_keep(struct file *file, unsigned long long first, unsigned long long end)
{
	for (; first < end; ++first) {
		++shmem_kept;
		if (Folio *folio = Shmem::of(file).at(first))
			folio->dirty = true;
	}
}

int linux_shmem_pin(struct file *file, unsigned long long first, unsigned long long end,
		    struct linux_shmem_batch *batch)
{
	Shmem &shmem = Shmem::of(file);
	if (!shmem.frozen)
		bug("pages of a file are pinned that may shrink");
	if (first * 4096 >= shmem.size || first >= end)
		bug("page %llu is beyond the end of the file, or of the range", first);
	if (inject("memfd_pin_folios"))
		return -ENOMEM;
	if (shmem.meanwhile)
		shmem.meanwhile(shmem);

	int nr = 0;
	unsigned int folios = 0;
	for (Index index = first; index < end && index * 4096 < shmem.size;) {
		Folio *folio = shmem.at(index);
		if (!folio) {
			auto next = shmem.cache.lower_bound(index);
			if (next == shmem.cache.end())
				break;
			index = next->first;
			continue;
		}
		if (folio->poisoned) {
			linux_shmem_unpin(batch->pfn, folios);
			return -EHWPOISON;
		}
		if (!shmem.held || folio->dirty || folio->swapped)
			folio->swapped = false;
		else
			bug("page %llu may be dropped meanwhile", index);
		Index start = index & ~(size_of(*folio) - 1);
		++pins;
		++folio->pins;
		unsigned short flags = 0;
		if (!folio->uptodate) {
			folio->byte = 0;
			flags = FERRY_MEMFD_UNWRITTEN;
		}
		unsigned short order = static_cast<unsigned short>(folio->order);
		linux_shmem_stretch *last = nr ? &batch->stretch[nr - 1] : nullptr;
		if (!last || last->index + (Index{last->nr} << last->order) != start ||
		    last->order != order || last->flags != flags) {
			last = &batch->stretch[nr++];
			*last = {start, 0, order, flags};
		}
		++last->nr;
		batch->pfn[folios++] = folio->pfn;
		index = start + size_of(*folio);
		if (folios == LINUX_SHMEM_BATCH)
			break;
	}
	return nr;
}

void linux_shmem_unpin(const unsigned long long *pfn, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; ++i) {
		if (Folio *folio = shmem_folio(pfn[i]))
			unpin(*folio);
		else
			bug("a folio is unpinned that is not there");
	}
}

unsigned long long linux_shmem_unpin_range(struct file *file, unsigned long long first,
					   unsigned long long end)
{
	unsigned long long astray = 0;
	while (first < end) {
		Folio *folio = Shmem::of(file).at(first);
		const Index next = folio ? (first & ~(size_of(*folio) - 1)) + size_of(*folio)
					 : first + 1;
		if (folio && folio->pins) {
			unpin(*folio);
		} else {
			astray += std::min(next, end) - first;
			if (!shmem_astray)
				bug("page %llu is not there, or not pinned, to be unpinned", first);
		}
		first = next;
	}
	return astray;
}

bool linux_shmem_checks(void)
{
	return shmem_checks;
}

const char *linux_shmem_astray(struct file *file, const struct ferry_run *run,
			       unsigned long long *index)
{
	Shmem &shmem = Shmem::of(file);
	if (!shmem.held)
		bug("pages are checked that may come and go");
	for (unsigned int i = 0; i < run->count; ++i) {
		const bool descending = run->flags & FERRY_RUN_DESCENDING;
		const Index at = descending ? run->count - 1 - i : i;
		*index = run->index + (static_cast<Index>(i) << run->order);
		Folio *folio = shmem.at(*index);
		if (!folio)
			return "is gone";
		if (folio->order != run->order)
			return "was split";
		if (folio->pfn != run->pfn + (at << run->order))
			return "was replaced";
		if (!folio->pins)
			return "is not pinned";
		if (folio->in_scratch)
			return "is in scratch memory";
	}
	return nullptr;
}

const char *linux_shmem_name(struct file *)
{
	return "memfd:test";
}

// ---- in the kernel that gets them ----

unsigned int linux_shmem_max_order(void)
{
	return 9;
}

static Shmem *create(const struct linux_shmem_attrs *attrs, struct file **file)
{
	auto shmem = new Shmem(attrs->size);
	shmem->pos = attrs->pos;
	shmem->seals = attrs->seals;
	shmem->mode = attrs->mode;
	made.insert(shmem);
	*file = *shmem;
	return shmem;
}

int linux_shmem_create(const struct linux_shmem_attrs *attrs, struct file **file)
{
	if (inject("memfd_alloc_file"))
		return -ENFILE;
	create(attrs, file);
	return 0;
}

int linux_shmem_reserve(struct file *file, unsigned long long pages, struct linux_shmem_room *room)
{
	if (Shmem::of(file).pages())
		bug("room is made in a file that has pages");
	if (pages > LINUX_SHMEM_MAX_PAGES)
		bug("room for %llu pages", pages);
	if (inject("shmem_reserve_room"))
		return -ENOMEM;
	++rooms;
	room->pages = room->total = pages;
	return 0;
}

void linux_shmem_settle(struct file *file, struct linux_shmem_room *room)
{
	--rooms;
	if (room->total - room->pages != Shmem::of(file).pages())
		bug("%llu pages were paid for, and the file has %llu", room->total - room->pages,
		    Shmem::of(file).pages());
}

static int insert_one(Shmem &shmem, const ferry_run *run, int err, linux_shmem_room *room)
{
	if (run->order > linux_shmem_max_order())
		bug("a folio of order %u is inserted", run->order);
	for (unsigned int i = 0; i < run->count; ++i) {
		const Index offset = static_cast<Index>(i) << run->order;
		const bool descending = run->flags & FERRY_RUN_DESCENDING;
		const Index at = descending ? run->count - 1 - i : i;
		auto loose = shmem_loose.find(run->pfn + (at << run->order));
		if (loose == shmem_loose.end() || loose->second.order != run->order) {
			bug("page frame %#llx is inserted that is nobody's to give", run->pfn + at);
			continue;
		}
		unsigned char byte = loose->second.byte;
		shmem_loose.erase(loose);
		if (!err && shmem.at(run->index + offset))
			err = -EEXIST;
		if (err)
			continue;
		if (room->pages < 1ull << run->order)
			bug("a page is inserted that was not paid for");
		room->pages -= 1ull << run->order;
		Folio &folio = shmem.add(run->index + offset, run->order, byte,
					 run->pfn + (at << run->order));
		folio.uptodate = byte || !(run->flags & FERRY_MEMFD_UNWRITTEN);
	}
	return err;
}

int linux_shmem_insert(struct file *file, const struct ferry_run *run, unsigned int nr,
		       struct linux_shmem_room *room)
{
	if (!nr || nr > LINUX_SHMEM_RUNS)
		bug("%u runs are inserted at a time", nr);
	int err = 0;
	for (unsigned int i = 0; i < nr; ++i)
		err = insert_one(Shmem::of(file), &run[i], err, room);
	return err;
}

void linux_shmem_free(const struct ferry_run *run)
{
	for (unsigned int i = 0; i < run->count; ++i) {
		if (!shmem_loose.erase(run->pfn + (static_cast<Index>(i) << run->order)))
			bug("a folio is freed that is nobody's to free");
	}
}

// ---- hugetlb ----

bool linux_hugetlb_is(struct file *file)
{
	return Shmem::of(file).huge_order && !Shmem::of(file).nlink;
}

unsigned int linux_hugetlb_order(struct file *file)
{
	return Shmem::of(file).huge_order;
}

unsigned long linux_hugetlb_reserved(struct file *file, struct linux_extent *extent,
				     unsigned long max)
{
	const auto &reserved = Shmem::of(file).reserved;
	std::copy_n(reserved.begin(), std::min<std::size_t>(max, reserved.size()), extent);
	return reserved.size();
}

int linux_hugetlb_tell(const struct ferry_run *run, bool come)
{
	if (come && inject("hugetlb_tell_carried"))
		return -ENOSPC;
	told += come ? long(run->count) : -long(run->count);
	return 0;
}

int linux_hugetlb_create(const struct linux_shmem_attrs *attrs, unsigned int order,
			 struct file **file)
{
	if (inject("hugetlb_file_setup"))
		return -ENOMEM;
	Shmem *shmem = create(attrs, file);
	shmem->shmem = false;
	shmem->huge_order = order;
	return 0;
}

static bool take_loose(unsigned long long pfn, unsigned int order, unsigned char &byte)
{
	auto loose = shmem_loose.find(pfn);
	if (loose == shmem_loose.end() || loose->second.order != order) {
		bug("page frame %#llx is nobody's to give", pfn);
		return false;
	}
	byte = loose->second.byte;
	shmem_loose.erase(loose);
	++hugetlb_adopted;
	return true;
}

int linux_hugetlb_insert(struct file *file, const struct ferry_run *run)
{
	Shmem &shmem = Shmem::of(file);
	int err = 0;
	if (run->order != shmem.huge_order)
		bug("a folio of order %u is inserted", run->order);
	for (unsigned int i = 0; i < run->count; ++i) {
		const bool descending = run->flags & FERRY_RUN_DESCENDING;
		const Index at = descending ? run->count - 1 - i : i;
		const Index index = run->index + (static_cast<Index>(i) << run->order);
		const unsigned long long pfn = run->pfn + (at << run->order);
		unsigned char byte;
		if (!take_loose(pfn, run->order, byte))
			continue;
		if (!err && shmem.at(index))
			err = -EEXIST;
		if (!err)
			shmem.add(index, run->order, byte, pfn);
	}
	return err;
}

int linux_hugetlb_reserve(struct file *file, unsigned long long first, unsigned long long end)
{
	if (inject("hugetlb_reserve_pages"))
		return -ENOMEM;
	Shmem::of(file).reserved.push_back({first, end});
	return 0;
}

unsigned int linux_hugetlb_free(const struct ferry_run *run)
{
	unsigned char byte;
	for (unsigned int i = 0; i < run->count; ++i)
		take_loose(run->pfn + (static_cast<Index>(i) << run->order), run->order, byte);
	return 0;
}

void linux_shmem_put(struct file *file)
{
	Shmem *shmem = &Shmem::of(file);
	if (!made.erase(shmem))
		bug("a file is put that was not made");
	delete shmem;
}

} // extern "C"
