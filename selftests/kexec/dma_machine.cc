// SPDX-License-Identifier: GPL-2.0
#include "selftests/kexec/dma.hh"

#include <algorithm>

#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>

namespace dma {

namespace {

void sleep_ms(unsigned ms)
{
	::usleep(ms * 1000);
}

std::string sysfs(const char *address, const char *file)
{
	return "/sys/bus/pci/devices/" + std::string(address) + "/" + file;
}

template <typename Arg> int call(const Fd &fd, unsigned long request, Arg &arg)
{
	return ::ioctl(fd.get(), request, &arg) < 0 ? errno : 0;
}

} // namespace

// ---- the machine ----

void need_machine()
{
	if (::access(sysfs(nic, "config").c_str(), F_OK) ||
	    ::access("/sys/class/iommu/dmar0", F_OK))
		ktap::skip("this machine has no IOMMU, or not the devices");
}

uint16_t config_word(const char *address, unsigned offset)
{
	Fd fd(SYS(::open(sysfs(address, "config").c_str(), O_RDONLY | O_CLOEXEC)));
	uint16_t word = 0;
	SYS(::pread(fd.get(), &word, sizeof(word), offset));
	return word;
}

bool messages_on(const char *address)
{
	constexpr unsigned first = 0x34, msi = 0x05, msix = 0x11;
	for (unsigned at = config_word(address, first) & 0xff; at;) {
		const unsigned head = config_word(address, at), id = head & 0xff;
		const uint16_t control = config_word(address, at + 2);
		if ((id == msi && control & 1) || (id == msix && control & 0x8000))
			return true;
		at = head >> 8;
	}
	return false;
}

unsigned faults(const char *address)
{
	// "DMAR: [DMA Write NO_PASID] Request device [0000:00:10.0] fault addr ..."
	const auto device = "Request device [" + std::string(address) + "]";
	const auto log = kernel_log();
	unsigned number = 0;
	for (size_t at = 0; (at = log.find(device, at)) != log.npos; at += device.size())
		number++;
	return number;
}

bool said(const std::string &text)
{
	return kernel_log().find(text) != std::string::npos;
}

long domain_ids()
{
	return std::atol(read_file("/sys/class/iommu/dmar0/intel-iommu/domains_used").c_str());
}

// ---- memory ----

Memory Memory::create(uint64_t size)
{
	auto fd = make_memfd(size);
	SYS(::fallocate(fd.get(), 0, 0, size));
	return Memory(std::move(fd));
}

Memory::Memory(Fd fd)
	: fd_(std::make_shared<Fd>(std::move(fd))), size_(status(*fd_).st_size),
	  map_(std::make_shared<Map>(*fd_, size_))
{
}

// ---- interrupts ----

Event::Event() : fd_(SYS(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)))
{
}

uint64_t Event::count(unsigned ms) const
{
	pollfd poll{fd_.get(), POLLIN, 0};
	uint64_t number = 0;
	if (SYS(::poll(&poll, 1, ms)))
		SYS(::read(fd_.get(), &number, sizeof(number)));
	return number;
}

// ---- iommufd ----

Iommufd::Iommufd() : fd_(SYS(::open("/dev/iommu", O_RDWR | O_CLOEXEC)))
{
	allocate();
}

Iommufd::Iommufd(Fd fd) : fd_(std::move(fd))
{
	allocate();
}

void Iommufd::allocate()
{
	iommu_ioas_alloc arg{};
	arg.size = sizeof(arg);
	CHECK_EQ(call(fd_, IOMMU_IOAS_ALLOC, arg), 0);
	ioas_ = arg.out_ioas_id;
}

int Iommufd::try_map(const Memory &memory, uint64_t iova, uint64_t offset, uint64_t length,
		     bool writable)
{
	return try_map_at(memory.bytes(offset), iova, length, writable);
}

int Iommufd::try_map_at(const void *at, uint64_t iova, uint64_t length, bool writable)
{
	iommu_ioas_map arg{};
	arg.size = sizeof(arg);
	arg.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
		    (writable ? IOMMU_IOAS_MAP_WRITEABLE : 0);
	arg.ioas_id = ioas_;
	arg.user_va = reinterpret_cast<uint64_t>(at);
	arg.length = length;
	arg.iova = iova;
	return call(fd_, IOMMU_IOAS_MAP, arg);
}

int Iommufd::try_unmap(uint64_t iova, uint64_t length)
{
	iommu_ioas_unmap arg{};
	arg.size = sizeof(arg);
	arg.ioas_id = ioas_;
	arg.iova = iova;
	arg.length = length;
	return call(fd_, IOMMU_IOAS_UNMAP, arg);
}

