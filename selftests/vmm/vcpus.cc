// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/vcpus.hh"

#include <algorithm>
#include <csignal>
#include <iterator>
#include <string>

#include <sys/eventfd.h>
#include <unistd.h>
#include <x86intrin.h>

#include "selftests/vmm/error.hh"

namespace vmm {

namespace {

// It only has to interrupt KVM_RUN.
constexpr int kick_signal = SIGUSR1;
void on_kick(int)
{
}

constexpr useconds_t frozen_retry_us = 1000;

} // namespace

Vcpus::Vcpus(Devices &devices, std::vector<kvm::Vcpu> vcpus, int ended)
	: devices_(devices), vcpus_(std::move(vcpus)), ended_(ended)
{
	struct sigaction action{};
	action.sa_handler = on_kick; // without SA_RESTART
	::sigaction(kick_signal, &action, nullptr);
}

Vcpus::~Vcpus()
{
	close_gate(Gate::leave);
	for (auto &thread : threads_)
		thread.join();
}

void Vcpus::start()
{
	running_ = static_cast<unsigned int>(vcpus_.size());
	for (const auto &vcpu : vcpus_)
		threads_.emplace_back([this, &vcpu] { loop(vcpu); });
}

// ---- the gate ----

void Vcpus::kick()
{
	for (const auto &vcpu : vcpus_)
		std::atomic_ref(vcpu.shared().immediate_exit).store(1);
	for (auto &thread : threads_)
		::pthread_kill(thread.native_handle(), kick_signal);
}

void Vcpus::close_gate(Gate gate)
{
	std::unique_lock lock(mutex_);
	gate_ = gate;
	changed_.notify_all();
	kick();
	changed_.wait(lock, [this] { return !running_; });
}

void Vcpus::pause()
{
	close_gate(Gate::closed);
}

void Vcpus::resume()
{
	std::lock_guard lock(mutex_);
	gate_ = Gate::open;
	first_exit_ = 0;
	changed_.notify_all();
}

// At a clean point: wait here while the gate is closed. False: this was the end.
bool Vcpus::pass_gate(kvm_run &shared)
{
	std::unique_lock lock(mutex_);
	if (gate_ != Gate::open) {
		--running_;
		changed_.notify_all();
		changed_.wait(lock, [this] { return gate_ != Gate::closed; });
		if (gate_ == Gate::leave)
			return false;
		++running_;
	}
	std::atomic_ref(shared.immediate_exit).store(0);
	return true;
}

End Vcpus::end() const
{
	std::lock_guard lock(mutex_);
	return end_;
}

// The thread goes away; the others run on until somebody pauses them.
void Vcpus::finish(Ending ending, std::string error)
{
	std::lock_guard lock(mutex_);
	if (end_.ending == Ending::none && end_.error.empty())
		end_ = {ending, std::move(error)};
	--running_;
	changed_.notify_all();
	::eventfd_write(ended_, 1);
}

// ---- running ----

void Vcpus::loop(const kvm::Vcpu &vcpu)
{
	for (;;) {
		auto ran = vcpu.run();
		if (ran) {
			std::uint64_t none = 0;
			first_exit_.compare_exchange_strong(none, __rdtsc());
			auto ending = handle_exit(vcpu.shared());
			if (ending != Ending::none)
				return finish(ending, {});
			continue;
		}
		switch (ran.error().value()) {
		case EINTR:
			if (!pass_gate(vcpu.shared()))
				return;
			break;
		case EAGAIN:
			break;
		case EBUSY:
			// The kernel has frozen the VM for a live update. Should that
			// be called off, it goes on.
			::usleep(frozen_retry_us);
			break;
		default:
			return finish(Ending::none, "KVM_RUN: " + ran.error().message());
		}
	}
}

Ending Vcpus::handle_exit(kvm_run &shared)
{
	switch (shared.exit_reason) {
	case KVM_EXIT_IO:
		return handle_port(shared);
	case KVM_EXIT_MMIO:
		return handle_memory(shared);
	case KVM_EXIT_SHUTDOWN:
		// Where, cannot be told: KVM has reset the vCPU.
		say("the guest crashed (triple fault)");
		return Ending::reset;
	case KVM_EXIT_FAIL_ENTRY:
		say("KVM cannot enter the guest: reason " +
		    std::to_string(shared.fail_entry.hardware_entry_failure_reason));
		return Ending::reset;
	case KVM_EXIT_INTERNAL_ERROR: {
		// What the rest is depends on the suberror: Documentation/virt/kvm/api.rst.
		std::string text =
			"KVM gave up: suberror " + std::to_string(shared.internal.suberror);
		const std::size_t nr = std::min<std::size_t>(shared.internal.ndata,
							     std::size(shared.internal.data));
		for (std::size_t i = 0; i < nr; ++i)
			text += " " + std::to_string(shared.internal.data[i]);
		say(text);
		return Ending::reset;
	}
	case KVM_EXIT_INTR:
	case KVM_EXIT_HLT:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return Ending::none;
	default:
		say("an exit of the guest that is not known here: " +
		    std::to_string(shared.exit_reason));
		return Ending::reset;
	}
}

// The data of port I/O, one or more items of it, are in the shared pages, too.
Ending Vcpus::handle_port(kvm_run &shared)
{
	auto data = reinterpret_cast<std::byte *>(&shared) + shared.io.data_offset;
	for (unsigned int i = 0; i < shared.io.count; ++i) {
		std::span item(data + std::size_t(i) * shared.io.size, shared.io.size);
		if (shared.io.direction == KVM_EXIT_IO_IN)
			devices_.port_read(shared.io.port, item);
		else if (auto ending = devices_.port_write(shared.io.port, item);
			 ending != Ending::none)
			return ending;
	}
	return Ending::none;
}

Ending Vcpus::handle_memory(kvm_run &shared)
{
	auto data = std::as_writable_bytes(std::span(shared.mmio.data)).first(shared.mmio.len);
	if (shared.mmio.is_write)
		devices_.memory_write(shared.mmio.phys_addr, data);
	else
		devices_.memory_read(shared.mmio.phys_addr, data);
	return Ending::none;
}

} // namespace vmm
