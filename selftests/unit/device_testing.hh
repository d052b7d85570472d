// SPDX-License-Identifier: GPL-2.0
// What the tests of luo_iommu.ko and luo_vfio.ko share: a module beside kho.ko and
// luo.ko, and a kexec with whatever is open in a session "vm".
#pragma once

#include "luo_testing.hh"

template <int (*init)(), void (*leave)()> class DeviceTest : public Luo {
    protected:
	void SetUp() override
	{
		Luo::SetUp();
		load_module();
	}
	void TearDown() override
	{
		unload_module();
		Luo::TearDown();
	}
	void load_module()
	{
		ASSERT_EQ(init(), 0);
		module_loaded_ = true;
	}
	void unload_module()
	{
		if (std::exchange(module_loaded_, false))
			leave();
	}
	static void close_all()
	{
		for (int fd = 3; fd < 64; ++fd) {
			if (fake::file_of(fd))
				fake::close(fd);
		}
	}

	// The next kernel, in which nothing is retrieved yet. `before` is called with what is
	// handed over, while the modules are still loaded; `damage` when they are gone.
	void jump(const std::function<void(fake::Handover &)> &before,
		  const std::function<void(fake::Handover &)> &damage)
	{
		ASSERT_EQ(luo_prepare(true), 0) << fake::log_text();
		fake::Handover handover = fake::handover();
		luo_abort();
		before(handover);
		close_all();
		unload_module();
		unload();
		damage(handover);
		fake::boot(handover);
		fake::clear_log();
		load();
		load_module();
		session = retrieve_session("vm");
		ASSERT_GE(session, 0);
	}

	int session = -1;

    private:
	bool module_loaded_ = false;
};
