// SPDX-License-Identifier: GPL-2.0
// Finding the file that is mapped at an address of a VMM.
#pragma once

#include <ferry/checked.hh>
#include <ferry/result.hh>

#include "kvm/linux.h"

namespace virt {

// How long to wait for what others hold for a moment only: a mmap lock, an ioctl,
// an exit to userspace. A VMM that does its part takes less than one.
constexpr unsigned int patience_ms = 5000;

// For all that one freeze, or one call, waits for.
struct Patience {
	unsigned int left_ms = patience_ms;
};

struct Backing {
	file *of; // with a reference
	unsigned long long first; // page of it
};

// linux_kvm_backing(), with patience.
inline ferry::Result<Backing> find_backing(struct kvm *kvm, unsigned long long hva,
					   unsigned long long pages, Patience &patience)
{
	// Somebody else chose both.
	auto bytes = ferry::mul(pages, 4096ull);
	if (!bytes.has_value() || !ferry::add(hva, *bytes).has_value())
		return ferry::fail(ferry::Errno::Fault);
	Backing backing{};
	for (;;) {
		const int err = linux_kvm_backing(kvm, hva, pages, &backing.of, &backing.first);
		if (!err)
			return backing;
		if (err != -int(ferry::Errno::Again) || !patience.left_ms)
			return ferry::fail(ferry::Errno(-err));
		linux_kvm_sleep(1);
		--patience.left_ms;
	}
}

} // namespace virt
