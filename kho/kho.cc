// SPDX-License-Identifier: GPL-2.0
// The module as a whole: who takes part, the tree on its way out and on its way
// in, and the C interface of <ferry/kho.h>.
//
// Lock order: kho.state is a leaf. No provider is called with it held.
#include <ferry/kho.h>
#include <ferry/lock.hh>
#include <ferry/log.hh>

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "kho/blob.hh"
#include "kho/dump.hh"
#include "kho/linux.h"
#include "kho/owner.hh"
#include "kho/record.hh"
#include "kho/root.hh"
#include "kho/runs.hh"
#include "kho/tree.hh"

using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace kho {
namespace {

// More than this would not have been written by us.
constexpr std::size_t max_tree = 1 << 30;
constexpr unsigned int max_formats = 16;

// What the root of the tree says that it is.
constexpr char tree_name[] = "tree";

// A small set of pointers, in the order in which they came.
template <class T, unsigned int max> class Registered {
    public:
	Result<void> add(T *item)
	{
		if (nr_ == max)
			return fail(Errno::NoSpc);
		items_[nr_++] = item;
		return {};
	}
	void remove(T *item)
	{
		auto end = std::remove(items_.begin(), items_.begin() + nr_, item);
		nr_ = static_cast<unsigned int>(end - items_.begin());
	}
	std::span<T *const> all() const
	{
		return {items_.data(), nr_};
	}

    private:
	std::array<T *, max> items_{};
	unsigned int nr_ = 0;
};

struct State {
	ferry::List<ferry_owner> owners;
	Registered<const ferry_provider, FERRY_MAX_PROVIDERS> providers;
	std::array<Formats, max_formats> formats{};
	unsigned int nr_formats = 0;
	ferry::Owned<ferry_blob> outgoing;
	// Somebody still needs the incoming tree, and with it this module.
	bool incoming_needed = false;
};

struct Module {
	ferry::Locked<State, "kho.state"> state;
	ferry::Owned<RootPage> root;
	ferry_owner *owner = nullptr; // of the tree itself
	ferry::Owned<Tree> incoming; // never changes after create()
};

constinit Module *module;

constexpr const ferry_record *own_records[] = {&ferry_bulk_record};

// The providers of this moment, each held against being unloaded.
class Providers {
    public:
	Providers()
	{
		auto state = module->state.lock();
		for (const ferry_provider *provider : state->providers.all()) {
			if (ferry_module_get(provider->module))
				held_[nr_++] = provider;
		}
	}
	~Providers()
	{
		for (const ferry_provider *provider : all())
			ferry_module_put(provider->module);
	}
	Providers(const Providers &) = delete;
	Providers &operator=(const Providers &) = delete;

	std::span<const ferry_provider *const> all() const
	{
		return {held_.data(), nr_};
	}

    private:
	std::array<const ferry_provider *, FERRY_MAX_PROVIDERS> held_{};
	unsigned int nr_ = 0;
};

Result<void> build(ferry_writer &writer, bool final)
{
	char compatible[32];
	int length = ferry_format(compatible, sizeof(compatible), "ferry,%s-v%u", tree_name,
				  FERRY_TREE_VERSION);
	Providers providers;
	TRY(writer.start());
	TRY(writer.property("compatible", compatible, static_cast<std::size_t>(length) + 1));
	for (const ferry_provider *provider : providers.all()) {
		TRY(writer.begin(provider->name));
		TRY(ferry::check_status(provider->save(provider->ctx, &writer, final)));
		TRY(writer.end());
	}
	return writer.finish();
}

void abort()
{
	module->root->set({});
	ferry::Owned<ferry_blob> gone = std::move(module->state.lock()->outgoing);
}

Result<void> finalize()
{
	abort();
	ferry_writer writer;
	TRY(build(writer, true));
	auto blob = TRY(ferry_blob::create(*module->owner, writer.data(), writer.size()));
	module->root->set({blob->ref(), ferry_crc32c(~0u, writer.data(), writer.size())});
	module->state.lock()->outgoing = std::move(blob);
	return {};
}

Result<void> load_tree(const TreeRef &ref, Tree &tree)
{
	void *data = TRY(load_blob(ref.bulk, "the tree", max_tree));
	unsigned int crc = ferry_crc32c(~0u, data, ref.bulk.bytes);
	TRY(tree.adopt(data, ref.bulk.bytes));
	if (crc != ref.crc) {
		log_err("the tree has a wrong checksum");
		return fail(Errno::BadMsg);
	}
	Compatible is;
	if (!compatible_of(tree, tree.root(), is) || std::string_view(is.name) != tree_name) {
		log_err("the tree is not one of ours");
		return fail(Errno::BadMsg);
	}
	if (is.version != FERRY_TREE_VERSION) {
		log_err("the tree is of version %u, and this kernel reads %u", is.version,
			FERRY_TREE_VERSION);
		return fail(Errno::ProtoNoSupport);
	}
	return {};
}

// Reads what the last kernel handed over, and frees what carried it. Null when
// there is nothing. Out of memory changes nothing, so that loading the module
// again is worth a try.
Result<ferry::Owned<Tree>> take_incoming()
{
	unsigned long long phys = 0;
	ferry_size size = 0;
	int err = linux_handed_over(FERRY_ROOT_SUBTREE, &phys, &size);
	if (err == -int(Errno::NoEnt))
		return ferry::Owned<Tree>{};
	if (err || size < sizeof(ferry_root) || !is_preserved_page(phys)) {
		log_err("the root page at %#llx was taken before, or is not where it should be",
			phys);
		return fail(Errno::BadMsg);
	}
	TreeRef ref = TRY(read_root(*static_cast<const ferry_root *>(linux_page_at(phys))));
	ferry::Owned<Tree> tree;
	if (ref.bulk.first) {
		tree = TRY(ferry::make<Tree>());
		TRY(load_tree(ref, *tree));
	}
	// From here on it is ours, and nobody finds it a second time.
	linux_forget(phys);
	if (kho::restore_page(phys))
		linux_release(phys / LINUX_PAGE_SIZE, 1, 0);
	return tree;
}

// Everything that can be out of memory comes before take_incoming().
Result<void> create_module()
{
	auto made = TRY(ferry::make<Module>());
	made->root = TRY(RootPage::create());
	auto owner = TRY(ferry::make<ferry_owner>("kho"));
	auto incoming = take_incoming();
	if (incoming.has_value())
		made->incoming = std::move(*incoming);
	else if (incoming.error() == Errno::NoMem)
		return fail(Errno::NoMem);
	else
		log_err("nothing of what the last kernel handed over is taken; what is left of it "
			"stays reserved");

	made->owner = owner.get();
	{
		auto state = made->state.lock();
		state->owners.push_back(*owner.release());
		state->formats[0] = own_records;
		state->nr_formats = 1;
		state->incoming_needed = made->incoming && ferry_module_get(linux_this_module());
	}
	if (made->incoming)
		log_info("the last kernel handed over a tree of %zu bytes", made->incoming->size());
	module = made.release();
	return {};
}

void destroy_module()
{
	abort();
	{
		auto state = module->state.lock();
		while (ferry_owner *owner = state->owners.front()) {
			state->owners.remove(*owner);
			ferry::destroy(owner);
		}
	}
	ferry::destroy(module);
	module = nullptr;
}

// The tree that nodes of the C interface belong to.
const Tree *incoming()
{
	return module->incoming.get();
}

} // namespace
} // namespace kho

