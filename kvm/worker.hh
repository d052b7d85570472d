// SPDX-License-Identifier: GPL-2.0
// Calling something in a kernel thread that has scratch memory.
#pragma once

#include <ferry/result.hh>

#include "kvm/linux.h"

namespace virt {

// Calls work(scratch), which returns a Result<void>; see linux_kvm_in_worker().
template <class F> ferry::Result<void> in_worker(F work)
{
	auto call = [](void *ctx, unsigned long scratch) {
		return ferry::to_errno((*static_cast<F *>(ctx))(scratch));
	};
	return ferry::check_status(linux_kvm_in_worker(call, &work));
}

} // namespace virt
