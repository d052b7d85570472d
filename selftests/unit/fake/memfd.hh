// SPDX-License-Identifier: GPL-2.0
// memfd/linux.h on the host: shmem files whose page cache is a map, with what a
// kernel would do badly about: a pin on a page that is gone, a fault on a hole
// while new pages are held back, a folio that is freed twice.
#pragma once

#include "fake.hh"

#include <memfd/linux.h>

#include <map>
#include <vector>

namespace fake {

using Index = unsigned long long;

struct Folio {
	unsigned int order = 0;
	bool uptodate = true;
	bool dirty = true;
	bool poisoned = false;
	// In memory that the next kernel overwrites.
	bool in_scratch = false;
	// What every byte of it is.
	unsigned char byte = 0;
	int pins = 0;
	// Swapped out: has no page frame, and may get another one.
	bool swapped = false;
	unsigned long long pfn = 0;
};

// A file, and its inode.
struct Shmem {
	explicit Shmem(unsigned long long size) : size{size}
	{
	}

	Shmem(const Shmem &) = delete;
	Shmem &operator=(const Shmem &) = delete;
	~Shmem();

	operator struct file *()
	{
		return reinterpret_cast<struct file *>(this);
	}
	static Shmem &of(struct file *file)
	{
		return *reinterpret_cast<Shmem *>(file);
	}

	// Puts a folio into the page cache; the next free page frames if none is
	// given, so that what is added in a row is contiguous.
	Folio &add(Index index, unsigned int order = 0, unsigned char byte = 1,
		   unsigned long long pfn = 0);
	// Puts one large folio where there are small ones and holes, as khugepaged.
	void collapse(Index index, unsigned int order);
	// Makes small folios of a large one that begins here, or frees one, as truncation.
	void split(Index index);
	void free(Index index);
	// The folio that has this page, or null.
	Folio *at(Index index);
	unsigned long long pages() const;
	// All that SEEK_DATA would find: pages that are up to date.
	unsigned long long data() const;

	unsigned long long size;
	unsigned long long pos = 0;
	unsigned int seals = 0;
	unsigned int mode = 0777;
	unsigned long nlink = 0;
	bool shmem = true;
	// Of hugetlb: order of a page, and what is reserved besides the pages.
	unsigned int huge_order = 0;
	std::vector<linux_extent> reserved;
	bool frozen = false;
	bool held = false;
	std::map<Index, Folio> cache;
	// Called before each pin: what the owner of the file does meanwhile.
	std::function<void(Shmem &)> meanwhile;
};

// Page frames from here on are those of files.
inline constexpr unsigned long long shmem_pfns = 0x1000000;

// A folio of any file, by its first page frame, or null.
Folio *shmem_folio(unsigned long long pfn);

// Folios that belong to nobody: what a restore gives to its caller, each with
// one reference, until they are inserted or freed.
struct Loose {
	unsigned int order = 0;
	unsigned char byte = 0;
};
extern std::map<unsigned long long, Loose> shmem_loose;

// Files that linux_shmem_create() made and nobody put.
unsigned long shmem_files();
void shmem_drop(struct file *file);
// Folios that became pages of a pool of hugetlb.
extern unsigned long hugetlb_adopted;
// What linux_shmem_keep() has looked at, in pages.
extern unsigned long long shmem_kept;
// Whether a freeze looks for pages that are astray.
extern bool shmem_checks;
// Whether pages may have lost their pin or their place, by somebody else's fault.
extern bool shmem_astray;

} // namespace fake
