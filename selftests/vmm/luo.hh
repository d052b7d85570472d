// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's way over a kexec (Carrier::luo): the files of KVM, the VM and the
 * vCPUs, are preserved themselves, with all that is in them. The VMM carries
 * only what is its own.
 */
#pragma once

#include "selftests/vmm/machine.hh"
#include "selftests/vmm/times.hh"

namespace vmm::luo {

// The machine runs.
Result<> preserve(liveupdate::Session &session, const Machine &machine);

// In the next kernel: the machine, as it was.
Result<std::unique_ptr<Machine>> retrieve(const kvm::System &system, liveupdate::Session &session,
					  const Config &config, Times &times);

} // namespace vmm::luo
