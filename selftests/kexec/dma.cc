// SPDX-License-Identifier: GPL-2.0
// Devices that do DMA all the time, over kexecs.

#include <algorithm>
#include <iterator>
#include <sstream>
#include <thread>

#include "selftests/kexec/dma.hh"
#include "selftests/kexec/ferry.hh"
#include "selftests/kexec/veto.hh"

namespace {

using dma::Copier;
using dma::Event;
using dma::Iommufd;
using dma::Memory;
using dma::Pci;
using dma::Receiver;
using dma::Recorder;

enum : uint64_t { MEMORY = 1, IOMMUFD = 2, DEVICE = 3 };

void sleep_ms(unsigned ms)
{
	::usleep(ms * 1000);
}

// A device at work, with all that belongs to it.
struct Guest {
	Memory memory;
	Iommufd iommufd;
	Pci device;

	static Guest create(const char *address, uint64_t size)
	{
		auto memory = Memory::create(size);
		Iommufd iommufd;
		iommufd.map(memory);
		Pci device(address, iommufd);
		device.attach(iommufd.hwpt(device.id()));
		device.master();
		device.map_registers();
		return {std::move(memory), std::move(iommufd), std::move(device)};
	}

	// The device first: any order will do. But the memory before the iommufd, so that the
	// page tables are looked at here, and not in the jump.
	void preserve(Session &session) const
	{
		OK(session.preserve(device.fd().get(), DEVICE));
		OK(session.preserve(memory.fd().get(), MEMORY));
		OK(session.preserve(iommufd.fd().get(), IOMMUFD));
	}

	// For the next kernel, in a session that lives until the jump.
	static void keep(Guest guest, Stage &stage, const char *session_name)
	{
		auto session = VALUE(stage.device.create(session_name));
		guest.preserve(session);
		Stage::keep(std::move(session));
		Stage::keep(std::move(guest));
	}

	// What comes back; the device is not attached yet.
	static Guest retrieve(const char *address, Session &session)
	{
		Memory memory(VALUE(session.retrieve(MEMORY)));
		Iommufd iommufd(VALUE(session.retrieve(IOMMUFD)));
		Pci device(address, VALUE(session.retrieve(DEVICE)), iommufd);
		return {std::move(memory), std::move(iommufd), std::move(device)};
	}