void Iommufd::map(const Memory &memory)
{
	REQUIRE(try_map(memory, Memory::iova, 0, memory.size()) == 0);
}

uint32_t Iommufd::hwpt(uint32_t device)
{
	iommu_hwpt_alloc arg{};
	arg.size = sizeof(arg);
	arg.dev_id = device;
	arg.pt_id = ioas_;
	REQUIRE(call(fd_, IOMMU_HWPT_ALLOC, arg) == 0);
	return arg.out_hwpt_id;
}

// ---- devices ----

int Pci::bind(const char *address)
{
	write_file(sysfs(address, "driver_override").c_str(), "vfio-pci");
	write_file(sysfs(address, "driver/unbind").c_str(), address);
	return write_file("/sys/bus/pci/drivers_probe", address) ? 0 : errno;
}

int Pci::open(const char *address)
{
	int fd = -1;
	errno = ENODEV;
	if (DIR *folder = ::opendir(sysfs(address, "vfio-dev").c_str())) {
		while (dirent *entry = ::readdir(folder))
			if (std::strncmp(entry->d_name, "vfio", 4) == 0)
				fd = ::open(
					("/dev/vfio/devices/" + std::string(entry->d_name)).c_str(),
					O_RDWR | O_CLOEXEC);
		int error = errno;
		::closedir(folder);
		errno = error;
	}
	return fd;
}

Pci::Pci(const char *address, const Iommufd &iommufd) : address_(address)
{
	bind(address);
	fd_.reset(SYS(open(address)));
	bind_iommufd(iommufd);
}

Pci::Pci(const char *address, Fd fd, const Iommufd &iommufd) : address_(address), fd_(std::move(fd))
{
	bind_iommufd(iommufd);
}

void Pci::bind_iommufd(const Iommufd &iommufd)
{
	vfio_device_bind_iommufd arg{};
	arg.argsz = sizeof(arg);
	arg.iommufd = iommufd.fd().get();
	REQUIRE(call(fd_, VFIO_DEVICE_BIND_IOMMUFD, arg) == 0);
	id_ = arg.out_devid;
}

int Pci::try_attach(uint32_t pt)
{
	vfio_device_attach_iommufd_pt arg{};
	arg.argsz = sizeof(arg);
	arg.pt_id = pt;
	return call(fd_, VFIO_DEVICE_ATTACH_IOMMUFD_PT, arg);
}

int Pci::try_detach()
{
	vfio_device_detach_iommufd_pt arg{};
	arg.argsz = sizeof(arg);
	return call(fd_, VFIO_DEVICE_DETACH_IOMMUFD_PT, arg);
}

void Pci::attach(uint32_t pt)
{
	REQUIRE(try_attach(pt) == 0);
}

void Pci::master()
{
	uint16_t command;
	SYS(::pread(fd_.get(), &command, sizeof(command), config_at(4)));
	REQUIRE(try_configure(4, command | bus_master | 2) == 0); // and its registers
}

uint64_t Pci::config_at(unsigned offset) const
{
	vfio_region_info info{};
	info.argsz = sizeof(info);
	info.index = VFIO_PCI_CONFIG_REGION_INDEX;
	REQUIRE(call(fd_, VFIO_DEVICE_GET_REGION_INFO, info) == 0);
	return info.offset + offset;
}

int Pci::try_configure(unsigned offset, uint16_t value)
{
	return ::pwrite(fd_.get(), &value, sizeof(value), config_at(offset)) < 0 ? errno : 0;
}

int Pci::try_reset()
{
	return ::ioctl(fd_.get(), VFIO_DEVICE_RESET) ? errno : 0;
}

// Of what is bound to the same iommufd: all of the bus.
int Pci::try_hot_reset()
{
	vfio_pci_hot_reset reset{};
	reset.argsz = sizeof(reset);
	return call(fd_, VFIO_DEVICE_PCI_HOT_RESET, reset);
}

int Pci::try_sleep()
{
	vfio_device_feature feature{};
	feature.argsz = sizeof(feature);
	feature.flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY;
	return call(fd_, VFIO_DEVICE_FEATURE, feature);
}

