// SPDX-License-Identifier: GPL-2.0
// Numbers of ioctls, for C++ in the kernel; the layout of asm-generic/ioctl.h.
#pragma once
#define _IOC_NR(command) ((command) & 0xff)
#define _IO(type, number) ((type) << 8 | (number))