	void take_over()
	{
		iommufd.map(memory);
		device.attach(iommufd.hwpt(device.id()));
		device.map_registers();
	}
};

// Goes back and forth between two HWPTs, and on from there.
void replace(Guest &guest, unsigned times)
{
	const uint32_t hwpts[] = {guest.iommufd.hwpt(guest.device.id()),
				  guest.iommufd.hwpt(guest.device.id())};
	unsigned failed = 0;
	for (unsigned i = 0; i < times; i++)
		failed += guest.device.try_attach(hwpts[i % 2]) != 0;
	CHECK_EQ(failed, 0);
}

// ---- what is refused ----

// The first of the cases, as it lets go of its device again.
BEFORE("dma/while it is preserved nothing changes, and a kexec that is refused leaves all as it "
       "was")
{
	dma::need_machine();
	auto guest = Guest::create(dma::hda, MiB);
	Recorder ring(guest.memory, 0);
	ring.start(guest.device);
	auto session = VALUE(stage.device.create("dma-veto"));
	guest.preserve(session);

	CHECK_EQ(guest.iommufd.try_map(guest.memory, GiB, 0, page), EBUSY);
	CHECK_EQ(guest.iommufd.try_unmap(Memory::iova, guest.memory.size()), EBUSY);
	CHECK_EQ(guest.device.try_attach(guest.iommufd.ioas()), EBUSY);
	CHECK_EQ(guest.device.try_detach(), EBUSY);
	CHECK(ring.runs());

	const Event event;
	CHECK_EQ(guest.device.try_interrupts(VFIO_PCI_MSI_IRQ_INDEX, {event.fd()}), 0);
	CHECK_EQ(jump(), EBUSY);
	CHECK(logged("can interrupt"));
	CHECK_EQ(guest.device.try_policy(~0u), EOPNOTSUPP);
	CHECK_EQ(guest.device.try_policy(LIVEUPDATE_VFIO_FORCE_OFF), 0);

	// Frozen and thawed: another file refuses. What may have come meanwhile is signalled.
	TestFile other("dma:other");
	other.fail("freeze", EREMOTEIO);
	OK(session.preserve(other.get(), 4));
	CHECK_EQ(event.count(), 0);
	CHECK_EQ(jump(), EREMOTEIO);
	CHECK_EQ(event.count(), 1);
	CHECK(dma::messages_on(dma::hda));
	CHECK_EQ(guest.device.try_interrupts(VFIO_PCI_MSI_IRQ_INDEX, {}), 0);
	CHECK(!dma::messages_on(dma::hda));
	CHECK_EQ(guest.device.try_configure(4, dma::bus_master | 2), 0);
	CHECK_EQ(guest.device.try_policy(0), 0);
	CHECK(ring.runs());
	session.close();
	CHECK_EQ(guest.device.try_policy(0), ENOENT);

	// A page of the file is not what the device reaches: there is another one in its place.
	auto hole = VALUE(stage.device.create("dma-hole"));
	SYS(::fallocate(guest.memory.fd().get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			guest.memory.size() - page, page));
	*guest.memory.at<char>(guest.memory.size() - page) = 1;
	OK(hole.preserve(guest.device.fd().get(), DEVICE));
	OK(hole.preserve(guest.iommufd.fd().get(), IOMMUFD));
	OK(hole.preserve(guest.memory.fd().get(), MEMORY));
	CHECK_EQ(jump(), EINVAL);
	CHECK(logged("is not that of the file"));
	hole.close();
	// It is seen earlier where the memory cannot change any more.
	auto settled = VALUE(stage.device.create("dma-settled"));
	OK(settled.preserve(guest.memory.fd().get(), MEMORY));
	FAILS(settled.preserve(guest.iommufd.fd().get(), IOMMUFD), EINVAL);
	settled.close();

	// Memory of no file; a device without its iommufd; one that is not attached.
	auto nothing = static_cast<char *>(SYS(
		::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
	CHECK_EQ(guest.iommufd.try_map_at(nothing, GiB, page), 0);
	auto wrong = VALUE(stage.device.create("dma-wrong"));
	FAILS(wrong.preserve(guest.iommufd.fd().get(), IOMMUFD), EOPNOTSUPP);
	CHECK_EQ(guest.iommufd.try_unmap(GiB, page), 0);
	OK(wrong.preserve(guest.device.fd().get(), DEVICE));
	CHECK_EQ(jump(), ENOENT);
	wrong.close();
	CHECK_EQ(guest.device.try_detach(), 0);
	auto detached = VALUE(stage.device.create("dma-detached"));
	FAILS(detached.preserve(guest.device.fd().get(), DEVICE), EINVAL);
	CHECK(wait_for([] { return dma::faults(dma::hda) > 0; }));
}

BEFORE("dma/between the freeze and the jump nobody resets a device, or lets it sleep")
{
	dma::need_machine();
	auto guest = Guest::create(dma::nic, MiB);
	CHECK_EQ(guest.device.try_reset(), 0);
	// QEMU's bridge cannot reset its bus, but that is found out later than this.
	CHECK(guest.device.try_hot_reset() != EBUSY);
	auto session = VALUE(stage.device.create("dma-reset"));
	guest.preserve(session);
	// Another file refuses, when all has been tried.
	TestFile other("dma:slow");
	other.command("stall 60000");
	other.fail("freeze", EREMOTEIO);
	OK(session.preserve(other.get(), 4));
	int reset = -1, hot_reset = -1, sleep = -1;
	std::thread meanwhile([&] {
		const auto frozen = [&] {
			return guest.device.try_configure(4, dma::bus_master | 2) == EBUSY;
		};
		wait_for(frozen);
		reset = guest.device.try_reset();
		hot_reset = guest.device.try_hot_reset();
		sleep = guest.device.try_sleep();
		other.command("stall 0");
	});
	CHECK_EQ(jump(), EREMOTEIO);
	meanwhile.join();
	CHECK_EQ(reset, EBUSY);
	CHECK_EQ(hot_reset, EBUSY);
	CHECK_EQ(sleep, EBUSY);
	CHECK(dma::config_word(dma::nic, 4) & dma::bus_master);
	CHECK(guest.device.try_hot_reset() != EBUSY);
	CHECK_EQ(guest.device.try_reset(), 0);
}

// ---- a NIC ----

void save(Stage &stage, const Receiver &nic)
{
	stage.note("received", nic.received);
	stage.note("slot", nic.slot);
	stage.note("next", nic.next);
}

void load(Stage &stage, Receiver &nic)
{
	nic.received = stage.number("received");
	nic.slot = stage.number("slot");
	nic.next = stage.number("next");
}

bool comes_to(Receiver &nic, unsigned long received)
{
	return wait_for([&] {
		nic.look();
		return nic.received >= received;
	});
}

// Some more frames came, and none was missed.
void check_receives(Receiver &nic)
{
	nic.look();
	const auto before = nic.received;
	CHECK(comes_to(nic, before + 50));
	CHECK_EQ(nic.lost, 0);
}

// Vectors of MSI-X: they are off in the jump, and each that was set up is signalled once after it.
constexpr unsigned vectors = 3;

void keep_nic(Guest guest, Stage &stage, const Event (&events)[vectors])
{
	CHECK_EQ(guest.device.try_interrupts(VFIO_PCI_MSIX_IRQ_INDEX,
					     {events[0].fd(), -1, events[2].fd()}),
		 0);
	auto session = VALUE(stage.device.create("dma-nic"));
	guest.preserve(session);
	CHECK_EQ(guest.device.try_policy(LIVEUPDATE_VFIO_FORCE_OFF), 0);
	Stage::keep(std::move(session));
	Stage::keep(std::move(guest));
}

void check_vectors(Pci &device, const Event (&events)[vectors])
{
	CHECK(!dma::messages_on(dma::nic));
	// One more than there were.
	const std::vector<int> fds{events[0].fd(), events[1].fd(), events[2].fd()};
	CHECK_EQ(device.try_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, {fds[0]}), 0);
	CHECK_EQ(events[0].count(), 1);
	CHECK_EQ(device.try_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, fds), 0);
	CHECK_EQ(events[0].count(), 0);
	CHECK_EQ(events[1].count(), 0);
	CHECK_EQ(events[2].count(), 1);
	CHECK_EQ(device.try_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, {}), 0);
	CHECK_EQ(device.try_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, fds), 0);
	CHECK_EQ(events[0].count() + events[1].count() + events[2].count(), 0);
	CHECK_EQ(device.try_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, {}), 0);
}