int Pci::try_interrupts(unsigned index, const std::vector<int> &fds)
{
	const size_t size = sizeof(vfio_irq_set) + fds.size() * sizeof(int);
	alignas(vfio_irq_set) char room[sizeof(vfio_irq_set) + 16 * sizeof(int)] = {};
	REQUIRE(size <= sizeof(room));
	auto set = reinterpret_cast<vfio_irq_set *>(room);
	set->argsz = size;
	set->index = index;
	set->flags = VFIO_IRQ_SET_ACTION_TRIGGER |
		     (fds.empty() ? VFIO_IRQ_SET_DATA_NONE : VFIO_IRQ_SET_DATA_EVENTFD);
	set->count = fds.size();
	std::ranges::copy(fds, reinterpret_cast<int *>(set->data));
	return ::ioctl(fd_.get(), VFIO_DEVICE_SET_IRQS, set) < 0 ? errno : 0;
}

void Pci::unmask_intx()
{
	vfio_irq_set set{};
	set.argsz = sizeof(set);
	set.index = VFIO_PCI_INTX_IRQ_INDEX;
	set.flags = VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_DATA_NONE;
	set.count = 1;
	CHECK_EQ(call(fd_, VFIO_DEVICE_SET_IRQS, set), 0);
}

int Pci::try_policy(unsigned flags)
{
	const Fd node(SYS(::open("/dev/liveupdate_vfio", O_RDWR | O_CLOEXEC)));
	liveupdate_vfio_interrupts arg{sizeof(arg), fd_.get(), flags, 0};
	return call(node, LIVEUPDATE_VFIO_SET_INTERRUPTS, arg);
}

void Pci::map_registers()
{
	vfio_region_info info{};
	info.argsz = sizeof(info);
	info.index = VFIO_PCI_BAR0_REGION_INDEX;
	REQUIRE(call(fd_, VFIO_DEVICE_GET_REGION_INFO, info) == 0);
	bar_ = std::make_shared<Map>(fd_, info.size, PROT_READ | PROT_WRITE, info.offset);
}

// ---- HD Audio (specification 1.0a, 3.3) ----

namespace hd_audio {

enum : uint64_t {
	control = 0x08,
	immediate = 0x60,
	response = 0x64,
	immediate_status = 0x68,
	position = 0x70,
	stream = 0x80, // the first input stream
	stream_length = stream + 0x08,
	stream_last = stream + 0x0c,
	stream_format = stream + 0x12,
	stream_list = stream + 0x18,
};

constexpr uint16_t format = 0x0011; // 48 kHz, 16 bits, two channels
constexpr unsigned converter = 4; // of QEMU's hda-duplex

void verb(const Pci &device, uint32_t what)
{
	device.reg<uint16_t>(immediate_status) = 2;
	device.reg<uint32_t>(immediate) = converter << 20 | what;
	device.reg<uint16_t>(immediate_status) = 1;
	for (int i = 0; i < 1000 && !(device.reg<uint16_t>(immediate_status) & 2); i++)
		;
	[[maybe_unused]] uint32_t ignored = device.reg<uint32_t>(response);
}

} // namespace hd_audio

void Recorder::start(const Pci &device)
{
	using namespace hd_audio;
	struct Entry {
		uint64_t address;
		uint32_t length, interrupt;
	};

	device.reg<uint32_t>(control) = 0;
	sleep_ms(5);
	device.reg<uint32_t>(control) = 1;
	sleep_ms(5);
	verb(device, 0x20000 | format);
	verb(device, 0x70600 | 1 << 4); // stream 1

	auto list = memory_.at<Entry>(base_ + page);
	for (unsigned i = 0; i < 4; i++) {
		list[i].address = Memory::iova + base_ + 2 * page + i * (ring / 4);
		list[i].length = ring / 4;
		list[i].interrupt = 0;
	}
	device.reg<uint32_t>(position) = uint32_t(Memory::iova + base_) | 1;
	device.reg<uint32_t>(position + 4) = 0;
	device.reg<uint32_t>(stream) = 0;
	device.reg<uint32_t>(stream_length) = ring;
	device.reg<uint16_t>(stream_last) = 3;
	device.reg<uint16_t>(stream_format) = format;
	device.reg<uint32_t>(stream_list) = uint32_t(Memory::iova + base_ + page);
	device.reg<uint32_t>(stream_list + 4) = 0;
	device.reg<uint32_t>(stream) = 1 << 20 | 2; // stream 1, run
}

// What it records is silence: zeros.
void Recorder::mark() const
{
	std::memset(memory_.bytes(base_ + 2 * page), 0xa5, ring);
}

uint64_t Recorder::marked() const
{
	uint64_t count = 0;
	auto bytes = memory_.at<uint8_t>(base_ + 2 * page);
	for (uint64_t i = 0; i < ring; i++)
		count += bytes[i] == 0xa5;
	return count;
}

bool Recorder::runs() const
{
	mark();
	if (wait_for([&] { return !marked(); }))
		return true;
	ktap::print("# %llu bytes of the ring have not been written", (unsigned long long)marked());
	return false;
}

