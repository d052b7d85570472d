// SPDX-License-Identifier: GPL-2.0
// A guest_memfd that is preserved, in the kernel that preserves it.
#pragma once

#include <ferry/extents.hh>

#include "kvm/group.hh"

namespace virt {

/*
 * The pages are found and described while the guest still runs. From then on
 * they stay where they are: pages of a guest_memfd are never moved, and holes
 * cannot be punched into one that is preserved. Their contents may change until
 * the jump. freeze() keeps new ones from being added for good, and catches up with
 * those that came.
 */
class Gmem : public ferry::Linked<Gmem> {
    public:
	static ferry::Result<ferry::Owned<Gmem>> preserve(ferry_luo_args &args, ferry_owner *owner);
	Gmem(file *its_file, Membership group, ferry_owner *owner);
	~Gmem();

	ferry::Result<void> freeze(ferry_luo_file *self);
	void unfreeze();
	ferry::Result<void> save(ferry_writer *writer);

	bool is(file *other) const;

    private:
	ferry::Result<void> catch_up(ferry_luo_file *self);
	ferry::Result<void> record(const ferry_run &run);
	ferry::Result<void> append(const ferry_run &run);
	ferry::Result<void> save_slots();

	file *file_;
	Membership group_;
	ferry_owner *owner_;
	ferry_runs *runs_ = nullptr;
	ferry::Extents covered_;
	unsigned long long recorded_ = 0; // pages
	PreservedBlob slots_;
	bool frozen_ = false;
};

} // namespace virt
