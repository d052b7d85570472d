// SPDX-License-Identifier: GPL-2.0
#include "kho/blob.hh"

#include <ferry/log.hh>

#include <algorithm>

#include "kho/linux.h"

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace {

constexpr std::size_t pages_for(std::size_t bytes)
{
	return bytes / LINUX_PAGE_SIZE + (bytes % LINUX_PAGE_SIZE ? 1 : 0);
}

// Copies the pages of a run, in the order in which they were appended.
void copy_run(char *to, const ferry_run &run)
{
	for (unsigned int i = 0; i < run.count; ++i)
		memcpy(to + std::size_t{i} * LINUX_PAGE_SIZE,
		       linux_page_at(ferry_run_pfn(&run, i) * LINUX_PAGE_SIZE), LINUX_PAGE_SIZE);
}

} // namespace

Result<void> ferry_blob::add_page(const void *data, std::size_t size, std::size_t index)
{
	void *page = linux_page_alloc();
	if (!page)
		return fail(Errno::NoMem);
	memcpy(page, data, size);
	ferry_run run{
		.pfn = linux_page_phys(page) / LINUX_PAGE_SIZE,
		.index = index,
		.count = 1,
		.order = 0,
		.flags = 0,
	};
	auto appended = runs_.append(run);
	if (!appended.has_value()) {
		linux_page_free(page);
		return appended;
	}
	pages_[nr_pages_++] = page;
	return {};
}

Result<ferry::Owned<ferry_blob>> ferry_blob::create(ferry_owner &owner, const void *data,
						    std::size_t size)
{
	auto blob = TRY(ferry::make<ferry_blob>(owner));
	if (!size)
		return blob;
	blob->pages_ = static_cast<void **>(ferry_alloc(pages_for(size) * sizeof(void *)));
	if (!blob->pages_)
		return fail(Errno::NoMem);
	for (std::size_t at = 0; at < size; at += LINUX_PAGE_SIZE) {
		std::size_t piece = std::min<std::size_t>(LINUX_PAGE_SIZE, size - at);
		TRY(blob->add_page(static_cast<const char *>(data) + at, piece,
				   at / LINUX_PAGE_SIZE));
	}
	blob->ref_ = TRY(blob->runs_.seal());
	blob->ref_.bytes = size;
	owner.blobs += size;
	return blob;
}

ferry_blob::~ferry_blob()
{
	owner_.blobs -= ref_.bytes;
	// Before the pages are freed; the destructor of the member comes too late.
	runs_.clear();
	for (std::size_t i = 0; i < nr_pages_; ++i)
		linux_page_free(pages_[i]);
	ferry_free(pages_);
}

namespace kho {

Result<void *> load_blob(const ferry_bulk &ref, const char *what, std::size_t max)
{
	if (!ref.bytes || ref.bytes > max || ref.pages != pages_for(ref.bytes)) {
		log_err("%s: %llu bytes in %llu pages, where at most %zu bytes are taken", what,
			ref.bytes, ref.pages, max);
		return fail(Errno::BadMsg);
	}
	TRY(ferry_runs_in::check(ref, what));
	char *data = static_cast<char *>(ferry_alloc(ref.pages * LINUX_PAGE_SIZE));
	if (!data)
		return fail(Errno::NoMem);
	auto opened = ferry_runs_in::create(ref, what);
	if (!opened.has_value()) {
		ferry_free(data);
		return fail(opened.error());
	}
	auto in = std::move(*opened);
	// The pages come in the order of their indices, or this is no blob.
	unsigned long long index = 0;
	for (;;) {
		ferry_run runs[LINUX_MAX_RUNS];
		const auto taken = in->next(runs, LINUX_MAX_RUNS);
		if (taken.has_value() && !*taken)
			return data;
		bool fits = taken.has_value();
		for (unsigned int i = 0; i < taken.value_or(0); ++i) {
			const ferry_run &run = runs[i];
			fits = fits && run.index == index && !run.order;
			if (fits)
				copy_run(data + index * LINUX_PAGE_SIZE, run);
			index += run.count;
			linux_release(run.pfn, run.count, run.order);
		}
		if (!fits) {
			log_err("%s: its pages are not in order", what);
			ferry_free(data);
			return fail(Errno::BadMsg);
		}
	}
}

} // namespace kho