BEFORE("dma/NIC behind a bridge: no frame is lost, in one kernel after the other")
{
	dma::need_machine();
	auto guest = Guest::create(dma::nic, 16 * MiB);
	Receiver nic(guest.memory, 0);
	nic.start(guest.device);
	// What QEMU had in store comes first.
	REQUIRE(comes_to(nic, 350));
	nic.lost = 0;
	nic.recycle(guest.device);
	check_receives(nic);
	save(stage, nic);
	static const Event events[vectors];
	keep_nic(std::move(guest), stage, events);
}

void nic_goes_on(Stage &stage, bool last)
{
	auto session = VALUE(stage.device.retrieve("dma-nic"));
	Memory memory(VALUE(session.retrieve(MEMORY)));
	Receiver nic(memory, 0);
	load(stage, nic);
	const auto before = nic.received;
	check_receives(nic);
	ktap::print("# %lu frames since the last kernel looked", nic.received - before);
	CHECK_EQ(dma::faults(dma::nic), 0);
	CHECK(dma::config_word(dma::nic, 4) & dma::bus_master);
	CHECK(dma::config_word(dma::port, 4) & dma::bus_master);

	auto guest = Guest::retrieve(dma::nic, session);
	check_receives(nic);
	guest.take_over();
	nic.recycle(guest.device);
	check_receives(nic);
	static const Event events[vectors];
	check_vectors(guest.device, events);
	replace(guest, 10000);
	nic.recycle(guest.device);
	check_receives(nic);
	CHECK_EQ(dma::faults(dma::nic), 0);
	OK(session.finish());
	check_receives(nic);
	save(stage, nic);
	// With the other devices gone, each kernel uses as many as the one before.
	if (stage.number("ids"))
		CHECK_EQ(dma::domain_ids(), stage.number("ids"));
	if (stage.number("kernels"))
		stage.note("ids", dma::domain_ids());
	stage.note("kernels", stage.number("kernels") + 1);
	if (!last)
		keep_nic(std::move(guest), stage, events);
}

AFTER()
{
	nic_goes_on(stage, false);
}

