// SPDX-License-Identifier: GPL-2.0
// Every way in which a scenario can fail, one after the other.
#pragma once

#include "fake/fake.hh"

#include <gtest/gtest.h>

// Runs a scenario again and again: the first time the first call of the kernel
// that can fail does (an allocation, a preservation, ...), the next time the
// second, until one run has no such call left; and all of this again with every
// call after that one failing as well. The scenario returns 0 or a negative
// errno, and cleans up after itself; after each run everything must be as it
// was before, and a failure must have been reported.
template <class F> void for_each_failure(F &&scenario)
{
	for (bool lasting : {false, true}) {
		for (unsigned long nth = 1;; ++nth) {
			auto before = fake::counters();
			fake::arm(nth, lasting);
			int result = scenario();
			const char *failed = fake::disarm();

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
