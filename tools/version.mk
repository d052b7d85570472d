# SPDX-License-Identifier: GPL-2.0
# The version of the packages. That of an interface is its own: the library's SONAME and symbol
# versions, and the formats' (docs/abi.md).
VERSION := 0.5.0
