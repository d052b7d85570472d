// SPDX-License-Identifier: GPL-2.0
/*
 * A thread for each vCPU, and the gate through which they all go when they are
 * paused and when they run.
 */
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "selftests/lib/kvm.hh"
#include "selftests/vmm/devices.hh"

namespace vmm {

// How the guest came to its end.
struct End {
	Ending ending = Ending::none;
	std::string error; // of the VMM, or of KVM; or empty
};

class Vcpus {
    public:
	// ended: an eventfd, written when the guest comes to its end.
	Vcpus(Devices &devices, std::vector<kvm::Vcpu> vcpus, int ended);
	~Vcpus();

	void start();

	/*
	 * Bring all of them out of the guest, to a point where nothing is half
	 * done. After an exit for I/O KVM finishes the instruction in the next
	 * KVM_RUN: a state that is saved before that would do the I/O twice. With
	 * immediate_exit KVM_RUN does just that, and comes back with EINTR.
	 */
	void pause();
	void resume();

	// Time stamp of the first exit since the last resume(); 0: none yet.
	std::uint64_t first_exit() const
	{
		return first_exit_;
	}
	std::span<const kvm::Vcpu> all() const
	{
		return vcpus_;
	}
	End end() const;

    private:
	enum class Gate { open, closed, leave };

	void loop(const kvm::Vcpu &vcpu);
	bool pass_gate(kvm_run &shared);
	Ending handle_exit(kvm_run &shared);
	Ending handle_port(kvm_run &shared);
	Ending handle_memory(kvm_run &shared);
	void finish(Ending ending, std::string error);
	void close_gate(Gate gate);
	void kick();

	Devices &devices_;
	std::vector<kvm::Vcpu> vcpus_;
	int ended_;

	mutable std::mutex mutex_;
	std::condition_variable changed_;
	Gate gate_ = Gate::open; // these with the mutex
	unsigned int running_ = 0;
	End end_;

	std::atomic<std::uint64_t> first_exit_ = 0;
	std::vector<std::thread> threads_;
};

} // namespace vmm
