// SPDX-License-Identifier: GPL-2.0
// vfio/: which devices are carried, and what becomes of them.
#include "device_testing.hh"
#include "fake/vfio.hh"

#include <abi/vfio.h>

#include <algorithm>

#include <uapi/linux/liveupdate_vfio.h>

namespace {

using fake::Pci;

constexpr unsigned int rid = 2 << 8 | 3 << 3 | 1; // 0000:02:03.1

class VfioTest : public DeviceTest<vfio_module_init, vfio_module_exit> {
    protected:
	enum : unsigned long long { DEV = 1, IOMMUFD = 2 };

	// A device, and a file that stands for its iommufd.
	void make()
	{
		iommufd = open("iommufd");
		device = fake::install(fake::new_vfio(rid, fake::file_of(iommufd)));
		for (unsigned int i = 0; i < LINUX_VFIO_CONFIG_SIZE; ++i)
			the().is.config[i] = static_cast<unsigned char>(i + 1);
	}
	static Pci &the()
	{
		return fake::pci(rid);
	}
	int preserve_all()
	{
		session = create("vm");
		if (session < 0)
			return session;
		int err = preserve(session, device, DEV);
		return err ? err : preserve(session, iommufd, IOMMUFD);
	}
	void close_all()
	{
		DeviceTest::close_all();
		session = iommufd = device = -1;
	}

	static int set_interrupts(liveupdate_vfio_interrupts arg,
				  unsigned int command = LIVEUPDATE_VFIO_SET_INTERRUPTS)
	{
		fake::user_memory(&arg, sizeof(arg));
		int err = vfio_device_ioctl(command, &arg);
		fake::user_memory_gone(&arg);
		return err;
	}
	int set_interrupts(unsigned int flags) const
	{
		return set_interrupts({sizeof(liveupdate_vfio_interrupts), device, flags, 0});
	}

	// The next kernel, which has adopted the device.
	void jump()
	{
		DeviceTest::jump([](fake::Handover &) {},
				 [](fake::Handover &) { the().state = LINUX_VFIO_ADOPTED; });
	}

