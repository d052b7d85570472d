/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A PCI device that a VFIO driver has, version 2. Its first dependency is the
 * iommufd that it is bound to.
 */
#ifndef FERRY_ABI_VFIO_H
#define FERRY_ABI_VFIO_H

#include <ferry/record.h>

#define FERRY_VFIO_COMPATIBLE	"vfio-pci-v1"

/* Kinds of interrupts. */
#define FERRY_VFIO_NONE		0
#define FERRY_VFIO_INTX		1
#define FERRY_VFIO_MSI		2
#define FERRY_VFIO_MSIX		3

/* A bit for each vector that MSI-X can have. */
#define FERRY_VFIO_VECTORS_SIZE	256

/*
 * segment:    PCI segment
 * rid:        bus number << 8 | device << 3 | function
 * config:     the first 64 bytes of the configuration space, as the device has
 *             them at the time of the freeze
 * interrupts: FERRY_VFIO_*: what was set up at the freeze, and turned off by it
 * vectors:    that were set up then: bit n % 8 of byte n / 8 is vector n of MSI or
 *             MSI-X; INTx is 0
 * quiet:      1: nothing is to be signalled when it is set up again
 */
#define FERRY_VFIO_FIELDS(F, T)					\
	F(T, U32, segment, 1, 0, 0xffff, 0)			\
	F(T, U32, rid, 1, 0, 0xffff, 0)				\
	F(T, BYTES, config, 1, 64, 64, 64)			\
	F(T, U32, interrupts, 2, 0, FERRY_VFIO_MSIX, 0)		\
	F(T, BYTES, vectors, 2, 0, FERRY_VFIO_VECTORS_SIZE, FERRY_VFIO_VECTORS_SIZE) \
	F(T, U32, quiet, 2, 0, 1, 0)
FERRY_RECORD(ferry_vfio, "vfio", 2, 1, FERRY_VFIO_FIELDS);

#endif
