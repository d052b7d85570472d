// SPDX-License-Identifier: GPL-2.0
// iommu/linux.h on the host: iommufds, with page tables in the memory of
// fake/kho.hh.
#pragma once

#include "kho.hh"
#include "luo.hh"

#include <iommu/linux.h>

#include <deque>
#include <functional>
#include <set>

// A PCI device, and what its IOMMU's driver knows.
struct device {
	ferry_jump_device is{};
	unsigned long long pasid[LINUX_PASID_WORDS] = {};
	// What linux_device_look() says.
	int error = 0;
	// Root table that its IOMMU is left, and how many want it spared.
	void *root = nullptr;
	int spare = 0;
};

namespace fake {

using Address = unsigned long long;

// A page table of VT-d's second stage, of pages of linux_page_alloc().
class PageTable {
    public:
	explicit PageTable(unsigned int levels = 3);
	PageTable(const PageTable &) = delete;
	PageTable &operator=(const PageTable &) = delete;
	~PageTable();

	// Maps one page of 4 KiB, 2 MiB (level 2) or 1 GiB (level 3); rights: 1 read, 2
	// write.
	void map(Address iova, Address phys, unsigned int level = 1, unsigned int rights = 3);
	// The entry for an address at a level, for damage.
	Address &entry(Address iova, unsigned int level);

	const linux_table where;
	// In the order of being made: the top first.
	std::vector<Pfn> pages;

    private:
	static Address *new_page();
};

struct Iommufd {
	struct Hwpt {
		unsigned int ioas;
		std::shared_ptr<PageTable> table;
	};
	std::vector<linux_mapping> mappings;
	std::vector<Hwpt> hwpts;
	bool frozen = false;
	// It has what cannot be carried: an object, an HWPT of another format.
	bool other_object = false, other_format = false;
	// Called between two walks over the mappings.
	std::function<void(Iommufd &)> meanwhile;
};

inline constexpr int iommufd_kind = 20;

file *new_iommufd();
Iommufd &iommufd_of(file *file);

// Where the pages of a file are, by their index.
std::map<Address, Pfn> &pages_of(file *file);
// A file whose page cache does not count in pages of 4 KiB.
extern std::set<file *> huge_files;
// Calls of linux_file_page().
extern unsigned int lookups;
// Called in linux_table_page().
extern std::function<void()> at_table_page;

// A word of a kept page, as hardware sees it that does not look into the caches.
unsigned long long flushed(unsigned long long phys, unsigned int index);

// What the last kernel handed over, and what became of it.
struct Incoming {
	ferry_jump_device is;
	linux_adoption how;
};
extern std::vector<Incoming> incoming_devices;
extern bool verifier;

} // namespace fake
