// SPDX-License-Identifier: GPL-2.0
#include "vfio.hh"

#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace fake {

namespace {

std::map<unsigned int, Pci> devices;

long count(bool Pci::*flag)
{
	long sum = 0;
	for (auto &[rid, device] : devices)
		sum += device.*flag;
	return sum;
}

[[maybe_unused]] const bool counted = [] {
	add_counter("held devices", [] { return count(&Pci::held); });
	add_counter("frozen devices", [] { return count(&Pci::frozen); });
	add_reset([] { devices.clear(); });
	return true;
}();

Pci &pci_of(file *file)
{
	return pci(*static_cast<unsigned int *>(file->behind.get()));
}

Pci *find(unsigned int segment, unsigned int rid)
{
	auto at = devices.find(rid);
	return segment || at == devices.end() ? nullptr : &at->second;
}

} // namespace

Pci &pci(unsigned int rid)
{
	Pci &device = devices[rid];
	device.is.rid = rid;
	return device;
}

void unplug(unsigned int rid)
{
	devices.erase(rid);
}

file *new_vfio(unsigned int rid, file *iommufd)
{
	file *made = new_file("vfio", vfio_kind);
	made->behind = std::make_shared<unsigned int>(rid);
	pci(rid).iommufd = iommufd;
	return made;
}

} // namespace fake

using namespace fake;

extern "C" {

bool linux_vfio_is(struct file *file)
{
	return file->kind == vfio_kind;
}

unsigned long linux_vfio_id(struct file *file)
{
	return reinterpret_cast<unsigned long>(&pci_of(file));
}

void linux_vfio_look(struct file *file, struct linux_vfio_device *device)
{
	*device = pci_of(file).is;
}

struct file *linux_vfio_iommufd(struct file *file)
{
	return pci_of(file).iommufd;
}

int linux_vfio_hold(struct file *file)
{
	Pci &device = pci_of(file);
	if (device.held || inject("linux_vfio_hold"))
		return -EBUSY;
	if (!device.attached)
		return -ENOENT;
	device.held = true;
	return 0;
}

void linux_vfio_let_go(struct file *file)
{
	if (pci_of(file).frozen)
		bug("a frozen device is let go");
	if (!std::exchange(pci_of(file).held, false))
		bug("a device is let go that is not held");
}

int linux_vfio_freeze(struct file *file, bool force, struct linux_vfio_interrupts *were)
{
	Pci &device = pci_of(file);
	if (!device.held || device.frozen)
		bug("a device is frozen twice, or not held");
	*were = device.interrupts;
	if (were->kind != FERRY_VFIO_NONE && !force)
		return -EBUSY;
	if (device.save_error)
		return device.save_error;
	if (inject("ferry_iommu_save"))
		return -ENOMEM;
	device.frozen = device.off = true;
	return 0;
}

void linux_vfio_unfreeze(struct file *file, const struct linux_vfio_interrupts *were)
{
	Pci &device = pci_of(file);
	if (!std::exchange(device.frozen, false))
		bug("a device is unfrozen that is not frozen");
	if (std::memcmp(were, &device.interrupts, sizeof(*were)))
		bug("a device is unfrozen with other interrupts than it was frozen with");
	device.off = false;
	for (unsigned char byte : were->vectors)
		device.signalled += std::popcount(byte);
}

enum linux_vfio_state linux_vfio_state(unsigned int segment, unsigned int rid)
{
	Pci *device = find(segment, rid);
	return device ? device->state : LINUX_VFIO_GONE;
}

int linux_vfio_find(unsigned int segment, unsigned int rid, struct linux_vfio_device *device)
{
	Pci *found = find(segment, rid);
	if (!found)
		return -ENODEV;
	*device = found->is;
	return 0;
}

int linux_vfio_open(unsigned int segment, unsigned int rid, const unsigned char *due,
		    struct file **file)
{
	Pci *device = find(segment, rid);
	if (!device || !device->driver)
		return -ENODEV;
	if (device->state != LINUX_VFIO_ADOPTED || device->opened)
		bug("a device is opened that is not adopted, or twice");
	if (inject("linux_vfio_open"))
		return -ENFILE;
	device->opened = true;
	std::memcpy(device->due, due, sizeof(device->due));
	*file = new_vfio(rid, nullptr);
	return 0;
}

void linux_vfio_release(unsigned int segment, unsigned int rid)
{
	Pci *device = find(segment, rid);
	if (device && device->state == LINUX_VFIO_ADOPTED) {
		device->state = LINUX_VFIO_SWAPPED;
		device->stopped = true;
	}
}

static module vfio_module{.name = "vfio"};

struct module *linux_this_module(void)
{
	return &vfio_module;
}

} // extern "C"
