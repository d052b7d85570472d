// SPDX-License-Identifier: GPL-2.0
// How tests look into and steer the files and the user memory that fake/luo.cc
// pretends to have.
#pragma once

#include "fake.hh"

#include <memory>
#include <optional>
#include <string>
#include <vector>

struct luo_session;

// An open file of any kind. Born with one reference.
struct file {
	std::string name;
	int kind = -1;
	// What it stands for, where that is not the file itself.
	unsigned long id = 0;
	// Files that it needs.
	std::vector<file *> needs;
	int refs = 1;
	// Of the files of sessions.
	luo_session *session = nullptr;
	// What other fakes have behind it; goes with it.
	std::shared_ptr<void> behind;
};

namespace fake {

module &luo_module();

file *new_file(const std::string &name, int kind = -1);
// The descriptor takes over a reference.
int install(file *file);
// Null when it is not open.
file *file_of(int fd);
void close(int fd);
// What the kernel does on its way back to user space: releases of files.
void run_releases();

// Makes a structure known as memory of the caller of an ioctl.
void user_memory(const void *at, std::size_t size);
void user_memory_gone(const void *at);
// How often luo asked for luo_background(), which tests call themselves.
extern unsigned int background_asked;
// Whether the caller has CAP_SYS_ADMIN.
extern bool privileged;
// Lines about wrong keys that the log takes.
extern unsigned int lines_allowed;
// When luo_deadline(), which tests call themselves, was asked for last.
extern std::optional<unsigned long long> deadline_ms;
// What went to the tracepoints.
struct Traced {
	std::string what;
	int operation;
	unsigned long long token;
	int error;
};
extern std::vector<Traced> traces;
// User memory cannot be written any more.
extern bool user_read_only;

} // namespace fake
