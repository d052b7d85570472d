// SPDX-License-Identifier: GPL-2.0
// A memfd of hugetlb pages that is preserved, and the handler of such files.
#pragma once

#include <abi/hugetlb.h>

#include "memfd/memfd.hh"

namespace memfd::hugetlb {

/*
 * Its pages are those of any memfd. Besides, the next kernel's boot is told how
 * many of them come, so that it does not fill the pool without them; and what
 * the file has reserved of the pool is carried.
 */
class Hugetlb {
    public:
	Hugetlb(file *its_file, ferry::Owned<Memfd> memfd, ferry_owner *owner);
	Hugetlb(const Hugetlb &) = delete;
	Hugetlb &operator=(const Hugetlb &) = delete;
	~Hugetlb();

	static ferry::Result<ferry::Owned<Hugetlb>> preserve(const ferry_luo_args &args,
							     ferry_owner *owner);

	ferry::Result<void> freeze();
	void unfreeze();
	ferry::Result<void> save(ferry_writer *writer);

    private:
	int tell(bool come);
	ferry::Result<ferry::Owned<ferry::Extents>> find_reserved() const;
	ferry::Result<void> save_reserved();
	void drop_reserved();

	file *file_;
	ferry::Owned<Memfd> memfd_;
	ferry_owner *owner_;
	// Folios that the next kernel's boot is told of.
	unsigned long long told_ = 0;
	// Ranges that are reserved, and the blob of them; null where there are none.
	ferry::Owned<ferry::Extents> reserved_;
	ferry_blob *blob_ = nullptr;
	ferry_bulk ref_{};
};

// The handler, while the module is loaded.
ferry::Result<void> begin(ferry_owner *owner);
void end();

} // namespace memfd::hugetlb
