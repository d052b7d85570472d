// SPDX-License-Identifier: GPL-2.0
/*
 * The smallest set of ACPI tables that Linux takes without a complaint:
 *
 *	RSDP -> XSDT -> FADT -> DSDT	power management; a DSDT that can switch off
 *		     -> MADT		local APICs, the I/O APIC
 *
 * The numbers of the fields are those of the ACPI specification 6.5, section 5.2.
 */
#include "selftests/vmm/acpi.hh"

#include <cstring>
#include <numeric>
#include <vector>

namespace vmm {

namespace {

using Bytes = std::vector<std::uint8_t>;

template <typename T> void append(Bytes &to, T value)
{
	auto bytes = reinterpret_cast<const std::uint8_t *>(&value);
	to.insert(to.end(), bytes, bytes + sizeof(value));
}

template <typename T> void put(Bytes &to, std::size_t offset, T value)
{
	std::memcpy(to.data() + offset, &value, sizeof(value));
}

// All bytes of a table, this one included, add up to 0.
void put_checksum(Bytes &table, std::size_t offset, std::size_t length)
{
	table[offset] = 0;
	table[offset] = static_cast<std::uint8_t>(
		-std::accumulate(table.begin(), table.begin() + static_cast<long>(length), 0));
}

// The 36 bytes with which each table begins.
Bytes new_table(const char signature[4], std::uint8_t revision)
{
	Bytes table(signature, signature + 4);
	append(table, std::uint32_t(0)); // length: see finish()
	append(table, revision);
	append(table, std::uint8_t(0)); // checksum: see finish()
	for (char c : {'F', 'E', 'R', 'R', 'Y', ' ', 'F', 'E', 'R', 'R', 'Y', 'V', 'M', 'M'})
		append(table, c);
	append(table, std::uint32_t(1));
	append(table, std::uint32_t(0));
	append(table, std::uint32_t(1));
	return table;
}

Bytes finish(Bytes table)
{
	put(table, 4, static_cast<std::uint32_t>(table.size()));
	put_checksum(table, 9, table.size());
	return table;
}

// Name (\_S5, Package () { 5, 0, 0, 0 }): the sleep type of "off".
Bytes dsdt()
{
	Bytes table = new_table("DSDT", 2);
	for (std::uint8_t byte : {0x08, int('_'), int('S'), int('5'), int('_'), 0x12, 0x07, 0x04,
				  0x0a, 0x05, 0x00, 0x00, 0x00})
		append(table, byte);
	return finish(table);
}

Bytes fadt(std::uint64_t dsdt_address)
{
	constexpr std::uint16_t no_vga = 1 << 2, no_rtc = 1 << 5;
	// Not there: power button, sleep button, RTC as a fixed feature.
	constexpr std::uint32_t flags = 1 << 4 | 1 << 5 | 1 << 6;
	Bytes table = new_table("FACP", 3);
	table.resize(244);
	put(table, 40, static_cast<std::uint32_t>(dsdt_address));
	put(table, 46, static_cast<std::uint16_t>(sci_irq));
	// No SMI command port: ACPI is always on.
	put(table, 56, static_cast<std::uint32_t>(port::pm_status));
	put(table, 64, static_cast<std::uint32_t>(port::pm_control));
	put(table, 88, std::uint8_t(4)); // bytes of the event block
	put(table, 89, std::uint8_t(2)); // bytes of the control block
	put(table, 109, static_cast<std::uint16_t>(no_vga | no_rtc));
	put(table, 112, flags);
	put(table, 140, dsdt_address);
	return finish(table);
}

void append_local_apic(Bytes &table, unsigned int id)
{
	constexpr std::uint32_t enabled = 1;
	append(table, std::uint8_t(0)); // kind
	append(table, std::uint8_t(8)); // length
	append(table, static_cast<std::uint8_t>(id));
	append(table, static_cast<std::uint8_t>(id));
	append(table, enabled);
}

void append_io_apic(Bytes &table)
{
	append(table, std::uint8_t(1)); // kind
	append(table, std::uint8_t(12)); // length
	append(table, std::uint8_t(0)); // its id
	append(table, std::uint8_t(0));
	append(table, static_cast<std::uint32_t>(layout::ioapic));
	append(table, std::uint32_t(0)); // the first interrupt
}

// With PC_AT Linux takes it that interrupts 0 to 15 are ISA's, and so that the
// serial port has interrupt 4, also where there is no PIC that it could find.
Bytes madt(unsigned int vcpus)
{
	constexpr std::uint32_t pc_at = 1;
	Bytes table = new_table("APIC", 3);
	append(table, static_cast<std::uint32_t>(layout::lapic));
	append(table, pc_at);
	for (unsigned int id = 0; id < vcpus; ++id)
		append_local_apic(table, id);
	append_io_apic(table);
	return finish(table);
}

Bytes xsdt(std::initializer_list<std::uint64_t> addresses)
{
	Bytes table = new_table("XSDT", 1);
	for (auto address : addresses)
		append(table, address);
	return finish(table);
}

Bytes rsdp(std::uint64_t xsdt_address)
{
	constexpr std::size_t first_part = 20;
	Bytes table;
	for (char c : {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ', '\0', 'F', 'E', 'R', 'R', 'Y', ' '})
		append(table, c);
	append(table, std::uint8_t(2));
	append(table, std::uint32_t(0));
	append(table, std::uint32_t(36));
	append(table, xsdt_address);
	append(table, std::uint32_t(0));
	put_checksum(table, 8, first_part);
	put_checksum(table, 32, table.size());
	return table;
}

// One table behind the other.
class Area {
    public:
	explicit Area(const Memory &memory) : memory_(memory)
	{
	}
	std::uint64_t add(const Bytes &table)
	{
		std::uint64_t address = next_;
		next_ = (next_ + table.size() + 15) / 16 * 16;
		fits_ = fits_ && next_ <= layout::acpi_end &&
			memory_.write(address, std::as_bytes(std::span(table)));
		return address;
	}
	bool fits() const
	{
		return fits_;
	}

    private:
	const Memory &memory_;
	std::uint64_t next_ = layout::acpi;
	bool fits_ = true;
};

} // namespace

Result<std::uint64_t> write_acpi(const Memory &memory, unsigned int vcpus)
{
	Area area(memory);
	auto fadt_address = area.add(fadt(area.add(dsdt())));
	auto madt_address = area.add(madt(vcpus));
	auto first = area.add(rsdp(area.add(xsdt({fadt_address, madt_address}))));
	if (!area.fits())
		return failure("the ACPI tables do not fit");
	return first;
}

} // namespace vmm
