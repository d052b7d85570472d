// SPDX-License-Identifier: GPL-2.0
// luo/linux.h on the host: files, descriptors and the memory of user space.
#include "luo.hh"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "luo/linux.h"

namespace fake {

bool user_read_only;
unsigned int background_asked;
bool privileged = true;
unsigned int lines_allowed = ~0u;
std::optional<unsigned long long> deadline_ms;
std::vector<Traced> traces;

namespace {

std::set<file *> files;
std::vector<file *> to_release;
// A null file: reserved.
std::map<int, file *> descriptors;
std::map<const void *, std::size_t> user_ranges;

bool readable(const void *at, std::size_t size)
{
	auto range = user_ranges.upper_bound(at);
	if (range == user_ranges.begin())
		return false;
	--range;
	auto from = static_cast<const char *>(range->first);
	auto begin = static_cast<const char *>(at);
	return begin >= from && size <= range->second && begin + size <= from + range->second;
}

struct Setup {
	Setup()
	{
		add_counter("files", [] { return long(files.size()); });
		add_counter("descriptors", [] { return long(descriptors.size()); });
		add_counter("references to files", [] {
			long refs = 0;
			for (file *file : files)
				refs += file->refs;
			return refs;
		});
		add_counter("references to luo", [] { return long(luo_module().refs); });
		add_reset([] {
			user_read_only = false;
			background_asked = 0;
			privileged = true;
			lines_allowed = ~0u;
			deadline_ms.reset();
			traces.clear();
			luo_module().refs = 0;
		});
	}
} setup;

} // namespace

module &luo_module()
{
	static module module{.name = "luo"};
	return module;
}

file *new_file(const std::string &name, int kind)
{
	auto made = new file;
	made->name = name;
	made->kind = kind;
	files.insert(made);
	return made;
}

int install(file *file)
{
	int fd = 3;
	while (descriptors.count(fd))
		++fd;
	descriptors[fd] = file;
	return fd;
}

file *file_of(int fd)
{
	auto at = descriptors.find(fd);
	return at == descriptors.end() ? nullptr : at->second;
}

void close(int fd)
{
	file *file = file_of(fd);
	if (!file) {
		bug("descriptor %d is closed, but not open", fd);
		return;
	}
	descriptors.erase(fd);
	linux_file_put(file);
	run_releases();
}

void run_releases()
{
	while (!to_release.empty()) {
		file *file = to_release.back();
		to_release.pop_back();
		if (file->session)
			luo_session_release(file->session);
		for (auto need : file->needs)
			linux_file_put(need);
		files.erase(file);
		delete file;
	}
}

void user_memory(const void *at, std::size_t size)
{
	user_ranges[at] = size;
}

void user_memory_gone(const void *at)
{
	user_ranges.erase(at);
}

} // namespace fake

using namespace fake;

extern "C" {

struct file *linux_file_of(int fd)
{
	file *file = fake::file_of(fd);
	if (file)
		++file->refs;
	return file;
}

void linux_file_get(struct file *file)
{
	if (!files.count(file) || file->refs <= 0)
		bug("a reference to a file that is gone");
	++file->refs;
}

void linux_file_put(struct file *file)
{
	if (!files.count(file) || file->refs <= 0)
		bug("a file is put more often than it was taken");
	else if (!--file->refs)
		to_release.push_back(file);
}

int linux_fd_reserve(void)
{
	if (inject("linux_fd_reserve"))
		return -EMFILE;
	return install(nullptr);
}

void linux_fd_install(int fd, struct file *file)
{
	auto at = descriptors.find(fd);
	if (at == descriptors.end() || at->second)
		bug("a file is installed as descriptor %d, which is not reserved", fd);
	descriptors[fd] = file;
}

void linux_fd_abandon(int fd)
{
	auto at = descriptors.find(fd);
	if (at == descriptors.end() || at->second)
		bug("descriptor %d is abandoned, but not reserved", fd);
	descriptors.erase(fd);
}

int linux_session_file(struct luo_session *session, const char *name, struct file **file)
{
	if (inject("linux_session_file"))
		return -ENOMEM;
	*file = new_file(name);
	(*file)->session = session;
	return 0;
}

int linux_user_size(const void *user, unsigned int *size)
{
	if (!readable(user, sizeof(*size)))
		return -EFAULT;
	std::memcpy(size, user, sizeof(*size));
	return 0;
}

int linux_user_read(void *to, ferry_size size, const void *user, ferry_size user_size)
{
	if (!readable(user, user_size))
		return -EFAULT;
	auto from = static_cast<const unsigned char *>(user);
	for (ferry_size i = size; i < user_size; ++i) {
		if (from[i])
			return -E2BIG;
	}
	std::memset(to, 0, size);
	std::memcpy(to, from, std::min(size, user_size));
	return 0;
}

int linux_user_write(void *user, const void *from, ferry_size size)
{
	if (user_read_only || !readable(user, size))
		return -EFAULT;
	std::memcpy(user, from, size);
	return 0;
}

void linux_background(void)
{
	++background_asked;
}

bool linux_privileged(void)
{
	return privileged;
}

void linux_random(void *to, ferry_size size)
{
	// Never the same twice.
	static unsigned char next;
	for (ferry_size i = 0; i < size; ++i)
		static_cast<unsigned char *>(to)[i] = ++next;
}

// No hash at all, but it differs where the key or the salt does.
void linux_key_hash(const unsigned char *key, const unsigned char *salt, unsigned char *hash)
{
	for (unsigned int i = 0; i < LINUX_KEY_SIZE; ++i)
		hash[i] = static_cast<unsigned char>(key[i] * 5 + salt[i % LINUX_SALT_SIZE] + 1);
}

bool linux_differ(const void *a, const void *b, ferry_size size)
{
	return std::memcmp(a, b, size);
}

void linux_wipe(void *at, ferry_size size)
{
	std::memset(at, 0, size);
}

bool linux_may_log(void)
{
	return lines_allowed && lines_allowed--;
}

void linux_deadline(unsigned long long ms)
{
	// The kernel may call luo_deadline() at once: a luo that is not there yet crashes here.
	if (!luo_device_open(false))
		luo_device_release(false);
	deadline_ms = ms;
}

unsigned long long linux_realtime(void)
{
	return 1'700'000'000'000'000'000 + fake::clock.now;
}

const char *linux_kernel_release(void)
{
	return "7.3.4-fake";
}

void linux_trace_file(int operation, const char *session, unsigned long long token,
		      const char *handler, int error, unsigned long long)
{
	traces.push_back({std::string("file ") + session + " " + handler, operation, token, error});
}

void linux_trace_session(const char *event, const char *session, int error)
{
	traces.push_back({std::string(event) + " " + session, 0, 0, error});
}

void linux_trace_update(const char *stage, int error, unsigned long long)
{
	traces.push_back({std::string("update ") + stage, 0, 0, error});
}

struct module *linux_this_module(void)
{
	return &fake::luo_module();
}

} // extern "C"
