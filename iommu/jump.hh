// SPDX-License-Identifier: GPL-2.0
// What IOMMUs walk between the shutdown of one kernel and the boot of the next.
#pragma once

#include <ferry/result.hh>

#include <abi/jump.h>

#include "iommu/linux.h"

namespace iommu {

/*
 * The devices that are saved. For each of their IOMMUs there is a root table with
 * nothing in it but the context entries of these devices; in scalable mode such an
 * entry leads to a PASID table with the one entry of the device. And there is the
 * record, which tells the next kernel so. All of these pages are preserved from the
 * moment on at which they are made, and gone when the last device is unsaved.
 */
class Jump {
    public:
	ferry::Result<void> save(device *dev);
	void unsave(device *dev);

    private:
	ferry::Result<void> open();
	void close();
	ferry::Result<void> put(ferry_jump_device &is, const unsigned long long *pasid);
	unsigned int find(const device *dev) const;
	bool has_root(unsigned long long root) const;
	void drop(const ferry_jump_device &is);

	// There as long as it names a device.
	ferry_jump *record_ = nullptr;
	// Each in the place of its entry in the record.
	device *devices_[FERRY_JUMP_MAX] = {};
};

// ---- in the next kernel ----

// Frees the root and context tables that IOMMUs have walked in the jump, as far as this
// kernel has adopted what they say; called once the IOMMUs have those of this kernel.
void free_jump_tables();
// Does a device still go by the page table of the last kernel that begins there?
bool table_in_use(unsigned long long top);
// Frees the PASID tables of devices that have gone by that page table, and do no more.
void free_jump_pasids(unsigned long long top);

// The one that there is, iommu.jump: made with the module, and gone with it.
ferry::Result<void> jump_create();
void jump_destroy();

} // namespace iommu
