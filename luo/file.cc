// SPDX-License-Identifier: GPL-2.0
#include "luo/file.hh"

#include <ferry/log.hh>

#include "luo/session.hh"

using ferry::Errno;
using ferry::fail;
using ferry::Result;
using luo::FileRef;
using luo::Need;

namespace {

// A device maps some hundred files at the most; a damaged tree more.
constexpr unsigned int max_needs = 1024;

} // namespace

ferry_luo_file::~ferry_luo_file()
{
	held_.remove(*this);
	while (Need *need = needs_.front()) {
		luo::Needs::remove(*need);
		ferry::destroy(need);
	}
}

ferry_luo_args ferry_luo_file::args()
{
	return {
		.handler = handler_.get(),
		.self = this,
		.file = file_.get(),
		.token = record_.token,
		.priv = priv_,
		.state = state_,
		.status = status_,
	};
}

/* ---- outgoing ---- */

Result<void> ferry_luo_file::preserve(FileRef file, unsigned long long token)
{
	handler_ = TRY(registry_.for_file(file.get()));
	TRY(held_.insert(*this, id_of(handler_, file.get())));
	file_ = std::move(file);
	record_.token = token;
	ferry_format(record_.handler, sizeof(record_.handler), "%s", handler_.get()->compatible);

	unsigned long long start = ferry_now();
	ferry_luo_args with = args();
	TRY(ferry::check_status(handler_->preserve(&with)));
	priv_ = with.priv;
	preserve_ns_ = ferry_now() - start;
	return {};
}

void ferry_luo_file::unpreserve()
{
	ferry_luo_args with = args();
	handler_->unpreserve(&with);
}

Result<void> ferry_luo_file::freeze()
{
	if (!handler_->freeze)
		return {};
	ferry_luo_args with = args();
	freezing_ = true;
	auto frozen = ferry::check_status(handler_->freeze(&with));
	freezing_ = false;
	if (!frozen.has_value())
		log_err("session '%s', token %#llx: handler '%s' refuses the kexec with error %d",
			session.name(), record_.token, record_.handler, int(frozen.error()));
	return frozen;
}

void ferry_luo_file::unfreeze()
{
	if (!handler_->unfreeze)
		return;
	ferry_luo_args with = args();
	handler_->unfreeze(&with);
}

Result<void> ferry_luo_file::save(ferry_writer &writer)
{
	TRY(ferry::check_status(ferry_put(&writer, &ferry_file_record, &record_)));
	unsigned int nr = 0;
	for (const Need &need : needs_) {
		ferry_need record{.token = need.token};
		char name[16];
		ferry_format(name, sizeof(name), "needs@%x", nr++);
		TRY(ferry::check_status(ferry_begin(&writer, name)));
		TRY(ferry::check_status(ferry_put(&writer, &ferry_need_record, &record)));
		TRY(ferry::check_status(ferry_end(&writer)));
	}
	TRY(ferry::check_status(ferry_begin(&writer, "state")));
	ferry_luo_args with = args();
	auto saved = ferry::check_status(handler_->save(&with, &writer));
	if (!saved.has_value()) {
		log_err("session '%s', token %#llx: handler '%s' cannot save its state, error %d",
			session.name(), record_.token, record_.handler, int(saved.error()));
		return saved;
	}
	return ferry::check_status(ferry_end(&writer));
}

Result<Need *> ferry_luo_file::add_need()
{
	if (nr_needs_ == max_needs)
		return fail(Errno::TooBig);
	Need *need = TRY(ferry::make<Need>()).release();
	needs_.push_back(*need);
	++nr_needs_;
	return need;
}

Result<void> ferry_luo_file::depend(file *on)
{
	for (const Need &need : needs_) {
		if (need.on.get() == on)
			return {};
	}
	Need *need = TRY(add_need());
	need->on = FileRef::share(on);
	need->late = freezing_;
	return {};
}

void ferry_luo_file::forget_late_needs()
{
	// They are the last ones.
	while (Need *need = needs_.back()) {
		if (!need->late)
			return;
		luo::Needs::remove(*need);
		ferry::destroy(need);
		--nr_needs_;
	}
}

