/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/fdbox: named boxes of open files.
 *
 * A program creates a box on /dev/fdbox/fdbox, and puts files into it, each under a
 * name, on /dev/fdbox/NAME. Another one, or the same one later, gets them out. So a
 * virtual machine goes from one process to another, without a socket between them.
 *
 * A box that is sealed crosses the kexec, with all of its files; one that is not is
 * lost with the kernel. Sealing checks that everything that its files need is in the
 * box, or in a box that is sealed together with it. In the next kernel the box is there,
 * sealed; unsealing gives the files back.
 *
 * Who may use a box: without a key the user who created it (open(2) fails with
 * EACCES for others). With a key who has it, and nobody else: whoever opens the
 * device gives the key first (FDBOX_UNLOCK), else every call fails with EPERM.
 *
 * The argument of a call is a pointer to its structure, which begins with its size, as
 * in <linux/liveupdate.h>. Errors of every call: EINVAL (the structure is too small; what is
 * reserved is not zero; a bad name), E2BIG, ENOTTY, EOPNOTSUPP (unknown flag), EFAULT,
 * ENOMEM; on a box also EPERM (see above) and ENODEV (the box is deleted).
 */
#ifndef _UAPI_LINUX_FDBOX_H
#define _UAPI_LINUX_FDBOX_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define FDBOX_IOCTL_TYPE	0xBA

/*
 * Room for a name; the NUL counts. Of a box: 1 to 47 of A-Z a-z 0-9 . _ -, not
 * beginning with a dot, and not "fdbox". Of a file: 1 to 63 bytes.
 */
#define FDBOX_NAME_SIZE		64
#define FDBOX_KEY_SIZE		32

/* Bits of @flags: @key counts. Without it, zeros. */
#define FDBOX_KEY		(1u << 0)

/* ---- on /dev/fdbox/fdbox ---- */

/**
 * struct fdbox_box - a box
 * @size:     in: of this structure
 * @flags:    in: FDBOX_KEY or 0
 * @name:     in: of the box
 * @key:      in: of the box
 */
struct fdbox_box {
	__u32 size;
	__u32 flags;
	__u8 name[FDBOX_NAME_SIZE];
	__u8 key[FDBOX_KEY_SIZE];
};

/*
 * Makes /dev/fdbox/NAME, of the caller's effective user. EEXIST: it is there. EAGAIN, as from
 * FDBOX_DELETE_BOX: the boxes of the last kernel are being looked for, right after fdbox.ko
 * was loaded.
 */
#define FDBOX_CREATE_BOX	_IO(FDBOX_IOCTL_TYPE, 0xa0)

/*
 * Deletes a box, and lets go of the files in it: those of a sealed one are not
 * carried. For who may use it, and for CAP_SYS_ADMIN, as it gives nothing to anybody.
 * Boxes that were sealed together with it in this kernel are unsealed, as after FDBOX_UNSEAL;
 * those that came together with it from the last kernel stay as they are.
 *
 * Errors: ENOENT, EPERM, EBUSY (it is being sealed), and, for the last box of those that
 * came together from the last kernel, those of LIVEUPDATE_SESSION_FINISH (EBUSY: a file is
 * not ready); nothing has changed then.
 */
#define FDBOX_DELETE_BOX	_IO(FDBOX_IOCTL_TYPE, 0xa1)

/* ---- on /dev/fdbox/NAME ---- */

/**
 * struct fdbox_file - a file in a box
 * @size: in: of this structure
 * @fd:   PUT: in; GET: out, close-on-exec
 * @name: in
 */
struct fdbox_file {
	__u32 size;
	__s32 fd;
	__u8 name[FDBOX_NAME_SIZE];
};

/*
 * Moves a file into the box: the descriptor is closed. Any kind of file, though only
 * what live update can preserve can be sealed in.
 *
 * Errors: EBUSY (the box is sealed), EBADF, EEXIST (the name is taken), ELOOP (it is
 * a box itself).
 */
