// SPDX-License-Identifier: GPL-2.0
// From the root page on: what kho.ko reads when it is loaded.
#include "pages.hh"

#include <ferry/kho.h>

#include "kho/linux.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char *data, std::size_t size)
{
	fuzz::Bytes input{data, size};
	auto flags = fuzz::take<unsigned char>(input);
	fuzz::take<ferry_bulk>(input);

	fake::reset();
	fake::boot({});
	auto before = fake::counters();
	fake::boot(fuzz::pages(input, flags));
	if (kho_module_init())
		fake::bug("kho.ko was not loaded");
	seq_file dump;
	kho_show_dump(&dump, true);
	ferry_incoming_done();
	kho_module_exit();
	fuzz::check_nothing_left(before);
	fake::power_off();
	return 0;
}
