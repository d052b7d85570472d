// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
#include "message.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "liveupdate.h"

/* Room for a path or a name, and two short sentences. */
static _Thread_local char message[320];

const char *lu_message(void)
{
	return message;
}

int lu_fail(int error, const char *hint, const char *format, ...)
{
	char text[sizeof(message)], reason[96];
	int saved = errno;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	/* What does not fit is cut off at the end. */
	snprintf(message, sizeof(message), "%.160s: %s%s%s", text,
		 strerror_r(-error, reason, sizeof(reason)), hint ? "; " : "", hint ? hint : "");
	/* A name may have anything in it; a message is one line. */
	for (char *at = message; *at; at++) {
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
	}
	errno = saved;
	return error;
}
