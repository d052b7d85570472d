// SPDX-License-Identifier: GPL-2.0
// luo_iommu.ko: its handler, and the verifier of page tables.
#include <ferry/log.hh>
#include <ferry/scope.hh>

#include <array>

#include "iommu/context.hh"
#include "iommu/incoming.hh"
#include "iommu/jump.hh"

using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace iommu {

namespace {

constinit ferry_owner *owner;

// What `priv` of an incoming file points to when its pages are gone, and it has
// no page tables to show for them.
constinit char pages_taken;

Context *preserved(const ferry_luo_args *args)
{
	return static_cast<Context *>(args->priv);
}

int preserve(ferry_luo_args *args)
{
	auto context = Context::preserve(*args, owner);
	if (context.has_value())
		args->priv = context->release();
	return ferry::to_errno(context);
}

void unpreserve(ferry_luo_args *args)
{
	ferry::destroy(preserved(args));
}

int freeze(ferry_luo_args *args)
{
	return ferry::to_errno(preserved(args)->freeze());
}

int save(ferry_luo_args *args, ferry_writer *writer)
{
	return ferry::to_errno(preserved(args)->save(writer));
}

// An iommufd without mappings, and the page tables that those have to match
// which the owner makes in it, or in another one.
int retrieve(ferry_luo_args *args)
{
	if (int err = linux_iommufd_create(&args->file)) {
		args->file = nullptr;
		return err;
	}
	bool taken = false;
	auto tables = OldTables::take(args->state, taken);
	if (tables.has_value()) {
		args->priv = tables->release();
		return 0;
	}
	linux_iommufd_put(args->file);
	args->file = nullptr;
	args->priv = taken ? &pages_taken : nullptr;
	return ferry::to_errno(tables);
}

void finish(ferry_luo_args *args)
{
	if (!args->priv)
		drop_tables(args->state);
	else if (args->priv != &pages_taken)
		ferry::destroy(static_cast<OldTables *>(args->priv));
}

constexpr ferry_luo_ops ops{
	.can_preserve = linux_iommufd_is,
	.id = linux_iommufd_id,
	.preserve = preserve,
	.unpreserve = unpreserve,
	.freeze = freeze,
	.unfreeze = nullptr,
	.save = save,
	.prepare = nullptr,
	.retrieve = retrieve,
	.can_finish = nullptr,
	.finish = finish,
};

constinit ferry_luo_handler handler{
	.compatible = FERRY_IOMMUFD_COMPATIBLE,
	.module = nullptr,
	.ops = &ops,
};

constexpr const ferry_record *formats[] = {&ferry_iommufd_record, &ferry_hwpt_record};

Result<void> init()
{
	TRY(incoming_create());
	ferry::Undo no_incoming{incoming_destroy};
	TRY(jump_create());
	ferry::Undo no_jump{jump_destroy};
	owner = ferry_owner_create("iommu");
	if (!owner)
		return fail(Errno::NoMem);
	ferry::Undo no_owner{[] { ferry_owner_destroy(owner); }};
	TRY(check_status(ferry_formats_register(formats, std::size(formats))));
	ferry::Undo no_formats{[] { ferry_formats_unregister(formats); }};
	linux_verify(true);
	ferry::Undo no_verifier{[] { linux_verify(false); }};
	handler.module = linux_this_module();
	TRY(check_status(ferry_luo_register(&handler)));
	free_jump_tables();
	no_verifier.dismiss();
	no_formats.dismiss();
	no_owner.dismiss();
	no_jump.dismiss();
	no_incoming.dismiss();
	return {};
}

} // namespace
} // namespace iommu

int iommu_module_init(void)
{
	return ferry::to_errno(iommu::init());
}

void iommu_module_exit(void)
{
	ferry_luo_unregister(&iommu::handler);
	linux_verify(false);
	ferry_formats_unregister(iommu::formats);
	ferry_owner_destroy(iommu::owner);
	iommu::jump_destroy();
	iommu::incoming_destroy();
}

int iommu_compare(const linux_table *old, const linux_table *now)
{
	return ferry::to_errno(iommu::compare(*old, *now));
}