#define FDBOX_PUT_FD		_IO(FDBOX_IOCTL_TYPE, 0xb0)

/* Moves it out. Errors: EBUSY (the box is sealed), ENOENT, EMFILE. */
#define FDBOX_GET_FD		_IO(FDBOX_IOCTL_TYPE, 0xb1)

/**
 * struct fdbox_seal - seal, or unseal
 * @size:     in: of this structure
 * @reserved: in: 0
 */
struct fdbox_seal {
	__u32 size;
	__u32 reserved;
};

/*
 * Preserves all files, and closes the lid: nothing goes in or out. The files stay as
 * usable for those who have them as files that LIVEUPDATE_SESSION_PRESERVE_FD preserves.
 *
 * Errors: EALREADY, EBUSY (it is being sealed; or it came with others, of which one is still
 * sealed as it came), ENOENT (no handler takes a file, or one needs another that is not in
 * the box; the log says which), ELOOP (files need each other in a ring), those of
 * LIVEUPDATE_SESSION_PRESERVE_FD and, for a box from the last kernel, of
 * LIVEUPDATE_SESSION_FINISH. Nothing is sealed then.
 */
#define FDBOX_SEAL		_IO(FDBOX_IOCTL_TYPE, 0xb2)

/*
 * Opens it again; after a kexec this makes the files anew.
 *
 * Boxes that were sealed together have one seal: opening it in one of them opens all. In
 * the next kernel each is unsealed for itself, and in any order.
 *
 * Errors: EALREADY, EBUSY (it is being sealed), and those of
 * LIVEUPDATE_SESSION_RETRIEVE_FD: then the box is sealed still, and nothing is lost.
 */
#define FDBOX_UNSEAL		_IO(FDBOX_IOCTL_TYPE, 0xb3)

/**
 * struct fdbox_entry - one file of a list
 * @name: with its NUL
 */
struct fdbox_entry {
	__u8 name[FDBOX_NAME_SIZE];
};

/**
 * struct fdbox_list - what is in the box
 * @size:    in: of this structure
 * @sealed:  out: 1: it is
 * @nr:      in: room at @entries; out: files that there are
 * @came:    out: 1: it came from the last kernel, and was not sealed anew
 * @entries: in: address; struct fdbox_entry[], in the order of putting
 *
 * Errors: ENOSPC (there are more than fit; @entries was not written).
 */
struct fdbox_list {
	__u32 size;
	__u32 sealed;
	__u32 nr;
	__u32 came;
	__aligned_u64 entries;
};

#define FDBOX_LIST		_IO(FDBOX_IOCTL_TYPE, 0xb4)

/**
 * struct fdbox_unlock - show the key
 * @size:     in: of this structure
 * @reserved: in: 0
 * @key:      in: of the box
 *
 * Counts for this open file. Errors: EPERM (it does not fit; the log says so).
 */
struct fdbox_unlock {
	__u32 size;
	__u32 reserved;
	__u8 key[FDBOX_KEY_SIZE];
};

#define FDBOX_UNLOCK		_IO(FDBOX_IOCTL_TYPE, 0xb5)

/* How many boxes can be sealed together. */
#define FDBOX_MAX_TOGETHER	32

/**
 * struct fdbox_seal_with - seal several boxes together
 * @size: in: of this structure
 * @nr:   in: how many other boxes, 1 to FDBOX_MAX_TOGETHER - 1
 * @fds:  in: address; __s32[], each an open /dev/fdbox/NAME of another box
 *
 * As FDBOX_SEAL, for all of them or none: what a file needs can be in any of these boxes.
 *
 * Errors: FDBOX_SEAL's, for any of them, and EINVAL (@nr; a box twice), EBADF (a descriptor is
 * no box's), EPERM (the caller may not use it by this descriptor: its key was not shown).
 */
struct fdbox_seal_with {
	__u32 size;
	__u32 nr;
	__aligned_u64 fds;
};

#define FDBOX_SEAL_WITH		_IO(FDBOX_IOCTL_TYPE, 0xb6)

#endif