using kho::module;

extern "C" {

int kho_module_init()
{
	return ferry::to_errno(kho::create_module());
}

void kho_module_exit()
{
	kho::destroy_module();
}

/* ---- owners ---- */

ferry_owner *ferry_owner_create(const char *name)
{
	auto owner = ferry::make<ferry_owner>(name);
	if (!owner.has_value())
		return nullptr;
	ferry_owner *made = owner->release();
	module->state.lock()->owners.push_back(*made);
	return made;
}

void ferry_owner_destroy(ferry_owner *owner)
{
	if (!owner)
		return;
	module->state.lock()->owners.remove(*owner);
	ferry_usage left = owner->usage();
	if (left.pages || left.metadata || left.blobs)
		log_err("%s leaves %llu pages, %llu bytes of metadata and %llu of blobs behind",
			owner->name, left.pages, left.metadata, left.blobs);
	ferry::destroy(owner);
}

void ferry_owner_usage(ferry_owner *owner, ferry_usage *usage)
{
	*usage = owner->usage();
}

void ferry_kho_usage(ferry_usage *usage)
{
	*usage = {};
	auto state = module->state.lock();
	for (const ferry_owner &owner : state->owners) {
		ferry_usage is = owner.usage();
		usage->pages += is.pages;
		usage->runs += is.runs;
		usage->metadata += is.metadata;
		usage->blobs += is.blobs;
	}
}

/* ---- runs ---- */

ferry_runs *ferry_runs_create(ferry_owner *owner)
{
	auto runs = ferry::make<ferry_runs>(*owner);
	return runs.has_value() ? runs->release() : nullptr;
}

int ferry_runs_append(ferry_runs *runs, const ferry_run *run)
{
	return ferry::to_errno(runs->append(*run));
}

int ferry_runs_append_folios(ferry_runs *runs, const ferry_folios *folios, unsigned int *done)
{
	return ferry::to_errno(runs->append(*folios, *done));
}

int ferry_runs_seal(ferry_runs *runs, ferry_bulk *ref)
{
	auto sealed = runs->seal();
	*ref = sealed.has_value() ? *sealed : ferry_bulk{};
	return ferry::to_errno(sealed);
}

void ferry_runs_usage(const ferry_runs *runs, ferry_usage *usage)
{
	*usage = runs->usage();
}

int ferry_runs_walk(const ferry_runs *runs, int (*visit)(void *, const ferry_run *), void *ctx)
{
	return runs->walk(visit, ctx);
}

void ferry_runs_destroy(ferry_runs *runs)
{
	ferry::destroy(runs);
}

int ferry_runs_open(const ferry_bulk *ref, const char *what, ferry_runs_in **in)
{
	auto opened = ferry_runs_in::create(*ref, what);
	*in = opened.has_value() ? opened->release() : nullptr;
	return ferry::to_errno(opened);
}

int ferry_runs_next(ferry_runs_in *in, ferry_run *run, unsigned int room)
{
	auto next = in->next(run, room);
	return next.has_value() ? static_cast<int>(*next) : ferry::to_errno(next);
}

void ferry_run_free(const ferry_run *run)
{
	linux_release(run->pfn, run->count, run->order);
}

void ferry_runs_leave(ferry_runs_in *in)
{
	in->leave();
	ferry::destroy(in);
}

void ferry_runs_close(ferry_runs_in *in)
{
	ferry::destroy(in);
}

/* ---- blobs ---- */

int ferry_blob_save(ferry_owner *owner, const void *data, ferry_size size, ferry_bulk *ref,
		    ferry_blob **blob)
{
	auto saved = ferry_blob::create(*owner, data, size);
	*ref = saved.has_value() ? (*saved)->ref() : ferry_bulk{};
	*blob = saved.has_value() ? saved->release() : nullptr;
	return ferry::to_errno(saved);
}

void ferry_blob_destroy(ferry_blob *blob)
{
	ferry::destroy(blob);
}

int ferry_blob_load(const ferry_bulk *ref, const char *what, ferry_size max, void **data)
{
	auto loaded = kho::load_blob(*ref, what, max);
	*data = loaded.has_value() ? *loaded : nullptr;
	return ferry::to_errno(loaded);
}

/* ---- the tree, outgoing ---- */

int ferry_put(ferry_writer *writer, const ferry_record *record, const void *object)
{
	return ferry::to_errno(kho::write(*writer, *record, object));
}

int ferry_begin(ferry_writer *writer, const char *name)
{
	return ferry::to_errno(writer->begin(name));
}

int ferry_end(ferry_writer *writer)
{
	return ferry::to_errno(writer->end());
}

int ferry_kho_register(const ferry_provider *provider)
{
	return ferry::to_errno(module->state.lock()->providers.add(provider));
}

void ferry_kho_unregister(const ferry_provider *provider)
{
	module->state.lock()->providers.remove(provider);
}

int ferry_formats_register(const ferry_record *const *records, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; ++i) {
		if (!kho::valid(*records[i])) {
			log_err("the declaration of record '%s' contradicts itself",
				records[i]->name);
			return -int(Errno::Inval);
		}
	}
	auto state = module->state.lock();
	if (state->nr_formats == state->formats.size())
		return -int(Errno::NoSpc);
	state->formats[state->nr_formats++] = {records, nr};
	return 0;
}

