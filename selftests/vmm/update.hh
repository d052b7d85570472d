// SPDX-License-Identifier: GPL-2.0
/*
 * The live update of this VMM:
 *
 *	prepare()	preserves everything, while the guest runs
 *	save()		pauses the guest, and saves the rest
 *	jump()		starts the next kernel
 *	take_over()	there: the machine, ready to go on
 *
 * Each of the first three makes up for those before it that were left out. Where there
 * are several VMMs, all of them save, and one jumps.
 *
 * What cannot be preserved as a file is in the "record", a memfd that the VMM
 * has mapped and writes into until the last moment.
 */
#pragma once

#include "selftests/vmm/machine.hh"
#include "selftests/vmm/times.hh"

namespace vmm {

// The names of the files in the session.
namespace token {
constexpr std::uint64_t record = 1, vm = 2, memory = 3, vcpus = 0x100;
} // namespace token

class Update {
    public:
	Update(const kvm::System &system, Machine &machine, std::string session_name)
		: system_(system), machine_(machine), session_name_(std::move(session_name))
	{
	}

	Result<> prepare();
	// After an error the guest runs, and nothing is preserved.
	Result<> save();
	// Comes back only with an error; it is as with save() then.
	Result<> jump();
	// Undo all.
	void cancel();

    private:
	Result<> write_record();
	Result<> preserve(liveupdate::Session &session);

	const kvm::System &system_;
	Machine &machine_;
	std::string session_name_;
	// Both, once it is prepared.
	std::optional<liveupdate::Session> session_;
	std::optional<Mapping> record_;
	bool saved_ = false;
};

// What came over the kexec. The session is kept until the guest runs: to finish it
// takes time that the guest need not wait for.
struct Arrival {
	liveupdate::Session session;
	std::unique_ptr<Machine> machine;
	Times times;
};
Result<Arrival> take_over(const kvm::System &system, const std::string &session_name);

// Let it go on; wait for its first exit; say how long it stood still, and why.
Result<> continue_and_report(Arrival &arrival);

} // namespace vmm
