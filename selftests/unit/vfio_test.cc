// SPDX-License-Identifier: GPL-2.0
// vfio/: which devices are carried, and what becomes of them.
#include "fake/vfio.hh"
#include "luo_testing.hh"

#include <abi/vfio.h>

namespace {

using fake::Pci;

constexpr unsigned int rid = 2 << 8 | 3 << 3 | 1; // 0000:02:03.1

class VfioTest : public Luo {
    protected:
	enum : unsigned long long { DEV = 1, IOMMUFD = 2 };

	void SetUp() override
	{
		Luo::SetUp();
		load_vfio();
	}
	void TearDown() override
	{
		unload_vfio();
		Luo::TearDown();
	}
	void load_vfio()
	{
		ASSERT_EQ(vfio_module_init(), 0);
		loaded_ = true;
	}
	void unload_vfio()
	{
		if (std::exchange(loaded_, false))
			vfio_module_exit();
	}

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
		for (int fd = 3; fd < 64; ++fd) {
			if (fake::file_of(fd))
				fake::close(fd);
		}
		session = iommufd = device = -1;
	}

	// The next kernel, which has adopted the device.
	void jump()
	{
		ASSERT_EQ(luo_prepare(true), 0) << fake::log_text();
		fake::Handover handover = fake::handover();
		luo_abort();
		close_all();
		unload_vfio();
		unload();
		fake::boot(handover);
		fake::clear_log();
		the().state = LINUX_VFIO_ADOPTED;
		load();
		load_vfio();
		session = retrieve_session("vm");
		ASSERT_GE(session, 0);
	}

	int session = -1, iommufd = -1, device = -1;

    private:
	bool loaded_ = false;
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
		{"can interrupt", [](Pci &is) { is.interrupts = true; }, -EBUSY},
		{"low-power", [](Pci &is) { is.is.traits = LINUX_VFIO_LOW_POWER; }, -EBUSY},
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
		the().interrupts = false;
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

// ---- in the next kernel ----

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

TEST_F(VfioTest, SaysThatItCouldNotStopADevice)
{
	make();
	ASSERT_EQ(preserve_all(), 0);
	jump();
	the().swapping = true;
	EXPECT_EQ(finish(session), 0);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "cannot be stopped"));
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
	unload_vfio();
	unload();
	for_each_failure(
		[&] {
			fake::boot(handover);
			the().state = LINUX_VFIO_ADOPTED;
			the().opened = the().stopped = false;
			load();
			load_vfio();
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
			unload_vfio();
			unload();
			fake::power_off();
		});
}

TEST_F(VfioTest, LetsGoOfEverythingWhateverFailsAtTheStart)
{
	unload_vfio();
	for_each_failure([] {
		int err = vfio_module_init();
		if (!err)
			vfio_module_exit();
		return err;
	});
}

} // namespace
