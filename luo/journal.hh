// SPDX-License-Identifier: GPL-2.0
// What is remembered for people: the last failure, and the figures of this
// kernel's part of the last update.
#pragma once

#include <ferry/lock.hh>
#include <ferry/result.hh>

namespace luo {

// As in enum liveupdate_ferry_operation.
enum class Operation : unsigned char {
	None,
	Preserve,
	Freeze,
	Save,
	Unpreserve,
	Prepare,
	Retrieve,
	Finish,
	Kexec,
};

struct Failure {
	unsigned long long number = 0; // since this kernel started; 0: none yet
	unsigned long long when_ns = 0;
	Operation operation = Operation::None;
	ferry::Errno error{};
	unsigned long long token = 0;
	char session[64] = {}; // empty: none is to blame
	char handler[48] = {}; // empty: none is to blame
};

// Times are readings of ferry_now(), or sums of differences of them.
struct Arrival {
	unsigned long long first_retrieve_ns = 0;
	unsigned long long retrieve_ns = 0;
	unsigned long long finish_ns = 0;
	unsigned long long finished_ns = 0;
	unsigned long long retrieved = 0;
	unsigned long long released = 0;
	unsigned long long failed = 0;
};

class Journal {
    public:
	void failed(Operation operation, ferry::Errno error, const char *session = "",
		    const char *handler = "", unsigned long long token = 0)
	{
		auto noted = noted_.lock();
		Failure &last = noted->failure;
		last.number++;
		last.when_ns = ferry_now();
		last.operation = operation;
		last.error = error;
		last.token = token;
		ferry_format(last.session, sizeof(last.session), "%s", session);
		ferry_format(last.handler, sizeof(last.handler), "%s", handler);
	}
	Failure last_failure()
	{
		return noted_.lock()->failure;
	}

	// A kexec that this kernel refused, or that was called off.
	void refused()
	{
		++noted_.lock()->refusals;
	}
	unsigned long long refusals()
	{
		return noted_.lock()->refusals;
	}

	template <class F> void arrive(F change)
	{
		auto noted = noted_.lock();
		change(noted->arrival);
	}
	Arrival arrival()
	{
		return noted_.lock()->arrival;
	}

    private:
	struct Noted {
		Failure failure;
		unsigned long long refusals = 0;
		Arrival arrival;
	};

	// A leaf.
	ferry::Locked<Noted, "luo.journal"> noted_;
};

} // namespace luo
