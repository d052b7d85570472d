// SPDX-License-Identifier: GPL-2.0
// What the input of kvm_state.cc is: a struct Head, and behind it four pieces,
// each with a length of two bytes: the blob of the VM, that of the vCPUs, that
// of the guest_memfd's slots, and the struct ferry_run of its pages.
#pragma once

#include <abi/kvm.h>
#include <abi/runs.h>

#include <vector>

namespace fuzz {

enum : unsigned char {
	kvm_ahead = 1, // the VM is made before it is asked for
	kvm_backwards = 2, // vCPUs and guest_memfds first
	kvm_some = 4, // not all files are retrieved
	kvm_twice = 8, // SET_MEMORY again
	kvm_unmapped = 16, // the memory is not mapped
	kvm_wrong_needs = 32, // a vCPU needs a memfd
	kvm_all_slots = 64, // SET_MEMORY gives those of the guest_memfd as well
	kvm_last = 128, // the VM is the last file of the session
};

struct KvmHead {
	unsigned char how;
	// The call of the kernel that fails.
	unsigned char fail;
	unsigned char reserved[6];
	ferry_kvm_vm vm;
	ferry_kvm_vcpu vcpu[2];
	ferry_kvm_gmem gmem;
};

inline std::vector<unsigned char> kvm_input(const KvmHead &head,
					    const std::vector<std::vector<unsigned char>> &pieces)
{
	std::vector<unsigned char> bytes;
	auto append = [&](const void *at, std::size_t size) {
		auto from = static_cast<const unsigned char *>(at);
		bytes.insert(bytes.end(), from, from + size);
	};
	append(&head, sizeof(head));
	for (auto &piece : pieces) {
		auto size = static_cast<unsigned short>(piece.size());
		append(&size, sizeof(size));
		append(piece.data(), piece.size());
	}
	return bytes;
}

} // namespace fuzz
