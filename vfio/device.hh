// SPDX-License-Identifier: GPL-2.0
// A PCI device of a VFIO driver, on both sides of a kexec.
#pragma once

#include <ferry/list.hh>
#include <ferry/luo.h>
#include <ferry/own.hh>
#include <ferry/result.hh>

#include <abi/vfio.h>

#include "vfio/linux.h"

namespace vfio {

/*
 * A device that is preserved stays attached to its HWPT; the iommufd, which it
 * needs, stays as it is. It goes on all the time. What is frozen with it is who
 * may interrupt: nobody, until its owner has set that up in the next kernel. Where
 * somebody may at the freeze, the kexec is refused, or that is turned off: as the
 * owner said, by set_interrupts().
 *
 * Locks: the mutex of the session, luo's; then the lock of the device set, the lock
 * of its interrupts, in linux.c, or vfio.devices, one at a time.
 */
class Device : public ferry::Linked<Device> {
    public:
	explicit Device(struct file *file) : file_{file}
	{
	}
	// It can be attached and detached again.
	~Device();

	static ferry::Result<ferry::Owned<Device>> preserve(const ferry_luo_args &args);

	ferry::Result<void> freeze();
	void unfreeze();
	ferry::Result<void> save(ferry_writer *writer);

	// Of the device: tells it from others.
	unsigned long id() const
	{
		return linux_vfio_id(file_);
	}
	// LIVEUPDATE_VFIO_*; with vfio.devices locked.
	unsigned int flags = 0;

    private:
	struct file *file_;
	bool held_ = false;
	// From freeze() to unfreeze().
	bool frozen_ = false;
	bool quiet_ = false;
	linux_vfio_interrupts were_{};
};

// The list of what is preserved, vfio.devices.
ferry::Result<void> devices_create();
void devices_destroy();

// Answers LIVEUPDATE_VFIO_SET_INTERRUPTS.
ferry::Result<void> set_interrupts(void *user);

// An open file of the device, not bound to an iommufd. The device goes on by the
// page tables of the last kernel until it is attached.
ferry::Result<struct file *> retrieve(ferry_node state);
// Errno::Busy: it goes by them still, though it was retrieved.
ferry::Result<void> can_finish(ferry_node state, int status);
// Stops a device that nobody has taken over.
void finish(ferry_node state, int status);

} // namespace vfio
