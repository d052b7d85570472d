// SPDX-License-Identifier: GPL-2.0
/*
 * The VMM's own way over a kexec (Carrier::own): the kernel carries nothing but
 * memfds, the VMM reads all of KVM's state and writes it back into a new VM.
 * It works with every live update that knows memfds, as mainline's.
 */
#pragma once

#include "selftests/vmm/machine.hh"
#include "selftests/vmm/times.hh"

namespace vmm::own {

// How much room the state takes.
std::size_t state_bytes(const Config &config);

// The machine runs. What else is to be preserved besides the state: its memory.
Result<> preserve(liveupdate::Session &session, const Machine &machine);

// The machine is paused.
Result<> save(const kvm::System &system, Machine &machine, std::span<std::byte> to);

// In the next kernel: the machine, as it was.
Result<std::unique_ptr<Machine>> retrieve(const kvm::System &system, liveupdate::Session &session,
					  const Config &config, std::span<std::byte> from,
					  Times &times);

} // namespace vmm::own