	int iommufd = -1, device = -1;
};

// ---- in the kernel that preserves ----

TEST_F(VfioTest, HoldsADeviceUntilTheSessionIsClosed)
{
	make();
	ASSERT_EQ(preserve_all(), 0) << fake::log_text();
	EXPECT_TRUE(the().held);
	EXPECT_FALSE(the().frozen);
	EXPECT_EQ(luo_prepare(true), 0);
	EXPECT_TRUE(the().frozen);
	luo_abort();
	EXPECT_FALSE(the().frozen);
	EXPECT_TRUE(the().held);
	fake::close(std::exchange(session, -1));
	EXPECT_FALSE(the().held);
	close_all();
}

TEST_F(VfioTest, NeedsItsIommufd)
{
	make();
	session = create("vm");
	ASSERT_EQ(preserve(session, device, DEV), 0);
	EXPECT_EQ(luo_prepare(true), -ENOENT);
	close_all();
}

TEST_F(VfioTest, RefusesWhatItCannotCarry)
{
	struct Case {
		const char *text;
		std::function<void(Pci &)> change;
		int error;
	};
	const Case cases[] = {
		{"not vfio-pci", [](Pci &is) { is.is.traits = LINUX_VFIO_OTHER_DRIVER; },
		 -EOPNOTSUPP},
		{"SR-IOV", [](Pci &is) { is.is.traits = LINUX_VFIO_VIRTFN; }, -EOPNOTSUPP},
		{"ATS", [](Pci &is) { is.is.traits = LINUX_VFIO_ATS; }, -EOPNOTSUPP},
		{"PASID", [](Pci &is) { is.is.traits = LINUX_VFIO_PASID; }, -EOPNOTSUPP},
		{"USB", [](Pci &is) { is.is.traits = LINUX_VFIO_USB; }, -EOPNOTSUPP},
		{"not bound", [](Pci &is) { is.iommufd = nullptr; }, -EINVAL},
		{"not attached", [](Pci &is) { is.attached = false; }, -EINVAL},
	};
	for (const Case &each : cases) {
		SCOPED_TRACE(each.text);
		make();
		the().is.traits = 0;
		the().attached = true;
		each.change(the());
		session = create("vm");
		fake::clear_log();
		EXPECT_EQ(preserve(session, device, DEV), each.error);
		EXPECT_TRUE(fake::logged(FERRY_ERR, each.text)) << fake::log_text();
		EXPECT_TRUE(fake::logged(FERRY_ERR, "0000:02:03.1"));
		EXPECT_FALSE(the().held);
		close_all();
	}
}

TEST_F(VfioTest, RefusesAFreezeWithoutLeavingATrace)
{
	struct Case {
		const char *text;
		std::function<void(Pci &)> change;
		int error;
	};
	const Case cases[] = {
		{"can interrupt", [](Pci &is) { is.interrupts.kind = FERRY_VFIO_INTX; }, -EBUSY},
		{"can interrupt", [](Pci &is) { is.interrupts.kind = FERRY_VFIO_MSIX; }, -EBUSY},
		{"can interrupt again", [](Pci &is) { is.is.traits = LINUX_VFIO_MESSAGES; },
		 -EBUSY},
		{"low-power", [](Pci &is) { is.is.traits = LINUX_VFIO_LOW_POWER; }, -EBUSY},
		{"about to enter a low-power", [](Pci &is) { is.save_error = -EAGAIN; }, -EBUSY},
		{"cannot go on", [](Pci &is) { is.save_error = -EOPNOTSUPP; }, -EOPNOTSUPP},
		{"cannot go on", [](Pci &is) { is.save_error = -ENOSPC; }, -ENOSPC},
	};
	for (const Case &each : cases) {
		SCOPED_TRACE(each.text);
		make();
		ASSERT_EQ(preserve_all(), 0);
		each.change(the());
		EXPECT_EQ(luo_prepare(true), each.error);
		EXPECT_TRUE(fake::logged(FERRY_ERR, each.text)) << fake::log_text();
		EXPECT_FALSE(the().frozen);
		the().interrupts = {};
		the().is.traits = 0;
		the().save_error = 0;
		EXPECT_EQ(luo_prepare(true), 0);
		luo_abort();
		close_all();
		fake::clear_log();
	}
}

TEST_F(VfioTest, GivesBackEverythingWhateverFails)
{
	make();
	for_each_failure([&] {
		int err = preserve_all();
		if (!err)
			err = luo_prepare(true);
		if (!err)
			luo_abort();
		if (session >= 0)
			fake::close(std::exchange(session, -1));
		return err;
	});
	close_all();
}

// ---- interrupts ----

TEST_F(VfioTest, TurnsInterruptsOffIfToldTo)
{
	make();
	the().interrupts = {FERRY_VFIO_MSIX, {0x05, 0x80}};
	ASSERT_EQ(preserve_all(), 0);
	EXPECT_EQ(luo_prepare(true), -EBUSY);
	EXPECT_EQ(set_interrupts(LIVEUPDATE_VFIO_FORCE_OFF), 0);
	EXPECT_EQ(luo_prepare(true), 0) << fake::log_text();
	EXPECT_TRUE(the().off);
	luo_abort();
	// They are on again, and none was lost.
	EXPECT_FALSE(the().off);
	EXPECT_EQ(the().signalled, 3u);
	// What was said last counts.
	EXPECT_EQ(set_interrupts(0u), 0);
	EXPECT_EQ(luo_prepare(true), -EBUSY);
	EXPECT_FALSE(the().off);
	close_all();
}

TEST_F(VfioTest, ForgetsWhatWasSaidWhenTheSessionIsClosed)
{
	make();
	the().interrupts = {FERRY_VFIO_INTX, {}};
	ASSERT_EQ(preserve_all(), 0);
	EXPECT_EQ(set_interrupts(LIVEUPDATE_VFIO_FORCE_OFF), 0);
	fake::close(std::exchange(session, -1));
	EXPECT_EQ(set_interrupts(LIVEUPDATE_VFIO_FORCE_OFF), -ENOENT);
	ASSERT_EQ(preserve_all(), 0);
	EXPECT_EQ(luo_prepare(true), -EBUSY);
	close_all();
}

TEST_F(VfioTest, RefusesBadArguments)
{
	make();
	constexpr unsigned int size = sizeof(liveupdate_vfio_interrupts);
	EXPECT_EQ(set_interrupts(0u), -ENOENT);
	ASSERT_EQ(preserve_all(), 0);
	EXPECT_EQ(set_interrupts({size - 4, device, 0, 0}), -EINVAL);
	EXPECT_EQ(set_interrupts({0, device, 0, 0}), -EINVAL);
	EXPECT_EQ(set_interrupts({size, device, 0, 1}), -EINVAL);
	EXPECT_EQ(set_interrupts({size, device, 4, 0}), -EOPNOTSUPP);
	EXPECT_EQ(set_interrupts({size, 63, 0, 0}), -EBADF);
	EXPECT_EQ(set_interrupts({size, iommufd, 0, 0}), -EBADF);
	EXPECT_EQ(set_interrupts({size, device, 0, 0}, LIVEUPDATE_VFIO_SET_INTERRUPTS + 1),
		  -ENOTTY);
	EXPECT_EQ(vfio_device_ioctl(LIVEUPDATE_VFIO_SET_INTERRUPTS, nullptr), -EFAULT);
	// A later version's argument.
	struct {
		liveupdate_vfio_interrupts first;
		unsigned int more;
	} later{{size + 4, device, LIVEUPDATE_VFIO_FORCE_OFF, 0}, 0};
	fake::user_memory(&later, sizeof(later));
	EXPECT_EQ(vfio_device_ioctl(LIVEUPDATE_VFIO_SET_INTERRUPTS, &later), 0);
	later.more = 1;
	EXPECT_EQ(vfio_device_ioctl(LIVEUPDATE_VFIO_SET_INTERRUPTS, &later), -E2BIG);
	fake::user_memory_gone(&later);
	close_all();
}

// ---- in the next kernel ----

TEST_F(VfioTest, SignalsTheVectorsThatThereWere)
{
	struct Case {
		const char *text;
		linux_vfio_interrupts were;
		unsigned int flags;
		unsigned char first, second, last;
	};
	const Case cases[] = {
		{"MSI-X", {FERRY_VFIO_MSIX, {0x05, 0x80}}, LIVEUPDATE_VFIO_FORCE_OFF, 5, 0x80, 0},
		{"MSI", {FERRY_VFIO_MSI, {1}}, LIVEUPDATE_VFIO_FORCE_OFF, 1, 0, 0},
		{"INTx", {FERRY_VFIO_INTX, {1}}, LIVEUPDATE_VFIO_FORCE_OFF, 1, 0, 0},
		{"not wanted",
		 {FERRY_VFIO_MSIX, {0x05, 0x80}},
		 LIVEUPDATE_VFIO_FORCE_OFF | LIVEUPDATE_VFIO_NO_TRIGGER,
		 0,
		 0,
		 0},
		// The owner has switched them off before.
		{"off, whatever they were", {}, 0, 0xff, 0xff, 0xff},
		{"off, and not wanted", {}, LIVEUPDATE_VFIO_NO_TRIGGER, 0, 0, 0},
	};
	for (const Case &each : cases) {
		SCOPED_TRACE(each.text);
		make();
		the() = Pci{.is = the().is, .iommufd = the().iommufd, .interrupts = each.were};
		ASSERT_EQ(preserve_all(), 0);
		ASSERT_EQ(set_interrupts(each.flags), 0);
		jump();
		device = retrieve(session, DEV);
		ASSERT_GE(device, 0) << fake::log_text();
		EXPECT_EQ(the().due[0], each.first);
		EXPECT_EQ(the().due[1], each.second);
		EXPECT_EQ(the().due[FERRY_VFIO_VECTORS_SIZE - 1], each.last);
		the().state = LINUX_VFIO_SWAPPED;
		EXPECT_EQ(finish(session), 0);
		close_all();
		fake::unplug(rid);
	}
}

TEST_F(VfioTest, OpensAnAdoptedDevice)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	device = retrieve(session, DEV);
	ASSERT_GE(device, 0) << fake::log_text();
	EXPECT_TRUE(the().opened);
	EXPECT_FALSE(the().stopped);
	// Not before it goes by its new page table.
	EXPECT_EQ(finish(session), -EBUSY);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "not attached to an HWPT yet"));
	the().state = LINUX_VFIO_SWAPPED;
	EXPECT_EQ(finish(session), 0);
	EXPECT_FALSE(the().stopped);
	close_all();
}

