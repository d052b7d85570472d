// SPDX-License-Identifier: GPL-2.0
// luo_kvm.ko: its handlers, and its device.
#include <ferry/handler.hh>
#include <ferry/log.hh>
#include <ferry/scope.hh>

#include "kvm/gmem.hh"
#include "kvm/group.hh"
#include "kvm/incoming.hh"

using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace virt {

namespace {

constinit ferry_owner *owner;

template <class T> using Outgoing = ferry::Outgoing<T, owner>;

template <class T> constexpr ferry_luo_ops
operations(bool (*is)(file *), unsigned long (*id)(file *), void (*prepare)(ferry_luo_args *),
	   int (*retrieve)(ferry_luo_args *), void (*finish)(ferry_luo_args *))
{
	return {
		.can_preserve = is,
		.id = id,
		.preserve = Outgoing<T>::preserve,
		.unpreserve = Outgoing<T>::unpreserve,
		.freeze = Outgoing<T>::freeze,
		.unfreeze = Outgoing<T>::unfreeze,
		.save = Outgoing<T>::save,
		.prepare = prepare,
		.retrieve = retrieve,
		.can_finish = nullptr,
		.finish = finish,
	};
}

constexpr ferry_luo_ops vm_ops =
	operations<Vm>(linux_kvm_is_vm, linux_kvm_vm_id, prepare_vm, retrieve_vm, finish_vm);
constexpr ferry_luo_ops vcpu_ops = operations<Vcpu>(linux_kvm_is_vcpu, linux_kvm_vcpu_id,
						    prepare_vcpu, retrieve_vcpu, finish_vcpu);
constexpr ferry_luo_ops gmem_ops =
	operations<Gmem>(linux_kvm_is_gmem, linux_kvm_gmem_id, nullptr, retrieve_gmem, finish_gmem);

constinit ferry_luo_handler handlers[] = {
	{.compatible = FERRY_KVM_VM_COMPATIBLE, .module = nullptr, .ops = &vm_ops},
	{.compatible = FERRY_KVM_VCPU_COMPATIBLE, .module = nullptr, .ops = &vcpu_ops},
	{.compatible = FERRY_KVM_GMEM_COMPATIBLE, .module = nullptr, .ops = &gmem_ops},
};

constexpr const ferry_record *formats[] = {
	&ferry_kvm_vm_record,
	&ferry_kvm_vcpu_record,
	&ferry_kvm_gmem_record,
};

Result<void> register_handlers()
{
	for (ferry_luo_handler &handler : handlers)
		handler.module = linux_this_module();
	return check_status(ferry_luo_register_all(handlers, std::size(handlers)));
}

Result<void> init()
{
	TRY(groups_create());
	ferry::Undo no_groups{groups_destroy};
	TRY(incoming_create());
	ferry::Undo no_incoming{incoming_destroy};
	owner = ferry_owner_create("kvm");
	if (!owner)
		return fail(Errno::NoMem);
	ferry::Undo no_owner{[] { ferry_owner_destroy(owner); }};
	TRY(check_status(ferry_formats_register(formats, std::size(formats))));
	ferry::Undo no_formats{[] { ferry_formats_unregister(formats); }};
	TRY(register_handlers());
	no_formats.dismiss();
	no_owner.dismiss();
	no_incoming.dismiss();
	no_groups.dismiss();
	return {};
}

} // namespace

const ferry_luo_handler &vm_handler()
{
	return handlers[0];
}

} // namespace virt

int kvm_module_init(void)
{
	return ferry::to_errno(virt::init());
}

void kvm_module_exit(void)
{
	for (const ferry_luo_handler &handler : virt::handlers)
		ferry_luo_unregister(&handler);
	ferry_formats_unregister(virt::formats);
	ferry_owner_destroy(virt::owner);
	virt::incoming_destroy();
	virt::groups_destroy();
}

long kvm_device_ioctl(unsigned int request, unsigned long arg)
{
	switch (request) {
	case LIVEUPDATE_KVM_GET_MEMORY:
		return ferry::to_errno(virt::get_memory(arg));
	case LIVEUPDATE_KVM_SET_MEMORY:
		return ferry::to_errno(virt::set_memory(arg));
	default:
		return -int(Errno::NotTty);
	}
}
