// SPDX-License-Identifier: GPL-2.0
#include "vfio/device.hh"

#include <ferry/ioctl.hh>
#include <ferry/lock.hh>
#include <ferry/log.hh>

#include <uapi/linux/liveupdate_vfio.h>

#include <algorithm>
#include <array>

using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Owned;
using ferry::Result;

namespace vfio {

namespace {

static_assert(LINUX_VFIO_CONFIG_SIZE == sizeof(ferry_vfio::config));

// "0000:00:02.0"
class Name {
    public:
	Name(unsigned int segment, unsigned int rid)
	{
		ferry_format(text_, sizeof(text_), "%04x:%02x:%02x.%u", segment, rid >> 8,
			     rid >> 3 & 0x1f, rid & 7);
	}
	const char *text() const
	{
		return text_;
	}

    private:
	char text_[24];
};

linux_vfio_device look(struct file *file)
{
	linux_vfio_device device{};
	linux_vfio_look(file, &device);
	return device;
}

// Why a device cannot be carried, or null.
const char *obstacle(unsigned int traits)
{
	struct Obstacle {
		linux_vfio_trait trait;
		const char *text;
	};
	static constexpr Obstacle obstacles[] = {
		{LINUX_VFIO_OTHER_DRIVER, "its driver is not vfio-pci"},
		{LINUX_VFIO_VIRTFN, "it is, or has, a virtual function of SR-IOV"},
		{LINUX_VFIO_ATS, "it translates addresses by itself (ATS)"},
		{LINUX_VFIO_PASID, "it has address spaces of its own (PASID, PRI)"},
		{LINUX_VFIO_USB, "a kernel resets USB controllers early in its boot"},
	};
	for (const Obstacle &each : obstacles) {
		if (traits & each.trait)
			return each.text;
	}
	return nullptr;
}

// Parts of the configuration space that tell one device from another: vendor and
// device, revision and class, subsystem (PCI 3.0, 6.2.1).
struct Part {
	unsigned int first, end;
};
constexpr Part identity[] = {{0x00, 0x04}, {0x08, 0x0c}, {0x2c, 0x30}};
constexpr Part bars = {0x10, 0x28};

bool same(const unsigned char *one, const unsigned char *other, const Part &part)
{
	return std::equal(one + part.first, one + part.end, other + part.first);
}

Result<ferry_vfio> record_of(ferry_node state)
{
	ferry_vfio record;
	TRY(check_status(ferry_get(state, &ferry_vfio_record, &record)));
	return record;
}

// The vectors that are to be signalled once when they are set up.
void find_due(const ferry_vfio &record, unsigned char (&due)[FERRY_VFIO_VECTORS_SIZE])
{
	// Where the owner has switched interrupts off himself, who knows which there were.
	const unsigned char unknown = record.interrupts == FERRY_VFIO_NONE ? 0xff : 0;
	for (unsigned int i = 0; i < sizeof(due); ++i)
		due[i] = record.quiet ? 0 : record.vectors[i] | unknown;
}

} // namespace

// ---- in the kernel that preserves ----

namespace {

// A leaf.
using Devices = ferry::Locked<ferry::List<Device>, "vfio.devices">;
constinit Devices *devices;

} // namespace

Result<void> devices_create()
{
	devices = TRY(ferry::make<Devices>()).release();
	return {};
}

void devices_destroy()
{
	ferry::destroy(devices);
	devices = nullptr;
}

Device::~Device()
{
	if (linked()) {
		auto all = devices->lock();
		all->remove(*this);
	}
	if (held_)
		linux_vfio_let_go(file_);
}

Result<Owned<Device>> Device::preserve(const ferry_luo_args &args)
{
	const linux_vfio_device is = look(args.file);
	const Name name{is.segment, is.rid};
	if (const char *text = obstacle(is.traits)) {
		log_err("%s cannot be carried: %s", name.text(), text);
		return fail(Errno::OpNotSupp);
	}
	auto device = TRY(ferry::make<Device>(args.file));
	struct file *iommufd = linux_vfio_iommufd(args.file);
	if (!iommufd) {
		log_err("%s is not bound to an iommufd", name.text());
		return fail(Errno::Inval);
	}
	int err = linux_vfio_hold(args.file);
	if (err) {
		if (err == -int(Errno::NoEnt))
			log_err("%s is not attached to an HWPT or an IOAS", name.text());
		return fail(err == -int(Errno::NoEnt) ? Errno::Inval : Errno(-err));
	}
	device->held_ = true;
	TRY(check_status(ferry_luo_depend(args.self, iommufd)));
	auto all = devices->lock();
	all->push_back(*device);
	return device;
}

Result<void> Device::freeze()
{
	const linux_vfio_device is = look(file_);
	const Name name{is.segment, is.rid};
	if (is.traits & LINUX_VFIO_LOW_POWER) {
		log_err("%s is in a low-power state", name.text());
		return fail(Errno::Busy);
	}
	unsigned int flags_now;
	{
		auto all = devices->lock();
		flags_now = flags;
	}
	int err = linux_vfio_freeze(file_, flags_now & LIVEUPDATE_VFIO_FORCE_OFF, &were_);
	if (err == -int(Errno::Again)) {
		log_err("%s is about to enter a low-power state", name.text());
		return fail(Errno::Busy);
	}
	if (err == -int(Errno::Busy))
		log_err("%s can interrupt: switch that off first, with VFIO_DEVICE_SET_IRQS and "
			"a count of 0, or have it switched off, with "
			"LIVEUPDATE_VFIO_SET_INTERRUPTS",
			name.text());
	else if (err)
		log_err("%s: its DMA cannot go on over a kexec (%d)", name.text(), err);
	TRY(check_status(err));
	quiet_ = flags_now & LIVEUPDATE_VFIO_NO_TRIGGER;
	frozen_ = true;
	return {};
}

void Device::unfreeze()
{
	linux_vfio_unfreeze(file_, &were_);
	were_ = {};
	frozen_ = quiet_ = false;
}

Result<void> Device::save(ferry_writer *writer)
{
	const linux_vfio_device is = look(file_);
	// A write to the configuration space that had begun before the freeze.
	if (frozen_ && is.traits & LINUX_VFIO_MESSAGES) {
		log_err("%s can interrupt again: its configuration was written meanwhile",
			Name{is.segment, is.rid}.text());
		return fail(Errno::Busy);
	}
	ferry_vfio record{};
	record.segment = is.segment;
	record.rid = is.rid;
	std::copy(std::begin(is.config), std::end(is.config), record.config);
	record.interrupts = were_.kind;
	std::copy(std::begin(were_.vectors), std::end(were_.vectors), record.vectors);
	record.quiet = quiet_;
	return check_status(ferry_put(writer, &ferry_vfio_record, &record));
}

Result<void> set_interrupts(void *user)
{
	ferry::Call<liveupdate_vfio_interrupts> call;
	TRY(call.read(user, sizeof(call.arg)));
	if (call.arg.reserved)
		return fail(Errno::Inval);
	if (call.arg.flags & ~(LIVEUPDATE_VFIO_FORCE_OFF | LIVEUPDATE_VFIO_NO_TRIGGER))
		return fail(Errno::OpNotSupp);
	const ferry::FileRef file{linux_file_of(call.arg.device)};
	if (!file || !linux_vfio_is(file.get()))
		return fail(Errno::BadF);
	const unsigned long id = linux_vfio_id(file.get());
	auto all = devices->lock();
	for (Device &device : *all) {
		if (device.id() == id) {
			device.flags = call.arg.flags;
			return {};
		}
	}
	return fail(Errno::NoEnt);
}

// ---- in the kernel that gets it ----

Result<struct file *> retrieve(ferry_node state)
{
	const ferry_vfio record = TRY(record_of(state));
	const Name name{record.segment, record.rid};
	linux_vfio_device is;
	int err = linux_vfio_find(record.segment, record.rid, &is);
	if (err || linux_vfio_state(record.segment, record.rid) != LINUX_VFIO_ADOPTED) {
		log_err("%s does not do DMA any more; the log of the boot says why", name.text());
		return fail(Errno::NoDev);
	}
	for (const Part &part : identity) {
		if (!same(is.config, record.config, part)) {
			log_err("%s is another device than the last kernel had there", name.text());
			return fail(Errno::BadMsg);
		}
	}
	// Who has it maps its regions anew, so that this is no reason to refuse.
	if (!same(is.config, record.config, bars))
		log_warn("%s: its BARs have moved", name.text());

	unsigned char due[FERRY_VFIO_VECTORS_SIZE];
	find_due(record, due);
	struct file *file;
	err = linux_vfio_open(record.segment, record.rid, due, &file);
	if (err == -int(Errno::NoDev))
		log_err("%s has no VFIO driver: is there a module vfio-pci?", name.text());
	TRY(check_status(err));
	return file;
}

Result<void> can_finish(ferry_node state, int status)
{
	if (status != FERRY_RETRIEVED)
		return {};
	const ferry_vfio record = TRY(record_of(state));
	if (linux_vfio_state(record.segment, record.rid) != LINUX_VFIO_ADOPTED)
		return {};
	log_err("%s was retrieved, but is not attached to an HWPT yet",
		Name{record.segment, record.rid}.text());
	return fail(Errno::Busy);
}

void finish(ferry_node state, int status)
{
	if (status == FERRY_RETRIEVED)
		return;
	auto record = record_of(state);
	if (!record.has_value()) {
		log_err("a device that nobody can find does DMA for ever (%d)",
			ferry::to_errno(record));
		return;
	}
	const Name name{record->segment, record->rid};
	if (linux_vfio_state(record->segment, record->rid) != LINUX_VFIO_ADOPTED)
		return;
	log_warn("%s was not retrieved: it is stopped, and reset", name.text());
	linux_vfio_release(record->segment, record->rid);
}

} // namespace vfio
