/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
#ifndef LIBLIVEUPDATE_MESSAGE_H
#define LIBLIVEUPDATE_MESSAGE_H

/*
 * Leave a message for lu_message(), to which the text of the error and, if there
 * is one, a hint are appended. error is a negative errno, and is returned.
 */
__attribute__((format(printf, 3, 4)))
int lu_fail(int error, const char *hint, const char *format, ...);

/* Why a session of that name is not given to somebody else. */
const char *lu_hint_for_taken(const char *name);

#endif