void ferry_formats_unregister(const ferry_record *const *records)
{
	auto state = module->state.lock();
	auto end = std::remove_if(state->formats.begin(),
				  state->formats.begin() + state->nr_formats,
				  [&](kho::Formats formats) { return formats.data() == records; });
	state->nr_formats = static_cast<unsigned int>(end - state->formats.begin());
}

int ferry_kho_finalize()
{
	return ferry::to_errno(kho::finalize());
}

void ferry_kho_abort()
{
	kho::abort();
}

/* ---- the tree, incoming ---- */

ferry_node ferry_incoming(const char *name)
{
	if (!kho::incoming() || !module->state.lock()->incoming_needed)
		return {-1};
	return {kho::incoming()->child(kho::incoming()->root(), name)};
}

void ferry_incoming_done()
{
	auto state = module->state.lock();
	if (!state->incoming_needed)
		return;
	state->incoming_needed = false;
	ferry_module_put(linux_this_module());
}

ferry_node ferry_child(ferry_node node, const char *name)
{
	return {node.offset < 0 ? -1 : kho::incoming()->child(node.offset, name)};
}

ferry_node ferry_first(ferry_node node)
{
	return {node.offset < 0 ? -1 : kho::incoming()->first(node.offset)};
}

ferry_node ferry_next(ferry_node node)
{
	return {node.offset < 0 ? -1 : kho::incoming()->next(node.offset)};
}