bool ferry_luo_file::is(const Need &need)
{
	file *on = need.on.get();
	// Another open file of the same thing will do: its handler knows, which is
	// this file's, if any.
	return file_.get() == on || (handler_->can_preserve(on) && id_of(handler_, on) == id);
}

/* ---- incoming ---- */

Result<void> ferry_luo_file::load(ferry_node node)
{
	TRY(ferry::check_status(ferry_get(node, &ferry_file_record, &record_)));
	TRY(load_needs(node));
	state_ = ferry_child(node, "state");
	return {};
}

Result<void> ferry_luo_file::load_needs(ferry_node node)
{
	for (unsigned int nr = 0;; ++nr) {
		char name[16];
		ferry_format(name, sizeof(name), "needs@%x", nr);
		ferry_node at = ferry_child(node, name);
		if (at.offset < 0)
			return {};
		ferry_need record;
		TRY(ferry::check_status(ferry_get(at, &ferry_need_record, &record)));
		TRY(add_need())->token = record.token;
	}
}

Result<void> ferry_luo_file::find_handler()
{
	if (handler_)
		return {};
	auto handler = registry_.named(record_.handler);
	if (!handler.has_value()) {
		log_warn("session '%s', token %#llx: there is no handler '%s'; load its module and "
			 "try again",
			 session.name(), record_.token, record_.handler);
		return fail(handler.error());
	}
	handler_ = std::move(*handler);
	return {};
}

void ferry_luo_file::prepare()
{
	// Not find_handler(): that it is not there yet is no news.
	if (!handler_) {
		auto handler = registry_.named(record_.handler);
		if (!handler.has_value() || !(*handler)->prepare)
			return;
		handler_ = std::move(*handler);
	}
	if (prepared_ || status_ != FERRY_NOT_RETRIEVED || !handler_->prepare)
		return;
	prepared_ = true;
	ferry_luo_args with = args();
	handler_->prepare(&with);
	priv_ = with.priv;
}

Result<void> ferry_luo_file::retrieve()
{
	if (status_ == FERRY_RETRIEVE_FAILED)
		return fail(retrieve_error_);
	if (status_ == FERRY_RETRIEVED)
		return {};
	ferry_luo_args with = args();
	auto made = ferry::check_status(handler_->retrieve(&with));
	priv_ = with.priv;
	// Nothing was taken yet: memory may be there the next time.
	if (!made.has_value() && made.error() == Errno::NoMem && !with.priv)
		return made;
	if (made.has_value() && !with.file)
		made = fail(Errno::Inval);
	if (!made.has_value()) {
		log_err("session '%s', token %#llx: handler '%s' cannot retrieve it, error %d",
			session.name(), record_.token, record_.handler, int(made.error()));
		status_ = FERRY_RETRIEVE_FAILED;
		retrieve_error_ = made.error();
		return made;
	}
	status_ = FERRY_RETRIEVED;
	// Ours, until it is finished.
	file_ = FileRef{with.file};
	if (!held_.insert(*this, id_of(handler_, with.file)).has_value())
		log_warn("session '%s', token %#llx: was made anew as a file that is held already",
			 session.name(), record_.token);
	return {};
}

Result<FileRef> ferry_luo_file::dependency(unsigned int nr)
{
	for (const Need &need : needs_) {
		if (!nr--)
			return session.retrieved(need.token);
	}
	return fail(Errno::Range);
}

Result<unsigned long long> ferry_luo_file::dependency_token(unsigned int nr)
{
	for (const Need &need : needs_) {
		if (!nr--)
			return need.token;
	}
	return fail(Errno::Range);
}

Result<void> ferry_luo_file::can_finish()
{
	TRY(find_handler());
	if (!handler_->can_finish)
		return {};
	ferry_luo_args with = args();
	return ferry::check_status(handler_->can_finish(&with));
}

void ferry_luo_file::finish()
{
	ferry_luo_args with = args();
	handler_->finish(&with);
}