AFTER()
{
	nic_goes_on(stage, false);
}

AFTER()
{
	nic_goes_on(stage, true);
}

// ---- a ring without end ----

BEFORE("dma/HD Audio: the ring goes on; nobody else gets the device; wrong page tables are refused")
{
	dma::need_machine();
	auto guest = Guest::create(dma::hda, MiB);
	Recorder ring(guest.memory, 0);
	ring.start(guest.device);
	REQUIRE(ring.runs());
	Guest::keep(std::move(guest), stage, "dma-hda");
}

AFTER()
{
	auto session = VALUE(stage.device.retrieve("dma-hda"));
	Memory memory(VALUE(session.retrieve(MEMORY)));
	Recorder ring(memory, 0);
	CHECK(ring.runs());
	CHECK_ERRNO(Pci::open(dma::hda), EBUSY);

	Iommufd iommufd(VALUE(session.retrieve(IOMMUFD)));
	Pci device(dma::hda, VALUE(session.retrieve(DEVICE)), iommufd);
	CHECK(ring.runs());
	FAILS(session.finish(), EBUSY);

	// Nothing is mapped, or not yet: the HWPT of an IOAS is filled after the attach.
	CHECK_EQ(device.try_attach(iommufd.hwpt(device.id())), EINVAL);
	iommufd.map(memory);
	CHECK_EQ(device.try_attach(iommufd.ioas()), EINVAL);
	REQUIRE(!iommufd.try_unmap(Memory::iova, memory.size()));

	struct Piece {
		uint64_t iova, offset, length;
		bool writable;
	};
	const uint64_t start = Memory::iova, rest = memory.size() - page,
		       end = start + memory.size();
	const std::vector<Piece> layouts[] = {
		{{start, 0, rest, true}, {start + rest, 0, page, true}}, // another page
		{{start, 0, rest, true}}, // one that is missing
		{{start, 0, rest, true}, {start + rest, rest, page, false}}, // for reading only
		{{start, 0, memory.size(), true}, {end, 0, page, true}}, // one too many
	};
	for (auto &layout : layouts) {
		for (auto &piece : layout)
			REQUIRE(!iommufd.try_map(memory, piece.iova, piece.offset, piece.length,
						 piece.writable));
		CHECK_EQ(device.try_attach(iommufd.hwpt(device.id())), EINVAL);
		for (auto &piece : layout)
			REQUIRE(!iommufd.try_unmap(piece.iova, piece.length));
	}
	iommufd.map(memory);
	CHECK(ring.runs());
	CHECK_EQ(dma::faults(dma::hda), 0);

	device.attach(iommufd.hwpt(device.id()));
	CHECK(ring.runs());
	CHECK_EQ(dma::faults(dma::hda), 0);
	OK(session.finish());
	CHECK(ring.runs());

	// Like any device again: it stops when it is closed, and others can have it.
	{
		auto closed = std::move(device);
	}
	CHECK(ring.stands());
	CHECK(!(dma::config_word(dma::hda, 4) & dma::bus_master));
	Iommufd next;
	Pci again(dma::hda, next);
}

// ---- a single transfer ----

BEFORE("dma/edu: a transfer that is under way at the jump arrives")
{
	dma::need_machine();
	auto guest = Guest::create(dma::edu, MiB);
	auto session = VALUE(stage.device.create("dma-edu"));
	guest.preserve(session);
	Stage::keep(std::move(session));
	static Guest edu = std::move(guest);
	static std::thread work([] {
		Copier copier(edu.device);
		auto number = edu.memory.at<uint32_t>(0);
		for (uint32_t round = 1;; round++) {
			auto pattern = edu.memory.at<uint32_t>(page);
			for (unsigned i = 0; i < Copier::size / 4; i++)
				pattern[i] = round * 0x10001 + i;
			copier.load(Memory::iova + page);
			copier.store(Memory::iova + 2 * page);
			*number = round;
			while (copier.busy())
				sleep_ms(1);
		}
	});
	work.detach();
	CHECK(wait_for([] { return *edu.memory.at<uint32_t>(0) > 0; }));
}

