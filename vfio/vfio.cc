// SPDX-License-Identifier: GPL-2.0
// luo_vfio.ko: its handler.
#include <ferry/scope.hh>

#include <uapi/linux/liveupdate_vfio.h>

#include "vfio/device.hh"

using ferry::check_status;
using ferry::Result;

namespace vfio {

namespace {

Device *preserved(const ferry_luo_args *args)
{
	return static_cast<Device *>(args->priv);
}

int preserve(ferry_luo_args *args)
{
	auto device = Device::preserve(*args);
	if (device.has_value())
		args->priv = device->release();
	return ferry::to_errno(device);
}

void unpreserve(ferry_luo_args *args)
{
	ferry::destroy(preserved(args));
}

int freeze(ferry_luo_args *args)
{
	return ferry::to_errno(preserved(args)->freeze());
}

void unfreeze(ferry_luo_args *args)
{
	preserved(args)->unfreeze();
}

int save(ferry_luo_args *args, ferry_writer *writer)
{
	return ferry::to_errno(preserved(args)->save(writer));
}

int retrieve_file(ferry_luo_args *args)
{
	auto file = retrieve(args->state);
	if (file.has_value())
		args->file = *file;
	return ferry::to_errno(file);
}

int can_finish_file(ferry_luo_args *args)
{
	return ferry::to_errno(can_finish(args->state, args->status));
}

void finish_file(ferry_luo_args *args)
{
	finish(args->state, args->status);
}

constexpr ferry_luo_ops ops{
	.can_preserve = linux_vfio_is,
	.id = linux_vfio_id,
	.preserve = preserve,
	.unpreserve = unpreserve,
	.freeze = freeze,
	.unfreeze = unfreeze,
	.save = save,
	.prepare = nullptr,
	.retrieve = retrieve_file,
	.can_finish = can_finish_file,
	.finish = finish_file,
};

constinit ferry_luo_handler handler{
	.compatible = FERRY_VFIO_COMPATIBLE,
	.module = nullptr,
	.ops = &ops,
};

constexpr const ferry_record *formats[] = {&ferry_vfio_record};

Result<void> init()
{
	TRY(devices_create());
	ferry::Undo no_list{devices_destroy};
	TRY(check_status(ferry_formats_register(formats, 1)));
	ferry::Undo no_formats{[] { ferry_formats_unregister(formats); }};
	handler.module = linux_this_module();
	TRY(check_status(ferry_luo_register(&handler)));
	no_formats.dismiss();
	no_list.dismiss();
	return {};
}

} // namespace
} // namespace vfio

int vfio_module_init(void)
{
	return ferry::to_errno(vfio::init());
}

void vfio_module_exit(void)
{
	ferry_luo_unregister(&vfio::handler);
	ferry_formats_unregister(vfio::formats);
	vfio::devices_destroy();
}

int vfio_device_ioctl(unsigned int command, void *user)
{
	if (command != LIVEUPDATE_VFIO_SET_INTERRUPTS)
		return -int(ferry::Errno::NotTty);
	return ferry::to_errno(vfio::set_interrupts(user));
}
