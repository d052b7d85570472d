// SPDX-License-Identifier: GPL-2.0
// The memory slots of a VM, by number.
#pragma once

#include <ferry/own.hh>
#include <ferry/result.hh>

#include <algorithm>

#include "kvm/linux.h"

namespace virt {

// Those of a VM that runs, or is frozen, as KVM lists them.
class Slots {
    public:
	Slots() = default;
	Slots(Slots &&other) noexcept
	{
		swap(other);
	}
	Slots &operator=(Slots &&other) noexcept
	{
		swap(other);
		return *this;
	}
	~Slots()
	{
		ferry_free(slot_);
	}

	static ferry::Result<Slots> read(struct kvm *kvm)
	{
		const int most = TRY(ferry::check(linux_kvm_slots(kvm, nullptr, 0)));
		Slots slots;
		TRY(slots.allocate(static_cast<unsigned int>(most)));
		const int found = TRY(ferry::check(
			linux_kvm_slots(kvm, slots.slot_, static_cast<unsigned int>(most))));
		// While it runs, slots may come and go; the freeze looks again.
		slots.nr_ = static_cast<unsigned int>(std::min(most, found));
		std::sort(slots.begin(), slots.end(),
			  [](const linux_kvm_slot &a, const linux_kvm_slot &b) {
				  return a.is.slot < b.is.slot;
			  });
		return slots;
	}
	ferry::Result<Slots> copy() const
	{
		Slots copy;
		TRY(copy.allocate(nr_));
		copy.nr_ = nr_;
		std::copy(begin(), end(), copy.begin());
		return copy;
	}

	const linux_kvm_slot *find(unsigned int number) const
	{
		auto at = std::lower_bound(begin(), end(), number,
					   [](const linux_kvm_slot &slot, unsigned int wanted) {
						   return slot.is.slot < wanted;
					   });
		return at != end() && at->is.slot == number ? at : nullptr;
	}
	linux_kvm_slot *begin()
	{
		return slot_;
	}
	linux_kvm_slot *end()
	{
		return slot_ + nr_;
	}
	const linux_kvm_slot *begin() const
	{
		return slot_;
	}
	const linux_kvm_slot *end() const
	{
		return slot_ + nr_;
	}

    private:
	ferry::Result<void> allocate(unsigned int nr)
	{
		slot_ = static_cast<linux_kvm_slot *>(
			ferry_alloc((std::size_t{nr} + 1) * sizeof(linux_kvm_slot)));
		return slot_ ? ferry::Result<void>{} : ferry::fail(ferry::Errno::NoMem);
	}
	void swap(Slots &other)
	{
		std::swap(slot_, other.slot_);
		std::swap(nr_, other.nr_);
	}

	linux_kvm_slot *slot_ = nullptr;
	unsigned int nr_ = 0;
};

// Those of a VM that came out of the last kernel.
struct IncomingSlot {
	ferry_kvm_slot slot{};
	unsigned long long token = 0;
	file *backing = nullptr; // with a reference
	bool gmem = false;
	bool present = false;

	IncomingSlot() = default;
	IncomingSlot(const IncomingSlot &) = delete;
	IncomingSlot &operator=(const IncomingSlot &) = delete;
	~IncomingSlot()
	{
		if (backing)
			linux_kvm_fput(backing);
	}
};

class IncomingSlots {
    public:
	IncomingSlots() = default;
	IncomingSlots(const IncomingSlots &) = delete;
	IncomingSlots &operator=(const IncomingSlots &) = delete;
	~IncomingSlots()
	{
		for (IncomingSlot *slot : *this)
			ferry::destroy(slot);
		ferry_free(slot_);
	}

	IncomingSlot *find(unsigned int number) const
	{
		IncomingSlot **at = place(number);
		return at != end() && (*at)->slot.slot == number ? *at : nullptr;
	}
	// Of a number that is not there.
	ferry::Result<void> add(ferry::Owned<IncomingSlot> slot)
	{
		TRY(reserve());
		IncomingSlot **at = place(slot->slot.slot);
		std::move_backward(at, end(), end() + 1);
		*at = slot.release();
		++nr_;
		return {};
	}
	void remove_all_on(file *backing)
	{
		IncomingSlot **to = begin();
		for (IncomingSlot *slot : *this) {
			if (slot->backing == backing)
				ferry::destroy(slot);
			else
				*to++ = slot;
		}
		nr_ = static_cast<unsigned int>(to - begin());
	}
	unsigned int size() const
	{
		return nr_;
	}
	IncomingSlot **begin() const
	{
		return slot_;
	}
	IncomingSlot **end() const
	{
		return slot_ + nr_;
	}

    private:
	IncomingSlot **place(unsigned int number) const
	{
		return std::lower_bound(begin(), end(), number,
					[](const IncomingSlot *slot, unsigned int wanted) {
						return slot->slot.slot < wanted;
					});
	}
	ferry::Result<void> reserve()
	{
		if (nr_ < room_)
			return {};
		const unsigned int room = room_ ? 2 * room_ : 16;
		auto **slot = static_cast<IncomingSlot **>(ferry_alloc(room * sizeof(*slot_)));
		if (!slot)
			return ferry::fail(ferry::Errno::NoMem);
		std::copy(begin(), end(), slot);
		ferry_free(slot_);
		slot_ = slot;
		room_ = room;
		return {};
	}

	IncomingSlot **slot_ = nullptr;
	unsigned int nr_ = 0;
	unsigned int room_ = 0;
};

} // namespace virt
