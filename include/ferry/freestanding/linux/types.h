// SPDX-License-Identifier: GPL-2.0
// The types of uAPI headers, for C++ in the kernel.
#pragma once
typedef unsigned char __u8;
typedef int __s32;
typedef unsigned int __u32;
typedef unsigned long long __u64;
#define __aligned_u64 __u64 __attribute__((aligned(8)))
