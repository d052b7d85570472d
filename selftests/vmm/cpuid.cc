// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/cpuid.hh"

#include <algorithm>
#include <bit>
#include <cstring>

#include <immintrin.h>

#include "selftests/vmm/memory.hh"

namespace vmm {

namespace {

constexpr std::uint32_t ecx1_xsave = 1 << 26, ecx1_osxsave = 1 << 27, ecx1_avx = 1 << 28,
			ecx1_fma = 1 << 12, ecx1_f16c = 1 << 29, ecx1_tsc_deadline = 1 << 24;
constexpr std::uint32_t ecx8_svm = 1 << 2;
constexpr std::uint32_t leaf_xsave = 0xd, leaf_svm = 0x8000000a;
// Of leaf 7: AVX2, MPX, all of AVX-512; protection keys, VAES, VPCLMULQDQ; more AVX-512, AMX.
constexpr std::uint32_t ebx7_with_xsave = 1u << 5 | 1u << 14 | 1u << 16 | 1u << 17 | 1u << 21 |
					  1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31,
			ecx7_with_xsave = 1u << 1 | 1u << 3 | 1u << 6 | 1u << 9 | 1u << 10 |
					  1u << 11 | 1u << 12 | 1u << 14,
			edx7_with_xsave = 1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 |
					  1u << 24 | 1u << 25;

// ---- does XSETBV reach KVM? ----

std::uint64_t host_xcr0()
{
	std::uint32_t low, high;
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return std::uint64_t(high) << 32 | low;
}

// A program that sets XCR0 to what the host has there: where the instruction is
// not caught, it then changes nothing. It runs in 16-bit mode at address 0.
Result<> place_probe(const Memory &memory, const kvm::Vcpu &vcpu)
{
	constexpr std::uint8_t code[] = {0x0f, 0x01, 0xd1, // xsetbv
					 0xf4}; // hlt
	constexpr std::uint64_t cr4_osxsave = 1 << 18;
	memory.put(0, code);
	auto sregs = TRY("KVM_GET_SREGS", vcpu.get<kvm_sregs>(KVM_GET_SREGS));
	sregs.cs.base = sregs.cs.selector = 0;
	sregs.cr4 |= cr4_osxsave;
	TRY("KVM_SET_SREGS", vcpu.set(KVM_SET_SREGS, sregs));
	kvm_regs regs{};
	regs.rflags = 1 << 1;
	regs.rax = host_xcr0() & 0xffffffff;
	regs.rdx = host_xcr0() >> 32;
	TRY("KVM_SET_REGS", vcpu.set(KVM_SET_REGS, regs));
	return {};
}

/*
 * The TCG of QEMU 7.2 emulates AMD's virtualization, but does not tell the
 * hypervisor of XSETBV. Its guest then finds the size of the XSAVE area, which
 * CPUID gives by the hypervisor's idea of XCR0, unchanged, and Linux panics. So
 * try it: if it was caught, KVM took the value, or else refused it by an
 * exception, which without a handler ends in a shutdown.
 */
Result<bool> xsetbv_is_caught(const kvm::System &system, const kvm::Cpuid &cpuid)
{
	Config config{.ram = 4 * KiB,
		      .vcpus = 1,
		      .backing = Backing::memfd,
		      .irqchip = Irqchip::split,
		      .carrier = Carrier::own};
	auto vm = TRY("KVM_CREATE_VM", system.create_vm());
	auto memory = TRY("probe", Memory::create(vm, config));
	TRY("probe", memory.plug(vm));
	auto size = TRY("KVM_GET_VCPU_MMAP_SIZE", system.vcpu_mmap_size());
	auto vcpu = TRY("KVM_CREATE_VCPU", vm.create_vcpu(0, size));
	TRY("probe", set_cpuid(vcpu, cpuid, 0, 1));
	TRY("probe", place_probe(memory, vcpu));
	TRY("KVM_RUN", vcpu.run());
	if (vcpu.shared().exit_reason == KVM_EXIT_SHUTDOWN)
		return true;
	auto xcrs = TRY("KVM_GET_XCRS", vcpu.get<kvm_xcrs>(KVM_GET_XCRS));
	return xcrs.nr_xcrs == 1 && xcrs.xcrs[0].value == host_xcr0();
}

// ---- the filter ----

bool has_xsave(kvm::Cpuid &cpuid)
{
	return std::ranges::any_of(cpuid.entries(), [](const kvm_cpuid_entry2 &entry) {
		return entry.function == 1 && entry.ecx & ecx1_xsave;
	});
}

// XSAVE, and all that needs it.
void hide_xsave(kvm_cpuid_entry2 &entry)
{
	if (entry.function == 1)
		entry.ecx &= ~(ecx1_xsave | ecx1_osxsave | ecx1_avx | ecx1_fma | ecx1_f16c);
	if (entry.function == 7 && entry.index == 0) {
		entry.ebx &= ~ebx7_with_xsave;
		entry.ecx &= ~ecx7_with_xsave;
		entry.edx &= ~edx7_with_xsave;
	}
	if (entry.function == 7 && entry.index == 1)
		entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
	if (entry.function == leaf_xsave)
		entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
}

// No guests in the guest: their state would have to be carried, too.
void hide_virtualization(kvm_cpuid_entry2 &entry)
{
	if (entry.function == 0x80000001)
		entry.ecx &= ~ecx8_svm;
	if (entry.function == leaf_svm)
		entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
}

} // namespace

Result<kvm::Cpuid> guest_cpuid(const kvm::System &system)
{
	auto cpuid = TRY("KVM_GET_SUPPORTED_CPUID", system.supported_cpuid());
	bool deadline =
		system.check(KVM_CAP_TSC_DEADLINE_TIMER).value_or(0); // KVM makes it, with any CPU
	bool xsave = has_xsave(cpuid) && TRY("XSAVE", xsetbv_is_caught(system, cpuid));
	for (auto &entry : cpuid.entries()) {
		hide_virtualization(entry);
		if (!xsave)
			hide_xsave(entry);
		if (entry.function == 1 && deadline)
			entry.ecx |= ecx1_tsc_deadline;
	}
	return cpuid;
}

// The guest reads in CPUID, too, which CPU it is on: one socket, a core each.
Result<> set_cpuid(const kvm::Vcpu &vcpu, kvm::Cpuid cpuid, unsigned int id, unsigned int vcpus)
{
	constexpr std::uint32_t hypervisor = 1u << 31, leaf_signature = 0x40000000;
	for (auto &entry : cpuid.entries()) {
		if (entry.function == 1) {
			entry.ebx = (entry.ebx & 0xffff) | id << 24 | vcpus << 16;
			entry.ecx |= hypervisor;
		}
		if (entry.function == 0xb || entry.function == 0x1f)
			entry.edx = id;
		// Some versions of KVM leave this at 0, which means the same to Linux.
		if (entry.function == leaf_signature)
			entry.eax = std::max(entry.eax, leaf_signature + 1);
	}
	TRY("KVM_SET_CPUID2", vcpu.set(KVM_SET_CPUID2, cpuid));
	return {};
}

} // namespace vmm
