// SPDX-License-Identifier: GPL-2.0
#include "selftests/vmm/boot.hh"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include <asm/bootparam.h>

#include "selftests/vmm/acpi.hh"

namespace vmm {

namespace {

constexpr std::uint32_t header_magic = 0x53726448; // "HdrS"
constexpr std::uint16_t protocol_with_acpi_address = 0x020e;
constexpr std::uint64_t sector = 512, page = 4096, entry_64 = 0x200;
constexpr std::uint8_t loader_unknown = 0xff;

// The segments that the protocol wants, by their place in the GDT.
constexpr std::uint16_t code_selector = 0x10, data_selector = 0x18;

using Bytes = std::vector<char>;

Result<Bytes> read_file(const std::string &path)
{
	std::ifstream file(path, std::ios::binary);
	if (!file)
		return failed_call(path);
	return Bytes(std::istreambuf_iterator<char>(file), {});
}

// The beginning of a bzImage: real-mode code, with the header of the protocol in it.
Result<setup_header> read_header(const Bytes &image)
{
	boot_params front{};
	std::memcpy(&front, image.data(), std::min(image.size(), sizeof(front)));
	const setup_header &header = front.hdr;
	if (header.header != header_magic || header.version < protocol_with_acpi_address)
		return failure("not a kernel image of boot protocol 2.14 or later");
	if (!(header.xloadflags & XLF_KERNEL_64))
		return failure("not a 64-bit kernel");
	if ((header.setup_sects + 1) * sector >= image.size())
		return failure("the kernel image is cut short");
	return header;
}

// It is placed where it wants to run, so that it needs not move itself.
Result<> place_kernel(const Memory &memory, const Bytes &image, const setup_header &header)
{
	auto kernel = std::span(image).subspan((header.setup_sects + 1) * sector);
	if (!memory.at(header.pref_address, header.init_size) ||
	    !memory.write(header.pref_address, std::as_bytes(kernel)))
		return failure("the kernel does not fit into the memory");
	return {};
}

// At the end of memory, away from where the kernel unpacks itself.
Result<> place_initrd(const Memory &memory, const Bytes &initrd, setup_header &header)
{
	std::uint64_t kernel_end = header.pref_address + header.init_size;
	if (initrd.size() > memory.size() - kernel_end)
		return failure("the initrd does not fit into the memory");
	std::uint64_t address = (memory.size() - initrd.size()) / page * page;
	if (address < kernel_end || !memory.write(address, std::as_bytes(std::span(initrd))))
		return failure("the initrd does not fit into the memory");
	header.ramdisk_image = static_cast<std::uint32_t>(address);
	header.ramdisk_size = static_cast<std::uint32_t>(initrd.size());
	return {};
}

Result<> place_cmdline(const Memory &memory, const std::string &cmdline, setup_header &header)
{
	std::size_t bytes = cmdline.size() + 1;
	if (bytes > layout::cmdline_max || bytes > header.cmdline_size)
		return failure("the command line is too long");
	memory.write(layout::cmdline, std::as_bytes(std::span(cmdline.c_str(), bytes)));
	header.cmd_line_ptr = layout::cmdline;
	return {};
}

void place_memory_map(boot_params &zero_page, std::uint64_t ram)
{
	constexpr std::uint32_t usable = 1, reserved = 2;
	const boot_e820_entry map[] = {
		{0, layout::low_end, usable},
		{layout::acpi, layout::acpi_end - layout::acpi, reserved},
		{layout::high, ram - layout::high, usable},
	};
	std::ranges::copy(map, zero_page.e820_table);
	zero_page.e820_entries = std::size(map);
}

// The first GiB of memory, at its own addresses, in pages of 2 MiB.
bool place_page_tables(const Memory &memory)
{
	constexpr std::uint64_t present = 1 << 0, writable = 1 << 1, large = 1 << 7,
				top = layout::page_tables, upper = top + page, lower = upper + page;
	bool fits = memory.put(top, upper | present | writable) &&
		    memory.put(upper, lower | present | writable);
	for (std::uint64_t i = 0; i < page / sizeof(std::uint64_t); ++i)
		fits = fits &&
		       memory.put(lower + i * sizeof(i), i * 2 * MiB | present | writable | large);
	return fits;
}

kvm_segment segment(std::uint16_t selector)
{
	constexpr std::uint8_t execute_read = 11, read_write = 3;
	bool code = selector == code_selector;
	kvm_segment segment{};
	segment.limit = 0xffffffff;
	segment.selector = selector;
	segment.type = code ? execute_read : read_write;
	segment.present = segment.s = segment.g = 1;
	segment.l = code;
	segment.db = !code;
	return segment;
}

// The same segments as in memory, for whoever loads them again.
bool place_gdt(const Memory &memory)
{
	const std::uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
	return memory.put(layout::gdt, gdt);
}

Result<> enter_long_mode(const kvm::Vcpu &vcpu)
{
	constexpr std::uint64_t cr0_protected = 1 << 0, cr0_fpu = 1 << 4, cr0_paging = 1u << 31,
				cr4_pae = 1 << 5, efer_enable = 1 << 8, efer_active = 1 << 10;
	auto sregs = TRY("KVM_GET_SREGS", vcpu.get<kvm_sregs>(KVM_GET_SREGS));
	sregs.cs = segment(code_selector);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(data_selector);
	sregs.gdt.base = layout::gdt;
	sregs.gdt.limit = 4 * sizeof(std::uint64_t) - 1;
	sregs.cr3 = layout::page_tables;
	sregs.cr4 |= cr4_pae;
	sregs.cr0 |= cr0_protected | cr0_fpu | cr0_paging;
	sregs.efer |= efer_enable | efer_active;
	TRY("KVM_SET_SREGS", vcpu.set(KVM_SET_SREGS, sregs));
	return {};
}

} // namespace

Result<std::uint64_t> load_linux(const Memory &memory, const Linux &guest, unsigned int vcpus)
{
	auto image = TRY("kernel", read_file(guest.kernel));
	boot_params zero_page{};
	zero_page.hdr = TRY(guest.kernel, read_header(image));
	zero_page.hdr.type_of_loader = loader_unknown;
	TRY(guest.kernel, place_kernel(memory, image, zero_page.hdr));
	if (!guest.initrd.empty())
		TRY(guest.initrd,
		    place_initrd(memory, TRY("initrd", read_file(guest.initrd)), zero_page.hdr));
	TRY("kernel", place_cmdline(memory, guest.cmdline, zero_page.hdr));
	place_memory_map(zero_page, memory.size());
	zero_page.acpi_rsdp_addr = TRY("ACPI", write_acpi(memory, vcpus));
	if (!memory.put(layout::zero_page, zero_page))
		return failure("the zero page does not fit into the memory");
	return zero_page.hdr.pref_address + entry_64;
}

Result<> enter_linux(const Memory &memory, const kvm::Vcpu &vcpu, std::uint64_t entry)
{
	if (!place_gdt(memory) || !place_page_tables(memory))
		return failure("the page tables do not fit into the memory");
	TRY("64-bit mode", enter_long_mode(vcpu));
	kvm_regs regs{};
	regs.rip = entry;
	regs.rsi = layout::zero_page;
	regs.rflags = 1 << 1; // which is always set
	TRY("KVM_SET_REGS", vcpu.set(KVM_SET_REGS, regs));
	return {};
}

} // namespace vmm
