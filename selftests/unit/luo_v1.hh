// SPDX-License-Identifier: GPL-2.0
// The orchestrator's records of version 1, as <abi/luo.h> had them: for golden files
// of other formats, which do not change with these, and to see that they are read.
#pragma once

#include <ferry/record.h>

namespace luo_v1 {

#define LUO_V1_UPDATE_FIELDS(F, T)                                                                 \
	F(T, U64, number, 1, 1, 1ull << 48, 0)                                                     \
	F(T, U64, sessions, 1, 0, 1ull << 32, 0)                                                   \
	F(T, U64, files, 1, 0, 1ull << 32, 0)                                                      \
	F(T, U64, pages, 1, 0, ~0ull, 0)                                                           \
	F(T, U64, runs, 1, 0, ~0ull, 0)                                                            \
	F(T, U64, metadata, 1, 0, ~0ull, 0)                                                        \
	F(T, U64, preserve_ns, 1, 0, ~0ull, 0)                                                     \
	F(T, U64, freeze_ns, 1, 0, ~0ull, 0)                                                       \
	F(T, U64, tsc, 1, 0, ~0ull, 0)                                                             \
	F(T, U32, tsc_khz, 1, 0, ~0u, 0)
FERRY_RECORD(ferry_update, "update", 1, 1, LUO_V1_UPDATE_FIELDS);

#define LUO_V1_SESSION_FIELDS(F, T) F(T, STR, session_name, 1, 1, 63, 64)
FERRY_RECORD(ferry_session, "session", 1, 1, LUO_V1_SESSION_FIELDS);

#define LUO_V1_FILE_FIELDS(F, T)                                                                   \
	F(T, U64, token, 1, 0, ~0ull, 0)                                                           \
	F(T, STR, handler, 1, 1, 47, 48)
FERRY_RECORD(ferry_file, "file", 1, 1, LUO_V1_FILE_FIELDS);

} // namespace luo_v1
