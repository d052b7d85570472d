// SPDX-License-Identifier: GPL-2.0
// Messages with the module's name before them; the module defines FERRY_MODULE.
#pragma once

#include <ferry/kernel.h>

#define log_err(...) ferry_log(FERRY_ERR, FERRY_MODULE, __VA_ARGS__)
#define log_warn(...) ferry_log(FERRY_WARN, FERRY_MODULE, __VA_ARGS__)
#define log_info(...) ferry_log(FERRY_INFO, FERRY_MODULE, __VA_ARGS__)
#define log_debug(...) ferry_log(FERRY_DEBUG, FERRY_MODULE, __VA_ARGS__)
