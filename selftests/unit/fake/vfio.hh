// SPDX-License-Identifier: GPL-2.0
// vfio/linux.h on the host: devices, and open files of them.
#pragma once

#include "luo.hh"

#include <vfio/linux.h>

#include <map>
#include <string>

namespace fake {

struct Pci {
	linux_vfio_device is{};
	// ---- in the kernel that preserves ----
	file *iommufd = nullptr;
	bool attached = true;
	// What is set up, and what is off in the device though it is.
	linux_vfio_interrupts interrupts{};
	bool off = false;
	bool held = false, frozen = false;
	// Vectors that were signalled when a kexec was called off.
	unsigned int signalled = 0;
	// What ferry_iommu_save() says.
	int save_error = 0;
	// ---- in the next one ----
	enum linux_vfio_state state = LINUX_VFIO_GONE;
	bool driver = true;
	bool opened = false, stopped = false;
	unsigned char due[FERRY_VFIO_VECTORS_SIZE] = {};
};

inline constexpr int vfio_kind = 30;

// By bus number and devfn, in segment 0; kept until the test ends.
Pci &pci(unsigned int rid);
// There is no such device any more.
void unplug(unsigned int rid);
file *new_vfio(unsigned int rid, file *iommufd);

} // namespace fake
