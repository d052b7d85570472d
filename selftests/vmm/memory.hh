// SPDX-License-Identifier: GPL-2.0
// The guest's RAM: a file, mapped here, and a memory slot of the VM.
#pragma once

#include <optional>
#include <span>

#include "selftests/lib/kvm.hh"
#include "selftests/vmm/config.hh"
#include "selftests/vmm/error.hh"

namespace vmm {

// A shared mapping of a whole file.
class Mapping {
    public:
	// hint: where to map it; else the kernel chooses.
	static Result<Mapping> of(int fd, std::uint64_t bytes, void *hint = nullptr);
	Mapping(Mapping &&other) noexcept : all_(std::exchange(other.all_, {}))
	{
	}
	Mapping &operator=(Mapping &&) = delete;
	~Mapping();

	std::span<std::byte> all() const
	{
		return all_;
	}

    private:
	explicit Mapping(std::span<std::byte> all) : all_(all)
	{
	}
	std::span<std::byte> all_;
};

class Memory {
    public:
	// New, all zeros.
	static Result<Memory> create(const kvm::Vm &vm, const Config &config);
	// Of a file that came over the kexec. hint: see Mapping.
	static Result<Memory> adopt(kvm::Fd fd, const Config &config, void *hint = nullptr);

	// Give it to the VM, as slot 0.
	Result<> plug(const kvm::Vm &vm) const;

	int fd() const
	{
		return fd_.get();
	}
	std::uint64_t size() const
	{
		return map_.all().size();
	}
	std::byte *host_address() const
	{
		return map_.all().data();
	}
	// So many bytes of it from a guest-physical address on, or nothing.
	std::optional<std::span<std::byte>> at(std::uint64_t address, std::uint64_t bytes) const;
	// Copy in; false if it does not fit.
	bool write(std::uint64_t address, std::span<const std::byte> data) const;
	template <typename T> bool put(std::uint64_t address, const T &value) const
	{
		return write(address, std::as_bytes(std::span(&value, 1)));
	}

    private:
	Memory(kvm::Fd fd, Mapping map, Backing backing)
		: fd_(std::move(fd)), map_(std::move(map)), backing_(backing)
	{
	}

	kvm::Fd fd_;
	Mapping map_;
	Backing backing_;
};

} // namespace vmm
