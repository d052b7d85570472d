// SPDX-License-Identifier: GPL-2.0
// Devices that a program of ours drives through VFIO, with their DMA in a memfd: what a VMM does
// with a passed-through device, and the guest's driver in it.
#pragma once

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "include/uapi/linux/liveupdate_vfio.h"
#include "selftests/kexec/carry.hh"

namespace dma {

// Where the machine of the scenarios has its devices; selftests/run puts them there.
constexpr const char *hda = "0000:00:10.0", *edu = "0000:00:11.0", *stray = "0000:00:12.0",
		     *port = "0000:00:13.0", *orphan = "0000:00:14.0", *disk = "0000:00:15.0",
		     *interrupter = "0000:00:16.0", *messenger = "0000:00:17.0",
		     *silent = "0000:00:18.0", *nic = "0000:01:00.0";

// Skips the case if this is not that machine.
void need_machine();

// A word of a device's configuration space, as the kernel reads it.
uint16_t config_word(const char *address, unsigned offset);
constexpr uint16_t bus_master = 4;
// Is MSI or MSI-X on, as the kernel reads it?
bool messages_on(const char *address);

// Lines of the kernel's log that tell of a fault of this device's DMA.
unsigned faults(const char *address);
// Has the kernel said this?
bool said(const std::string &text);
// Domain ids that the IOMMUs use.
long domain_ids();

// The memory of a "guest": a memfd, mapped here, and for devices at `iova`.
class Memory {
    public:
	static constexpr uint64_t iova = 0x10000000;

	static Memory create(uint64_t size);
	// One that was retrieved.
	explicit Memory(Fd fd);

	template <typename T> volatile T *at(uint64_t offset) const
	{
		return reinterpret_cast<volatile T *>(map_->data() + offset);
	}
	char *bytes(uint64_t offset) const
	{
		return map_->data() + offset;
	}
	uint64_t size() const
	{
		return size_;
	}
	const Fd &fd() const
	{
		return *fd_;
	}

    private:
	// Whoever looks into it shares it.
	std::shared_ptr<Fd> fd_;
	uint64_t size_;
	std::shared_ptr<Map> map_;
};

// Where an interrupt arrives.
class Event {
    public:
	Event();
	// How often it came since the last call; waits for the first one, so long at the most.
	uint64_t count(unsigned ms = 0) const;
	int fd() const
	{
		return fd_.get();
	}

    private:
	Fd fd_;
};

// An iommufd with one IOAS.
class Iommufd {
    public:
	// Of /dev/iommu, or one that was retrieved.
	Iommufd();
	explicit Iommufd(Fd fd);

	// Errno, or 0.
	int try_map(const Memory &memory, uint64_t iova, uint64_t offset, uint64_t length,
		    bool writable = true);
	int try_map_at(const void *at, uint64_t iova, uint64_t length, bool writable = true);
	int try_unmap(uint64_t iova, uint64_t length);
	void map(const Memory &memory);
	// An HWPT with all that is mapped now.
	uint32_t hwpt(uint32_t device);
	uint32_t ioas() const
	{
		return ioas_;
	}
	const Fd &fd() const
	{
		return fd_;
	}

    private:
	void allocate();

	Fd fd_;
	uint32_t ioas_ = 0;
};

// A device of vfio-pci, bound to an iommufd.
class Pci {
    public:
	// Takes it from whatever driver has it.
	Pci(const char *address, const Iommufd &iommufd);
	// One that was retrieved.
	Pci(const char *address, Fd fd, const Iommufd &iommufd);

	// Errno, or 0.
	int try_attach(uint32_t pt);
	int try_detach();
	void attach(uint32_t pt);
	// Lets it do DMA.
	void master();
	// Sets vectors up, from the first one on, each with a descriptor or -1; with none, turns
	// all off. Errno, or 0. `index` is VFIO_PCI_*_IRQ_INDEX.
	int try_interrupts(unsigned index, const std::vector<int> &fds);
	void unmask_intx();
	// LIVEUPDATE_VFIO_SET_INTERRUPTS; errno, or 0.
	int try_policy(unsigned flags);
	// VFIO_DEVICE_RESET; of the bus; the low-power state. Errno, or 0.
	int try_reset();
	int try_hot_reset();
	int try_sleep();
	// Writes to the configuration space; errno, or 0.
	int try_configure(unsigned offset, uint16_t value);
	const Fd &fd() const
	{
		return fd_;
	}
	uint32_t id() const
	{
		return id_;
	}
	const char *address() const
	{
		return address_;
	}

	template <typename T> volatile T &reg(uint64_t offset) const
	{
		return *reinterpret_cast<volatile T *>(bar_->data() + offset);
	}
	void map_registers();

	// Opens the character device of a device; -1 and errno.
	static int open(const char *address);
	// Gives the device to vfio-pci; the errno of a probe that failed, or 0.
	static int bind(const char *address);

    private:
	void bind_iommufd(const Iommufd &iommufd);
	// Where a byte of the configuration space is in the file.
	uint64_t config_at(unsigned offset) const;

	const char *address_;
	Fd fd_;
	uint32_t id_ = 0;
	std::shared_ptr<Map> bar_;
};

// ---- drivers ----

// The input of an HD Audio controller: writes silence over a ring, for ever, and its position.
class Recorder {
    public:
	static constexpr uint64_t ring = 64 * KiB;

	Recorder(const Memory &memory, uint64_t base) : memory_(memory), base_(base)
	{
	}
	void start(const Pci &device);
	// Does it write into all of its ring? It takes a third of a second for that.
	bool runs() const;
	// Has it written anything after this, in that time?
	bool stands() const;
	static constexpr uint64_t room = ring + 2 * page;

    private:
	void mark() const;
	uint64_t marked() const;

	Memory memory_;
	uint64_t base_;
};

// An e1000e that only receives: a ring of frames with a number each.
class Receiver {
    public:
	static constexpr unsigned slots = 32768, frame = 256;
	static constexpr uint64_t room = slots * (frame + 16);

	Receiver(const Memory &memory, uint64_t base) : memory_(memory), base_(base)
	{
	}
	void start(const Pci &device);
	// Looks at what came since the last call. Frames that are missing, or out of order, count
	// as lost.
	void look();
	// ... and gives the slots back to the device.
	void recycle(const Pci &device);
	unsigned long received = 0, lost = 0;
	// Called for each: when it was sent, by the sender's clock, in nanoseconds.
	std::function<void(uint32_t number, uint64_t sent)> seen;
	// For the next kernel.
	unsigned slot = 0;
	uint32_t next = 0;

    private:
	Memory memory_;
	uint64_t base_;
};

// QEMU's edu: one copy at a time, a tenth of a second after it was told to.
class Copier {
    public:
	static constexpr unsigned size = 2048;

	explicit Copier(const Pci &device) : device_(device)
	{
	}
	// Into its own buffer; waits.
	void load(uint64_t iova) const;
	// From there; does not wait, and interrupts at the end if told to.
	void store(uint64_t iova, bool interrupt = false) const;
	bool busy() const;
	// Takes note of its interrupt.
	void acknowledge() const;

    private:
	const Pci &device_;
};

} // namespace dma
