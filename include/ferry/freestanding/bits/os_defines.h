// SPDX-License-Identifier: GPL-2.0
// Stands in for the header of that name, which would include <features.h>.
#pragma once