bool Recorder::stands() const
{
	auto position = memory_.at<uint32_t>(base_);
	mark();
	const uint32_t was = *position;
	sleep_ms(400);
	if (marked() == ring && *position == was)
		return true;
	ktap::print("# %llu of %llu bytes of the ring are as they were; the position was %u, is %u",
		    (unsigned long long)marked(), (unsigned long long)ring, was, *position);
	return false;
}

// ---- e1000e (82574 data sheet, 10.2) ----

namespace e1000 {

enum : uint64_t {
	control = 0x0000,
	interrupt_mask_clear = 0x00d8,
	receive_control = 0x0100,
	ring_low = 0x2800,
	ring_high = 0x2804,
	ring_length = 0x2808,
	ring_head = 0x2810,
	ring_tail = 0x2818,
};

struct Slot {
	uint64_t address;
	uint16_t length, checksum;
	uint8_t status, errors;
	uint16_t special;
};

} // namespace e1000

void Receiver::start(const Pci &device)
{
	using namespace e1000;
	device.reg<uint32_t>(interrupt_mask_clear) = ~0u;
	device.reg<uint32_t>(control) = device.reg<uint32_t>(control) | 1 << 26; // reset
	sleep_ms(20);
	device.reg<uint32_t>(interrupt_mask_clear) = ~0u;
	device.reg<uint32_t>(control) = device.reg<uint32_t>(control) | 1 << 6 | 1; // link up
	auto ring = memory_.at<Slot>(base_);
	for (unsigned i = 0; i < slots; i++) {
		ring[i].address = Memory::iova + base_ + slots * sizeof(Slot) + i * frame;
		ring[i].status = 0;
	}
	const uint64_t at = Memory::iova + base_;
	device.reg<uint32_t>(ring_low) = uint32_t(at);
	device.reg<uint32_t>(ring_high) = uint32_t(at >> 32);
	device.reg<uint32_t>(ring_length) = slots * sizeof(Slot);
	device.reg<uint32_t>(ring_head) = 0;
	// Enabled, everything, broadcast, buffers of 256 bytes.
	device.reg<uint32_t>(receive_control) = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 15 | 3 << 16 |
						1 << 26;
	device.reg<uint32_t>(ring_tail) = slots - 1;
}

void Receiver::look()
{
	auto ring = memory_.at<e1000::Slot>(base_);
	while (ring[slot].status & 1) {
		const char *bytes =
			memory_.bytes(base_ + slots * sizeof(e1000::Slot) + slot * frame);
		uint32_t number;
		uint64_t sent;
		std::memcpy(&number, bytes + 18, sizeof(number));
		std::memcpy(&sent, bytes + 22, sizeof(sent));
		if (std::memcmp(bytes + 14, "FRRY", 4) == 0) {
			// The first ones may be old: QEMU had them in store.
			if (received && number != next)
				lost += number > next ? number - next : 1;
			next = number + 1;
			received++;
			if (seen)
				seen(number, sent);
		}
		ring[slot].status = 0;
		slot = (slot + 1) % slots;
	}
}

void Receiver::recycle(const Pci &device)
{
	look();
	device.reg<uint32_t>(e1000::ring_tail) = (slot + slots - 1) % slots;
}

// ---- edu ----

namespace {
enum : uint64_t {
	edu_status = 0x24,
	edu_acknowledge = 0x64,
	edu_source = 0x80,
	edu_target = 0x88,
	edu_count = 0x90,
	edu_command = 0x98
};
constexpr uint64_t edu_buffer = 0x40000;
} // namespace

bool Copier::busy() const
{
	return device_.reg<uint64_t>(edu_command) & 1;
}

void Copier::load(uint64_t iova) const
{
	device_.reg<uint64_t>(edu_source) = iova;
	device_.reg<uint64_t>(edu_target) = edu_buffer;
	device_.reg<uint64_t>(edu_count) = size;
	device_.reg<uint64_t>(edu_command) = 1;
	wait_for([&] { return !busy(); });
}

void Copier::acknowledge() const
{
	device_.reg<uint32_t>(edu_acknowledge) = device_.reg<uint32_t>(edu_status);
}

void Copier::store(uint64_t iova, bool interrupt) const
{
	device_.reg<uint64_t>(edu_source) = edu_buffer;
	device_.reg<uint64_t>(edu_target) = iova;
	device_.reg<uint64_t>(edu_count) = size;
	device_.reg<uint64_t>(edu_command) = interrupt ? 7 : 3;
}

} // namespace dma
