/* SPDX-License-Identifier: GPL-2.0 */
/*
 * luo_iommu.ko: devices that go on doing DMA. The C interface that crosses its
 * edge. Both functions may sleep; errors are negative errnos.
 */
#ifndef FERRY_IOMMU_H
#define FERRY_IOMMU_H

#ifdef __cplusplus
extern "C" {
#endif

struct device;

/**
 * ferry_iommu_save - let a device go on doing DMA over the kexec
 * @dev: a PCI device that is attached to a paging domain, and stays so
 *
 * To be called in the freeze. The shutdown spares the device and the bridges above
 * it, and its IOMMU goes on translating for it. The page table itself is the
 * iommufd's, and preserved with that.
 *
 * Context: takes iommu.jump.
 * Return: 0, -EOPNOTSUPP (what it is, or does, cannot be carried), -EBUSY (it is
 * saved already), -ENOSPC (too many devices), -ENOMEM.
 */
int (ferry_iommu_save)(struct device *dev);

/* The kexec was called off. The device was saved. */
void (ferry_iommu_unsave)(struct device *dev);

#ifdef __cplusplus
}
#endif
#endif