int ferry_get(ferry_node node, const ferry_record *record, void *object)
{
	if (node.offset < 0) {
		memset(object, 0, record->size);
		return -int(Errno::NoEnt);
	}
	return ferry::to_errno(kho::read(*kho::incoming(), node.offset, *record, object));
}

const char *ferry_node_path(ferry_node node, char *buffer, ferry_size size)
{
	if (node.offset >= 0)
		return kho::incoming()->path(node.offset, buffer, size);
	ferry_format(buffer, size, "(nowhere)");
	return buffer;
}

/* ---- debugfs ---- */

long kho_tree_copy(bool incoming, void **data)
{
	*data = nullptr;
	if (incoming) {
		const kho::Tree *tree = kho::incoming();
		if (!tree)
			return 0;
		*data = ferry_alloc(tree->size());
		if (!*data)
			return -int(Errno::NoMem);
		memcpy(*data, tree->data(), tree->size());
		return static_cast<long>(tree->size());
	}
	ferry_writer writer;
	auto built = kho::build(writer, false);
	if (!built.has_value())
		return ferry::to_errno(built);
	*data = writer.release();
	return static_cast<long>(writer.size());
}

void kho_show_dump(seq_file *file, bool incoming)
{
	void *data;
	long size = kho_tree_copy(incoming, &data);
	if (size <= 0) {
		if (size)
			ferry_seq_printf(file, "(error %ld)\n", -size);
		else
			ferry_seq_printf(file, "(nothing)\n");
		return;
	}
	kho::Tree tree;
	if (!tree.adopt(data, static_cast<std::size_t>(size)).has_value())
		return;
	auto state = module->state.lock();
	kho::print_tree(file, tree, {state->formats.data(), state->nr_formats});
}

void kho_show_formats(seq_file *file)
{
	auto state = module->state.lock();
	kho::print_formats(file, {state->formats.data(), state->nr_formats});
}

void kho_show_owners(seq_file *file)
{
	ferry_seq_printf(file, "%-16s %12s %12s %12s %12s\n", "owner", "pages", "runs", "metadata",
			 "blobs");
	auto state = module->state.lock();
	for (const ferry_owner &owner : state->owners) {
		ferry_usage is = owner.usage();
		ferry_seq_printf(file, "%-16s %12llu %12llu %12llu %12llu\n", owner.name, is.pages,
				 is.runs, is.metadata, is.blobs);
	}
}

} /* extern "C" */