AFTER()
{
	auto session = VALUE(stage.device.retrieve("dma-edu"));
	Memory memory(VALUE(session.retrieve(MEMORY)));
	// The last transfer out of the device was told to start before this was written, or was the
	// one after that, which the jump kept from writing it.
	const uint32_t number = *memory.at<uint32_t>(0);
	auto arrived = memory.at<uint32_t>(2 * page);
	const uint32_t first = arrived[0];
	CHECK(first == number * 0x10001 || first == (number + 1) * 0x10001);
	unsigned wrong = 0;
	for (unsigned i = 0; i < Copier::size / 4; i++)
		wrong += arrived[i] != first + i;
	CHECK_EQ(wrong, 0);
	CHECK_EQ(dma::faults(dma::edu), 0);
	auto guest = Guest::retrieve(dma::edu, session);
	guest.take_over();
	OK(session.finish());
	// It works in the new kernel.
	Copier copier(guest.device);
	memory.at<uint32_t>(page)[0] = 0x12345678;
	copier.load(Memory::iova + page);
	copier.store(Memory::iova + 3 * page);
	CHECK(wait_for([&] { return !copier.busy(); }));
	CHECK_EQ(memory.at<uint32_t>(3 * page)[0], 0x12345678);
}

// ---- interrupts ----

// A driver that waits for its interrupt, and would wait for ever if that got lost.
struct Interrupted {
	const char *name;
	const char *address;
	unsigned index;
	unsigned flags;
};

bool transfer(Guest &guest, const Event &event, unsigned index)
{
	Copier copier(guest.device);
	copier.store(Memory::iova + 2 * page, true);
	if (!event.count(60000))
		return false;
	copier.acknowledge();
	if (index == VFIO_PCI_INTX_IRQ_INDEX)
		guest.device.unmask_intx();
	return true;
}

void interrupts_before(Stage &stage, const Interrupted &row)
{
	dma::need_machine();
	auto session = VALUE(stage.device.create(row.name));
	auto guest = Guest::create(row.address, MiB);
	guest.preserve(session);
	CHECK_EQ(guest.device.try_policy(row.flags), 0);
	Stage::keep(std::move(session));
	const Memory memory = guest.memory;
	// It goes on until the jump, and is waiting then, as a transfer takes most of the time.
	std::thread([guest = std::move(guest), row]() mutable {
		const Event event;
		if (guest.device.try_interrupts(row.index, {event.fd()}))
			return;
		auto number = guest.memory.at<uint32_t>(0);
		while (transfer(guest, event, row.index))
			*number = *number + 1;
	}).detach();
	CHECK(wait_for([&] { return *memory.at<uint32_t>(0) > 0; }));
}

void interrupts_after(Stage &stage, const Interrupted &row)
{
	auto session = VALUE(stage.device.retrieve(row.name));
	auto guest = Guest::retrieve(row.address, session);
	guest.take_over();
	CHECK(!dma::messages_on(row.address));
	// With MSI off, edu asserts INTx, and then, with MSI on, would never take that back.
	if (row.index == VFIO_PCI_MSI_IRQ_INDEX)
		Copier(guest.device).acknowledge();
	const Event event;
	CHECK_EQ(guest.device.try_interrupts(row.index, {event.fd()}), 0);
	const bool triggers = !(row.flags & LIVEUPDATE_VFIO_NO_TRIGGER);
	CHECK_EQ(event.count(triggers ? 60000 : 200), triggers);
	OK(session.finish());
	Copier(guest.device).acknowledge();
	if (row.index == VFIO_PCI_INTX_IRQ_INDEX)
		guest.device.unmask_intx();
	for (int i = 0; i < 3; i++)
		CHECK(transfer(guest, event, row.index));
	CHECK_EQ(dma::faults(row.address), 0);
}

const Table<Interrupted>
	interrupts("dma/an interrupt that comes in the jump is not lost: ",
		   {{"INTx", dma::interrupter, VFIO_PCI_INTX_IRQ_INDEX, LIVEUPDATE_VFIO_FORCE_OFF},
		    {"MSI", dma::messenger, VFIO_PCI_MSI_IRQ_INDEX, LIVEUPDATE_VFIO_FORCE_OFF},
		    {"its owner sees to it", dma::silent, VFIO_PCI_MSI_IRQ_INDEX,
		     LIVEUPDATE_VFIO_FORCE_OFF | LIVEUPDATE_VFIO_NO_TRIGGER}},
		   interrupts_before, interrupts_after);

// ---- devices that nobody takes over ----

