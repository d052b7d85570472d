/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A PCI device that a VFIO driver has, version 1. Its first dependency is the
 * iommufd that it is bound to.
 */
#ifndef FERRY_ABI_VFIO_H
#define FERRY_ABI_VFIO_H

#include <ferry/record.h>

#define FERRY_VFIO_COMPATIBLE	"vfio-pci-v1"

/*
 * segment: PCI segment
 * rid:     bus number << 8 | device << 3 | function
 * config:  the first 64 bytes of the configuration space, as the device has
 *          them at the time of the freeze
 */
#define FERRY_VFIO_FIELDS(F, T)					\
	F(T, U32, segment, 1, 0, 0xffff, 0)			\
	F(T, U32, rid, 1, 0, 0xffff, 0)				\
	F(T, BYTES, config, 1, 64, 64, 64)
FERRY_RECORD(ferry_vfio, "vfio", 1, 1, FERRY_VFIO_FIELDS);

#endif
