// SPDX-License-Identifier: GPL-2.0
// Every way in which a scenario can fail, one after the other.
#pragma once

#include "fake/fake.hh"

#include <gtest/gtest.h>

// Runs a scenario again and again: the first time the first call of the kernel
// that can fail does (an allocation, a preservation, ...), the next time the
// second, until one run has no such call left; and all of this again with every
// call after that one failing as well. The scenario returns 0 or a negative
// errno; `prepare` and `clean_up`, before and after it, do not fail. After each
// run everything must be as it was before, and a failure must have been reported.
template <class P, class F, class C> void for_each_failure(P &&prepare, F &&scenario, C &&clean_up)
{
	for (bool lasting : {false, true}) {
		for (unsigned long nth = 1;; ++nth) {
			auto before = fake::counters();
			prepare();
			fake::arm(nth, lasting);
			int result = scenario();
			const char *failed = fake::disarm();
			clean_up();

			SCOPED_TRACE(testing::Message()
				     << "with a failure of " << (failed ? failed : "nothing")
				     << ", call " << nth << (lasting ? " and all after it" : ""));
			EXPECT_EQ(before, fake::counters()) << fake::allocations();
			if (!failed)
				EXPECT_EQ(result, 0) << "failed for no reason";
			else
				EXPECT_LT(result, 0) << "the failure was not reported";
			if (testing::Test::HasFailure())
				return;
			if (!failed)
				break;
		}
	}
}

// A scenario that cleans up after itself.
template <class F> void for_each_failure(F &&scenario)
{
	for_each_failure([] {}, scenario, [] {});
}
