// SPDX-License-Identifier: GPL-2.0
// The state of a VM and of a vCPU, as a blob of sections: written before the
// kexec, checked and loaded after it.
#pragma once

#include <abi/kvm.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <array>
#include <cstddef>
#include <span>

#include "kvm/linux.h"

namespace virt {

using Bytes = std::span<const unsigned char>;

// Sections on their way out.
class Sections {
    public:
	Sections() = default;
	Sections(const Sections &) = delete;
	Sections &operator=(const Sections &) = delete;
	~Sections()
	{
		ferry_free(data_);
	}

	// Room for the data of a section, until the next call.
	ferry::Result<void *> reserve(std::size_t most);
	// Makes a section of the first bytes that were written there.
	void commit(unsigned int kind, std::size_t bytes);
	ferry::Result<void> add(unsigned int kind, const void *data, std::size_t bytes);
	// All those of another one.
	ferry::Result<void> append(const Sections &other);
	void clear()
	{
		size_ = 0;
	}

	Bytes bytes() const
	{
		return {data_, size_};
	}

    private:
	unsigned char *data_ = nullptr;
	std::size_t size_ = 0;
	std::size_t room_ = 0;
};

struct Section {
	unsigned int kind;
	Bytes data;
};

// Calls for each section of a blob, in its order. Errno::BadMsg where it is
// damaged; what `visit` says.
template <class F> ferry::Result<void> for_each_section(Bytes blob, F visit);

// A blob that the last kernel handed over, and that is freed with this.
class Blob {
    public:
	Blob() = default;
	// Takes over memory of ferry_alloc().
	Blob(void *data, std::size_t size) : data_{static_cast<unsigned char *>(data)}, size_{size}
	{
	}
	Blob(Blob &&other) noexcept
		: data_{std::exchange(other.data_, nullptr)}, size_{std::exchange(other.size_, 0)}
	{
	}
	Blob &operator=(Blob &&other) noexcept
	{
		std::swap(data_, other.data_);
		std::swap(size_, other.size_);
		return *this;
	}
	~Blob()
	{
		ferry_free(data_);
	}
	unsigned char *data()
	{
		return data_;
	}
	Bytes bytes() const
	{
		return {data_, size_};
	}

    private:
	unsigned char *data_ = nullptr;
	std::size_t size_ = 0;
};

// ---- a vCPU ----

// Reads all that there is of a vCPU, which is frozen; in a worker.
ferry::Result<void> read_vcpu(unsigned long scratch, file *vcpu, Sections &sections);

// Checks the form of a blob of a vCPU: each kind known, and there once at most.
ferry::Result<void> check_vcpu(Bytes blob);

// Does all but the rest need no memory, and stay as it is for as long as nobody runs
// the vCPU? The blob is checked.
bool may_load_ahead(const ferry_kvm_vcpu &record, Bytes blob);

// Gives a vCPU what refers to no memory, of the blob, which is checked. In the process
// that the VM belongs to; if may_load_ahead(), also in a worker. What is left is the
// result.
ferry::Result<Blob> load_vcpu_most(unsigned long scratch, file *vcpu, const ferry_kvm_vcpu &record,
				   Bytes blob);

// Gives it what was left; in the process that the VM belongs to. Its memory has to be
// there: these registers point into it.
ferry::Result<void> load_vcpu_rest(unsigned long scratch, file *vcpu, Blob &rest);

// ---- a VM ----

// Reads the irqchips, routes and filters of a VM; in a worker.
ferry::Result<void> read_vm(unsigned long scratch, file *vm, Sections &sections);
ferry::Result<void> check_vm(Bytes blob);

// What vCPUs are created with: routes and filters.
ferry::Result<void> load_vm_early(unsigned long scratch, file *vm, Bytes blob);
// What reaches the vCPUs, which have to be there: irqchips and the PIT.
ferry::Result<void> load_vm_late(unsigned long scratch, file *vm, Bytes blob);

// kvmclock, when the host's counter is `tsc`: it has run on since the record.
unsigned long long clock_at(const ferry_kvm_vm &record, unsigned long long tsc);

// ---- how it is done ----

// Where the next section is, and where it ends; the blob is what is left.
ferry::Result<Section> next_section(Bytes &blob);

template <class F> ferry::Result<void> for_each_section(Bytes blob, F visit)
{
	while (!blob.empty())
		TRY(visit(TRY(next_section(blob))));
	return {};
}

} // namespace virt
