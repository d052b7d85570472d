// SPDX-License-Identifier: GPL-2.0
// Golden files: bytes that were written once, and are read and written ever
// since. `make golden` writes those of the current versions anew.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

using FileBytes = std::vector<unsigned char>;

inline FileBytes read_file(const std::string &path)
{
	std::ifstream in{path, std::ios::binary};
	return {std::istreambuf_iterator<char>{in}, {}};
}

inline void write_file(const std::string &path, const FileBytes &bytes)
{
	std::ofstream out{path, std::ios::binary};
	out.write(reinterpret_cast<const char *>(bytes.data()),
		  static_cast<std::streamsize>(bytes.size()));
	EXPECT_TRUE(out.good()) << path;
}

// The same bytes as in the file; after `make golden` the file is these bytes.
inline void expect_golden(const char *name, const FileBytes &bytes)
{
	std::filesystem::create_directories(BUILD "/golden");
	write_file(std::string(BUILD "/golden/") + name, bytes);
	if (std::getenv("FERRY_WRITE_GOLDEN")) {
		std::filesystem::create_directories(GOLDEN);
		write_file(std::string(GOLDEN "/") + name, bytes);
	}
	FileBytes golden = read_file(std::string(GOLDEN "/") + name);
	EXPECT_FALSE(golden.empty()) << name << " is not there";
	EXPECT_TRUE(golden == bytes) << name << ": compare with " BUILD "/golden/" << name;
}

inline FileBytes golden(const char *name)
{
	FileBytes bytes = read_file(std::string(GOLDEN "/") + name);
	EXPECT_FALSE(bytes.empty()) << name << " is not there";
	return bytes;
}