BEFORE("dma/a device that is not preserved cannot write, even with its bus mastering stuck")
{
	dma::need_machine();
	auto guest = Guest::create(dma::stray, MiB);
	Recorder ring(guest.memory, 0);
	ring.start(guest.device);
	REQUIRE(ring.runs());
	// Only the memory is carried.
	OK(stage.session().preserve(guest.memory.fd().get(), MEMORY));
	Stage::keep(std::move(guest));
}

AFTER()
{
	Memory memory(VALUE(stage.session().retrieve(MEMORY)));
	CHECK(dma::config_word(dma::stray, 4) & dma::bus_master);
	CHECK(Recorder(memory, 0).stands());
	CHECK(wait_for([] { return dma::faults(dma::stray) > 0; }));
	OK(stage.session().finish());
}

BEFORE("dma/a device that is not retrieved is stopped when its session is finished")
{
	dma::need_machine();
	auto guest = Guest::create(dma::orphan, MiB);
	Recorder ring(guest.memory, 0);
	ring.start(guest.device);
	REQUIRE(ring.runs());
	Guest::keep(std::move(guest), stage, "dma-orphan");
}

AFTER()
{
	auto session = VALUE(stage.device.retrieve("dma-orphan"));
	Memory memory(VALUE(session.retrieve(MEMORY)));
	Recorder ring(memory, 0);
	CHECK(ring.runs());
	auto handlers = ferry::handlers_of(stage.device, "dma-orphan");
	CHECK_EQ(handlers.size(), 2);
	OK(session.finish());
	CHECK(ring.stands());
	CHECK(!(dma::config_word(dma::orphan, 4) & dma::bus_master));
	CHECK(dma::said("was not retrieved"));
	Iommufd next;
	Pci again(dma::orphan, next);
	again.attach(next.ioas());
	ferry::tell_released(handlers);
}

// ---- other devices ----

