// SPDX-License-Identifier: GPL-2.0
// GoogleTest's main, with what holds for every test: nothing is left over at
// its end. A run in which no test ran is a failure.
#include "fake/fake.hh"

#include <gtest/gtest.h>

namespace {

class Watch : public testing::EmptyTestEventListener {
	void OnTestStart(const testing::TestInfo &) override
	{
		fake::reset();
		before_ = fake::counters();
	}

	// Before the default listener prints the verdict: this one comes first.
	void OnTestEnd(const testing::TestInfo &info) override
	{
		if (fake::disarm())
			ADD_FAILURE() << "a failure is still armed";
		for (auto &[name, value] : fake::counters()) {
			if (value != before_[name])
				ADD_FAILURE() << name << ": " << before_[name] << " before, "
					      << value << " after\n"
					      << fake::allocations();
		}
		if (info.result()->Failed() && !fake::log().empty())
			std::fprintf(stderr, "messages:\n%s", fake::log_text().c_str());
	}

	fake::Counters before_;
};

} // namespace

int main(int argc, char **argv)
{
	testing::InitGoogleTest(&argc, argv);
	// Death tests see the abort itself.
	testing::FLAGS_gtest_death_test_style = "fast";
	fake::on_bug([](const std::string &what) { ADD_FAILURE() << "BUG: " << what; });

	auto &listeners = testing::UnitTest::GetInstance()->listeners();
	listeners.Append(new Watch);

	int failed = RUN_ALL_TESTS();
	if (!testing::UnitTest::GetInstance()->test_to_run_count()) {
		std::fprintf(stderr, "no test ran\n");
		return 1;
	}
	return failed;
}
