// SPDX-License-Identifier: GPL-2.0
// Numbers of ioctls, for C++ in the kernel; the layout of asm-generic/ioctl.h.
#pragma once
#define _IOC_NR(command) ((command) & 0xff)
#define _IO(type, number) ((type) << 8 | (number))
#define _IOC(way, type, number, argument) \
	((way) << 30 | static_cast<unsigned int>(sizeof(argument)) << 16 | _IO(type, number))
#define _IOW(type, number, argument)  _IOC(1u, type, number, argument)
#define _IOWR(type, number, argument) _IOC(3u, type, number, argument)