TEST_F(VfioTest, RefusesADeviceThatIsAnother)
{
	struct Case {
		const char *text;
		std::function<void(Pci &)> change;
		int error;
	};
	const Case cases[] = {
		{"does not do DMA", [](Pci &is) { is.state = LINUX_VFIO_GONE; }, -ENODEV},
		{"does not do DMA", [](Pci &is) { is.state = LINUX_VFIO_SWAPPED; }, -ENODEV},
		{"does not do DMA", [](Pci &) { fake::unplug(rid); }, -ENODEV},
		{"another device", [](Pci &is) { is.is.config[0]++; }, -EBADMSG},
		{"another device", [](Pci &is) { is.is.config[8]++; }, -EBADMSG},
		{"another device", [](Pci &is) { is.is.config[0x2f]++; }, -EBADMSG},
		{"no VFIO driver", [](Pci &is) { is.driver = false; }, -ENODEV},
	};
	for (const Case &each : cases) {
		SCOPED_TRACE(each.text);
		make();
		the() = Pci{.is = the().is, .iommufd = the().iommufd};
		ASSERT_EQ(preserve_all(), 0);
		jump();
		each.change(the());
		EXPECT_EQ(retrieve(session, DEV), each.error);
		EXPECT_TRUE(fake::logged(FERRY_ERR, each.text)) << fake::log_text();
		const bool adopted = the().state == LINUX_VFIO_ADOPTED;
		EXPECT_EQ(finish(session), 0);
		EXPECT_EQ(the().stopped, adopted);
		close_all();
		fake::unplug(rid);
	}
}

