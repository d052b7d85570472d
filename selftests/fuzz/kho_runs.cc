// SPDX-License-Identifier: GPL-2.0
// Chains of runs: no page is given out twice, or that was not preserved (the
// fake aborts), and nothing is left behind.
#include "pages.hh"

#include <ferry/kho.h>

#include "kho/linux.h"

namespace {

void take_all(ferry_runs_in *in, unsigned int room, bool some)
{
	ferry_run runs[64];
	bool stop = false;
	for (int got; !stop && (got = ferry_runs_next(in, runs, room));) {
		for (int i = 0; i < got; ++i) {
			linux_release(runs[i].pfn, runs[i].count, runs[i].order);
			stop |= some && runs[i].index & 1;
		}
	}
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char *data, std::size_t size)
{
	fuzz::Bytes input{data, size};
	auto flags = fuzz::take<unsigned char>(input);
	auto ref = fuzz::take<ferry_bulk>(input);

	fake::reset();
	fake::boot({});
	auto handover = fuzz::pages(input, flags);
	handover.subtrees.clear();
	if (kho_module_init())
		fake::bug("kho.ko was not loaded");
	kho_module_exit();
	auto before = fake::counters();
	fake::boot(handover);
	if (kho_module_init())
		fake::bug("kho.ko was not loaded");

	ferry_runs_in *in = nullptr;
	if (!ferry_runs_open(&ref, "fuzz", &in))
		take_all(in, 1 + flags % 64, flags & 64);
	ferry_runs_close(in);

	void *blob = nullptr;
	ref = fuzz::take<ferry_bulk>(input);
	if (flags & 128 && !ferry_blob_load(&ref, "fuzz", 1 << 20, &blob))
		ferry_free(blob);

	kho_module_exit();
	fuzz::check_nothing_left(before);
	fake::power_off();
	return 0;
}
