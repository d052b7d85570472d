/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's record of devices that keep doing DMA, version 1: what the next
 * kernel has to know of them before any module is there. This is the page of
 * <linux/kho/abi/iommu.h> of the patches, for C++; iommu/linux.c sees to it that
 * they are the same. luo_iommu.ko writes it, and the kernel reads it.
 */
#ifndef FERRY_ABI_JUMP_H
#define FERRY_ABI_JUMP_H

#define FERRY_JUMP_MAGIC	0x55564c554d4d4f49ull	/* "IOMMULVU" */
#define FERRY_JUMP_VERSION	1
#define FERRY_JUMP_MAX		72

/**
 * struct ferry_jump_device - one device
 * @unit:     registers of its IOMMU
 * @root:     root table that the IOMMU uses over the kexec
 * @context:  the device's entry in there
 * @table:    top page of the page table that translates
 * @segment:  PCI segment
 * @rid:      bus number << 8 | devfn
 * @vendor:   PCI vendor id
 * @device:   PCI device id
 * @did:      domain id
 * @levels:   of the page table
 * @scalable: the context entry is one of scalable mode
 * @reserved: 0
 */
struct ferry_jump_device {
	unsigned long long unit;
	unsigned long long root;
	unsigned long long context[2];
	unsigned long long table;
	unsigned short segment;
	unsigned short rid;
	unsigned short vendor;
	unsigned short device;
	unsigned short did;
	unsigned char levels;
	unsigned char scalable;
	unsigned int reserved;
};

/**
 * struct ferry_jump - the page; what is behind it is 0
 * @magic:    FERRY_JUMP_MAGIC
 * @version:  FERRY_JUMP_VERSION
 * @crc:      CRC-32C of the page of 4096 bytes, seeded with ~0, not inverted, with
 *            this as 0
 * @nr:       devices, 1 to FERRY_JUMP_MAX
 * @reserved: 0
 * @device:   they
 */
struct ferry_jump {
	unsigned long long magic;
	unsigned int version;
	unsigned int crc;
	unsigned int nr;
	unsigned int reserved;
	struct ferry_jump_device device[FERRY_JUMP_MAX];
};

#endif