TEST_F(VfioTest, SaysWhenBarsHaveMovedOrTheCommandChanged)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	the().is.config[0x13]++;
	the().is.config[4]++;
	device = retrieve(session, DEV);
	EXPECT_GE(device, 0);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "BARs have moved"));
	the().state = LINUX_VFIO_SWAPPED;
	EXPECT_EQ(finish(session), 0);
	close_all();
}

TEST_F(VfioTest, StopsADeviceThatNobodyWants)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	EXPECT_EQ(finish(session), 0);
	EXPECT_TRUE(the().stopped);
	EXPECT_TRUE(fake::logged(FERRY_WARN, "was not retrieved"));
	close_all();
}

TEST_F(VfioTest, FailsToOpenAndStops)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	ASSERT_EQ(luo_prepare(true), 0);
	fake::Handover handover = fake::handover();
	luo_abort();
	close_all();
	unload_module();
	unload();
	for_each_failure(
		[&] {
			fake::boot(handover);
			the().state = LINUX_VFIO_ADOPTED;
			the().opened = the().stopped = false;
			load();
			load_module();
			session = retrieve_session("vm");
			ASSERT_GE(session, 0);
		},
		[&] {
			device = retrieve(session, DEV);
			return std::min(device, 0);
		},
		[&] {
			// Taken over, or, where there was no file, stopped.
			if (the().opened)
				the().state = LINUX_VFIO_SWAPPED;
			EXPECT_EQ(finish(session), 0);
			EXPECT_NE(the().opened, the().stopped);
			close_all();
			unload_module();
			unload();
			fake::power_off();
		});
}

TEST_F(VfioTest, LetsGoOfEverythingWhateverFailsAtTheStart)
{
	unload_module();
	for_each_failure([] {
		int err = vfio_module_init();
		if (!err)
			vfio_module_exit();
		return err;
	});
}

} // namespace
