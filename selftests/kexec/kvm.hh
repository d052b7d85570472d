// SPDX-License-Identifier: GPL-2.0
// What the self-tests of KVM share: machines, threads that run them, and their states.
#pragma once

#include <atomic>
#include <deque>
#include <optional>
#include <thread>

#include "selftests/kexec/carry.hh"
#include "selftests/kexec/kvm_guest.hh"
#include "selftests/lib/kvm.hh"

namespace machine {

// Loads the modules, if nobody has; skips the case where there is no KVM.
void need_kvm();
kvm::System &host();
size_t mmap_size();

// Tokens of what a machine preserves, from its base on.
enum : uint64_t { VM = 0, VCPU = 1, RAM = 64, SNAPSHOT = 65, TOKENS = 100 };

constexpr uint64_t ram_size = 2 * MiB;

struct Options {
	unsigned int vcpus = 1;
	enum Irqchip { NONE, FULL, SPLIT } irqchip = FULL;
	bool pit = false;
	bool gmem = false; // its memory is a guest_memfd
	// Before there are vCPUs.
	std::function<void(kvm::Vm &)> prepare = {};
};

// Memory that a machine has; of any kind.
class Ram {
    public:
	Ram() = default;
	Ram(Fd fd, uint64_t size, char *hint = nullptr);
	Ram(Ram &&other) noexcept;
	Ram &operator=(Ram &&other) noexcept;
	~Ram();
	template <typename T = char> T *at(uint64_t address) const
	{
		return reinterpret_cast<T *>(at_ + address);
	}
	void unmap();

	Fd fd;
	uint64_t size = 0;

    private:
	char *at_ = nullptr;
};

// A VM with 2 MiB at 0, all that 64-bit code needs in it, and vCPUs.
class Machine {
    public:
	explicit Machine(const Options &options = {});
	// All that preserve() did, complete. The number of vCPUs is that before.
	static Machine retrieve(Session &session, unsigned int vcpus, uint64_t base = 0);
	// ... but for the last step.
	static Machine collect(Session &session, unsigned int vcpus, uint64_t base = 0);
	void complete();

	void preserve(Session &session, uint64_t base = 0) const;

	// Lets the program begin, in 64-bit mode.
	void boot(unsigned int vcpu, std::string_view program, uint64_t rsi = 0, uint64_t rdx = 0);

	guest::Data &data(unsigned int vcpu = 0) const
	{
		return *ram.at<guest::Data>(guest::data + vcpu * guest::data_step);
	}

	kvm::Vm vm;
	std::vector<kvm::Vcpu> vcpus;
	Ram ram;

    private:
	explicit Machine(Fd fd) : vm(std::move(fd))
	{
	}
};

// A slot, in pages of a file.
kvm::Result<void> set_slot(const kvm::Vm &vm, uint32_t slot, uint64_t gpa, uint64_t size,
			   const void *at, uint32_t flags = 0);
kvm::Result<void> set_gmem_slot(const kvm::Vm &vm, uint32_t slot, uint64_t gpa, uint64_t size,
				const void *at, const Fd &gmem, uint64_t offset = 0);
Fd make_gmem(const kvm::Vm &vm, uint64_t size,
	     uint64_t flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);

// SET_MEMORY with the addresses as they are given; nothing else is read of the slots.
kvm::Result<void> set_memory(const kvm::Vm &vm, std::vector<kvm::MemoryDevice::Slot> slots);
std::vector<kvm::MemoryDevice::Slot> get_memory(const kvm::Vm &vm);

// KVM_RUN once: the exit's reason; throws where it fails.
uint32_t run(const kvm::Vcpu &vcpu);
// Until an OUT to that port; the value. Nothing of the exit is finished.
uint32_t run_to_out(const kvm::Vcpu &vcpu, uint16_t port);
// Finishes the last exit, and stays out of the guest.
void settle(const kvm::Vcpu &vcpu);
uint32_t out_value(const kvm::Vcpu &vcpu);

// A thread that runs a vCPU until it is told to stop; through frozen times, too.
class Runner {
    public:
	Runner(const kvm::Vcpu &vcpu, guest::Data &data);
	~Runner();
	void stop();

	std::atomic<int> error = 0; // another errno: it has stopped
	std::atomic<uint32_t> odd_exit = 0; // an exit that it does not know: it has stopped

    private:
	void loop();
	bool handle();
	const kvm::Vcpu &vcpu_;
	guest::Data &data_;
	std::atomic<bool> stop_ = false;
	std::thread thread_;
};

// A machine with threads, which live until the kexec when it is kept.
struct Running {
	explicit Running(Machine machine) : vm(std::move(machine))
	{
	}
	void start()
	{
		for (size_t i = 0; i < vm.vcpus.size(); i++)
			runners.emplace_back(vm.vcpus[i], vm.data(i));
	}
	void stop()
	{
		runners.clear();
	}
	// No exit that the threads do not know, and no error.
	bool fine() const;

	Machine vm;
	std::deque<Runner> runners;
};

// The checksum that guest::count() has after so many rounds.
uint64_t count_check(uint64_t count);

// ---- states ----

// All that can be read, by name.
using Snapshot = std::map<std::string, std::string>;

Snapshot snapshot(const kvm::Vcpu &vcpu);
Snapshot snapshot(const kvm::Vm &vm);
void add(Snapshot &to, const std::string &prefix, const Snapshot &from);
// Says what differs.
bool same(const Snapshot &is, const Snapshot &was);

// Over the kexec, in a memfd of its own.
void save(Session &session, uint64_t token, const Snapshot &snapshot);
Snapshot load(Session &session, uint64_t token);

} // namespace machine