// A disk, behind the same IOMMU, with the kernel's own driver: its blocks have their numbers in
// them.
void check_disk()
{
	// The page cache would answer.
	Fd fd(SYS(::open("/dev/vda", O_RDONLY | O_CLOEXEC | O_DIRECT)));
	alignas(4096) static uint64_t block[512];
	unsigned wrong = 0;
	for (unsigned i = 0; i < 64; i++) {
		const uint64_t number = i * 7 % 256;
		SYS(::pread(fd.get(), block, sizeof(block), number * sizeof(block)));
		wrong += block[0] != number || block[511] != number;
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(dma::faults(dma::disk), 0);
}

BEFORE("dma/a disk behind the same IOMMU works before and after")
{
	dma::need_machine();
	check_disk();
}

AFTER()
{
	check_disk();
}

// ---- many updates ----

// What a kernel has in use with the devices at work: before they are preserved for the first time,
// and when each later kernel has taken them over. A boot gives back what the last kernel lost, so
// that the kernels are compared with the first one, and not only with each other.
struct Use {
	const char *name;
	long (*of)();
	// How much more than in the first kernel is no loss.
	long slack;
};

// Pages of page tables and other tables of IOMMUs.
long iommu_pages()
{
	const auto text = read_file("/proc/vmstat");
	const auto at = text.find("nr_iommu_pages ");
	REQUIRE(at != text.npos);
	return std::atol(text.c_str() + at + 15);
}

constexpr Use uses[] = {
	{"domain ids", dma::domain_ids, 0},
	// A disk's driver has a page or two more in one boot than in another.
	{"pages of IOMMU tables", iommu_pages, 2},
	// The machine has 1 GiB. What is preserved, and never restored, is missing from the total.
	// So are 16 KiB in each kernel that a kexec has booted, also where nothing is carried.
	{"KiB of memory that nobody can have", [] { return long(GiB / KiB) - meminfo("MemTotal"); },
	 16},
};

constexpr unsigned soak_updates = 10;

// Has the median of the later kernels more than the first one?
bool grows(const std::string &seen, long slack)
{
	std::istringstream text(seen);
	std::vector<long> all{std::istream_iterator<long>(text), {}};
	REQUIRE(all.size() == soak_updates + 1);
	std::sort(all.begin() + 1, all.end());
	return all[1 + soak_updates / 2] > all[0] + slack;
}

void note_uses(Stage &stage)
{
	for (const Use &use : uses)
		stage.note(use.name) += std::to_string(use.of()) + " ";
}

void soak(Stage &stage, unsigned kernel)
{
	dma::need_machine();
	const char *const names[] = {"soak-nic", "soak-hda"};
	if (kernel == 1) {
		auto guest = Guest::create(dma::nic, 16 * MiB);
		Receiver nic(guest.memory, 0);
		nic.start(guest.device);
		REQUIRE(comes_to(nic, 350));
		nic.lost = 0;
		nic.recycle(guest.device);
		save(stage, nic);
		auto sound = Guest::create(dma::hda, MiB);
		Recorder(sound.memory, 0).start(sound.device);
		note_uses(stage);
		Guest::keep(std::move(guest), stage, names[0]);
		Guest::keep(std::move(sound), stage, names[1]);
		return;
	}
	auto first = VALUE(stage.device.retrieve(names[0]));
	auto second = VALUE(stage.device.retrieve(names[1]));
	auto guest = Guest::retrieve(dma::nic, first), sound = Guest::retrieve(dma::hda, second);
	Receiver nic(guest.memory, 0);
	load(stage, nic);
	CHECK(Recorder(sound.memory, 0).runs());
	guest.take_over();
	sound.take_over();
	nic.recycle(guest.device);
	check_receives(nic);
	nic.recycle(guest.device);
	OK(first.finish());
	OK(second.finish());
	CHECK(Recorder(sound.memory, 0).runs());
	CHECK_EQ(dma::faults(dma::nic) + dma::faults(dma::hda), 0);
	save(stage, nic);
	note_uses(stage);
	for (const Use &use : uses) {
		if (kernel > soak_updates) {
			const auto &seen = stage.note(use.name);
			ktap::print("# %s: %s", use.name, seen.c_str());
			CHECK(!grows(seen, use.slack));
		}
	}
	if (kernel <= soak_updates) {
		Guest::keep(std::move(guest), stage, names[0]);
		Guest::keep(std::move(sound), stage, names[1]);
	}
}

const Carried soaked("dma-soak/devices over many updates: no frame, page or domain id is lost", [] {
	std::vector<Carried::Part> parts;
	for (unsigned kernel = 1; kernel <= soak_updates + 1; kernel++)
		parts.emplace_back([kernel](Stage &stage) { soak(stage, kernel); });
	return parts;
}());

// ---- a record that is not right ----

/*
 * In each kernel something else is wrong; selftests/run sees to that: the checksum of the kernel's
 * record, a context entry in it, no record at all, the mode of the IOMMU, an IOMMU that is not
 * used.
 */
void check_refused(Stage &stage, const char *message)
{
	auto session = VALUE(stage.device.retrieve("refused"));
	Memory memory(VALUE(session.retrieve(MEMORY)));
	CHECK(Recorder(memory, 0).stands());
	CHECK(!(dma::config_word(dma::hda, 4) & dma::bus_master));
	CHECK(dma::said(message));
	FAILS(session.retrieve(DEVICE), ENODEV);
	OK(session.finish());
}

void set_up_again(Stage &stage)
{
	dma::need_machine();
	auto guest = Guest::create(dma::hda, MiB);
	Recorder ring(guest.memory, 0);
	ring.start(guest.device);
	REQUIRE(ring.runs());
	Guest::keep(std::move(guest), stage, "refused");
}

BEFORE("refused/a record that is damaged, or not true: the device is stopped before it does harm")
{
	set_up_again(stage);
}

AFTER()
{
	check_refused(stage, "its checksum is wrong");
	set_up_again(stage);
}

AFTER()
{
	check_refused(stage, "its context entry is not that of the record");
	set_up_again(stage);
}

AFTER()
{
	check_refused(stage, "an IOMMU translates for nobody");
	set_up_again(stage);
}

AFTER()
{
	check_refused(stage, "would have to change between legacy and scalable mode");
	set_up_again(stage);
}

AFTER()
{
	check_refused(stage, "this kernel does not use its IOMMU");
}

} // namespace

int dma_stage(int stage, const char *filter)
{
	return run_stage(stage, "dma/", filter);
}

int dma_soak_stage(int stage, const char *filter)
{
	return run_stage(stage, "dma-soak/", filter);
}

int refused_stage(int stage, const char *filter)
{
	return run_stage(stage, "refused/", filter);
}
