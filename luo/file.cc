// SPDX-License-Identifier: GPL-2.0
#include "luo/file.hh"

#include <ferry/log.hh>

#include "luo/session.hh"

using ferry::Errno;
using ferry::fail;
using ferry::Result;
using luo::FileRef;
using luo::Need;
using luo::Operation;

namespace {

using View = luo::Session::Guard;

// A device maps some hundred files at the most; a damaged tree more.
constexpr unsigned int max_needs = 1024;

constexpr unsigned long long page_size = 4096;

} // namespace

ferry_luo_file::~ferry_luo_file()
{
	common_.held.remove(*this);
	forget_needs();
}

void ferry_luo_file::forget_needs()
{
	while (Need *need = needs_.front()) {
		luo::Needs::remove(*need);
		ferry::destroy(need);
	}
	nr_needs_ = 0;
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

/* ---- what people see ---- */

void ferry_luo_file::show(liveupdate_ferry_file &out) const
{
	out.token = record_.token;
	if (!session.incoming()) {
		out.state = session.state() == luo::SessionState::Frozen
				    ? LIVEUPDATE_FERRY_FILE_FROZEN
				    : LIVEUPDATE_FERRY_FILE_PRESERVED;
	} else if (status_ == FERRY_NOT_RETRIEVED) {
		out.state = LIVEUPDATE_FERRY_FILE_WAITING;
	} else if (status_ == FERRY_RETRIEVED) {
		out.state = LIVEUPDATE_FERRY_FILE_RETRIEVED;
	} else {
		out.state = LIVEUPDATE_FERRY_FILE_FAILED;
		out.error = static_cast<unsigned int>(retrieve_error_);
	}
	out.bytes = bytes();
	out.runs = record_.runs;
	out.metadata = record_.metadata;
	out.preserve_ns = record_.preserve_ns;
	out.freeze_ns = record_.freeze_ns;
	out.retrieve_ns = retrieve_ns_;
	out.needs = nr_needs_;
	ferry_format(reinterpret_cast<char *>(out.handler), sizeof(out.handler), "%s",
		     record_.handler);
	ferry_format(reinterpret_cast<char *>(out.label), sizeof(out.label), "%s", record_.label);
}

unsigned long long ferry_luo_file::bytes() const
{
	return record_.pages * page_size;
}

void ferry_luo_file::set_usage(const ferry_usage &usage)
{
	View view{session.view()};
	record_.pages = usage.pages;
	record_.runs = usage.runs;
	record_.metadata = usage.metadata + usage.blobs;
}

void ferry_luo_file::set_status(ferry_retrieve_status status, Errno error)
{
	View view{session.view()};
	status_ = status;
	retrieve_error_ = error;
}

/* ---- outgoing ---- */

Result<void> ferry_luo_file::preserve(FileRef file, unsigned long long token, const char *label)
{
	handler_ = TRY(common_.registry.for_file(file.get()));
	TRY(common_.held.insert(*this, id_of(handler_, file.get())));
	file_ = std::move(file);
	record_.token = token;
	ferry_format(record_.label, sizeof(record_.label), "%s", label);
	ferry_format(record_.handler, sizeof(record_.handler), "%s", handler_.get()->compatible);
	return call_preserve();
}

Result<void> ferry_luo_file::call_preserve()
{
	ferry_luo_args with = args();
	TRY(session.watch(Operation::Preserve, *this, record_.preserve_ns,
			  [&] { return ferry::check_status(handler_->preserve(&with)); }));
	priv_ = with.priv;
	return {};
}

void ferry_luo_file::unpreserve()
{
	ferry_luo_args with = args();
	unsigned long long unused;
	(void)session.watch(Operation::Unpreserve, *this, unused, [&]() -> Result<void> {
		handler_->unpreserve(&with);
		return {};
	});
}

Result<void> ferry_luo_file::freeze()
{
	if (!handler_->freeze)
		return {};
	ferry_luo_args with = args();
	freezing_ = true;
	auto frozen = session.watch(Operation::Freeze, *this, record_.freeze_ns,
				    [&] { return ferry::check_status(handler_->freeze(&with)); });
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
	unsigned long long unused;
	auto saved = session.watch(Operation::Save, *this, unused, [&] {
		return ferry::check_status(handler_->save(&with, &writer));
	});
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
	View view{session.view()};
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
	View view{session.view()};
	// They are the last ones.
	while (Need *need = needs_.back()) {
		if (!need->late)
			return;
		luo::Needs::remove(*need);
		ferry::destroy(need);
		--nr_needs_;
	}
}

bool ferry_luo_file::is(file *on)
{
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

Result<void> ferry_luo_file::find_handler(Operation purpose)
{
	if (handler_)
		return {};
	auto handler = common_.registry.named(record_.handler);
	if (!handler.has_value()) {
		log_warn("session '%s', token %#llx: there is no handler '%s'; load its module and "
			 "try again",
			 session.name(), record_.token, record_.handler);
		common_.journal.failed(purpose, handler.error(), session.name(), record_.handler,
				       record_.token);
		return fail(handler.error());
	}
	handler_ = std::move(*handler);
	return {};
}

void ferry_luo_file::prepare()
{
	// Not find_handler(): that it is not there yet is no news.
	if (!handler_) {
		auto handler = common_.registry.named(record_.handler);
		if (!handler.has_value() || !(*handler)->prepare)
			return;
		handler_ = std::move(*handler);
	}
	if (prepared_ || status_ != FERRY_NOT_RETRIEVED || !handler_->prepare)
		return;
	prepared_ = true;
	ferry_luo_args with = args();
	unsigned long long unused;
	(void)session.watch(Operation::Prepare, *this, unused, [&]() -> Result<void> {
		handler_->prepare(&with);
		return {};
	});
	priv_ = with.priv;
}

Result<void> ferry_luo_file::retrieve()
{
	if (status_ == FERRY_RETRIEVE_FAILED)
		return fail(retrieve_error_);
	if (status_ == FERRY_RETRIEVED)
		return {};
	ferry_luo_args with = args();
	const unsigned long long start = ferry_now();
	auto made = session.watch(Operation::Retrieve, *this, retrieve_ns_, [&]() -> Result<void> {
		TRY(ferry::check_status(handler_->retrieve(&with)));
		if (!with.file)
			return fail(Errno::Inval);
		return {};
	});
	priv_ = with.priv;
	// Nothing was taken yet: memory may be there the next time.
	const bool again = !made.has_value() && made.error() == Errno::NoMem && !with.priv;
	common_.journal.arrive([&](luo::Arrival &arrival) {
		if (!arrival.first_retrieve_ns)
			arrival.first_retrieve_ns = start;
		arrival.retrieve_ns += retrieve_ns_;
		arrival.retrieved += made.has_value();
		arrival.failed += !made.has_value() && !again;
	});
	if (again)
		return made;
	if (!made.has_value()) {
		log_err("session '%s', token %#llx: handler '%s' cannot retrieve it, error %d",
			session.name(), record_.token, record_.handler, int(made.error()));
		set_status(FERRY_RETRIEVE_FAILED, made.error());
		return made;
	}
	// Ours, until it is finished.
	file_ = FileRef{with.file};
	set_status(FERRY_RETRIEVED);
	if (!common_.held.insert(*this, id_of(handler_, with.file)).has_value())
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

void *ferry_luo_file::dependency_priv(unsigned int nr, const ferry_luo_handler &handler)
{
	const auto token = dependency_token(nr);
	const ferry_luo_file *need = token.has_value() ? session.find(*token) : nullptr;
	return need && need->handler_.get() == &handler ? need->priv_ : nullptr;
}

Result<void> ferry_luo_file::can_finish()
{
	if (finished_)
		return {};
	TRY(find_handler(Operation::Finish));
	if (!handler_->can_finish)
		return {};
	ferry_luo_args with = args();
	auto can = ferry::check_status(handler_->can_finish(&with));
	if (!can.has_value())
		common_.journal.failed(Operation::Finish, can.error(), session.name(),
				       record_.handler, record_.token);
	return can;
}

void ferry_luo_file::finish()
{
	if (std::exchange(finished_, true))
		return;
	ferry_luo_args with = args();
	unsigned long long took = 0;
	(void)session.watch(Operation::Finish, *this, took, [&]() -> Result<void> {
		handler_->finish(&with);
		return {};
	});
	common_.journal.arrive([&](luo::Arrival &arrival) {
		arrival.finish_ns += took;
		arrival.released += status_ == FERRY_NOT_RETRIEVED;
	});
	priv_ = nullptr;
	state_ = {-1};
}

Result<void> ferry_luo_file::renew()
{
	{
		View view{session.view()};
		forget_needs();
		record_.pages = record_.runs = record_.metadata = record_.freeze_ns = 0;
	}
	if (!Held::linked())
		TRY(common_.held.insert(*this, id_of(handler_, file_.get())));
	auto preserved = call_preserve();
	if (!preserved.has_value()) {
		View view{session.view()};
		forget_needs();
		return preserved;
	}
	set_status(FERRY_NOT_RETRIEVED);
	finished_ = false;
	return {};
}

void ferry_luo_file::lapse()
{
	unpreserve();
	priv_ = nullptr;
	set_status(FERRY_RETRIEVED);
	finished_ = true;
	View view{session.view()};
	forget_needs();
}
