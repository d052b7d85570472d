// SPDX-License-Identifier: GPL-2.0
// Names of luod's interface, org.ferry.LiveUpdate1(5).
#pragma once

namespace luod {

inline constexpr char default_socket[] = "/run/luod/bus";
// It is no bus, so the name is nobody's address; busctl(1) wants one nevertheless.
inline constexpr char bus_name[] = "org.ferry.LiveUpdate1";
inline constexpr char object_path[] = "/org/ferry/LiveUpdate1";
inline constexpr char interface_name[] = "org.ferry.LiveUpdate1";

} // namespace luod
