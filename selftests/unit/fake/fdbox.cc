// SPDX-License-Identifier: GPL-2.0
// fdbox/linux.h on the host; what it shares with luo's is in luo.cc.
#include "fdbox.hh"

#include <cerrno>

#include "fdbox/linux.h"

struct linux_box_device {
	std::string name;
};

namespace fake {

unsigned int caller;
std::map<std::string, fdbox_handle *> box_devices;
std::map<file *, fdbox_opener *> box_openers;

namespace {

struct Setup {
	Setup()
	{
		add_counter("devices of boxes", [] { return long(box_devices.size()); });
		add_counter("references to fdbox", [] { return long(fdbox_module().refs); });
		add_reset([] {
			caller = 0;
			box_openers.clear();
			fdbox_module().refs = 0;
		});
	}
} setup;

} // namespace

module &fdbox_module()
{
	static module module{.name = "fdbox"};
	return module;
}

} // namespace fake

using namespace fake;

extern "C" {

void linux_fd_close(int fd)
{
	fake::close(fd);
}

bool linux_is_box(struct file *file)
{
	return file->name.starts_with("/dev/fdbox/");
}

struct fdbox_opener *linux_opener_of(struct file *file)
{
	auto at = box_openers.find(file);
	return at == box_openers.end() ? nullptr : at->second;
}

unsigned int linux_caller(void)
{
	return caller;
}

int linux_box_add(struct fdbox_handle *box, const char *name, struct linux_box_device **device)
{
	if (inject("linux_box_add"))
		return -ENOMEM;
	if (!box_devices.emplace(name, box).second)
		bug("/dev/fdbox/%s is there twice", name);
	*device = new linux_box_device{name};
	return 0;
}

void linux_box_remove(struct linux_box_device *device)
{
	if (!box_devices.erase(device->name))
		bug("/dev/fdbox/%s is removed, but not there", device->name.c_str());
	delete device;
}

struct module *linux_this_module(void)
{
	return &fake::fdbox_module();
}

} // extern "C"
