// SPDX-License-Identifier: GPL-2.0
// A virtual machine as the last kernel hands it over, made by hand from
// include/abi: for data that luo_kvm.ko itself would never write.
#pragma once

#include "carry.hh"

#include <abi/kvm.h>
#include <abi/luo.h>
#include <ferry/kho.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kho/linux.h"
#include "luo_v1.hh"

namespace fake {

// Appends a section.
inline void put_section(std::vector<unsigned char> &blob, unsigned int kind, const void *data,
			std::size_t bytes)
{
	const ferry_kvm_section head{kind, static_cast<unsigned int>(bytes)};
	auto append = [&](const void *at, std::size_t size) {
		auto from = static_cast<const unsigned char *>(at);
		blob.insert(blob.end(), from, from + size);
	};
	append(&head, sizeof(head));
	if (bytes)
		append(data, bytes);
	blob.resize((blob.size() + 7) & ~std::size_t{7});
}

inline void put_section(std::vector<unsigned char> &blob, unsigned int kind,
			const std::vector<unsigned char> &data)
{
	put_section(blob, kind, data.data(), data.size());
}

// One session, "vm", with these files, in this order.
struct CarriedVm {
	using Data = std::vector<unsigned char>;
	enum : unsigned long long { VM = 1, VCPU = 0x10, GMEM = 0x20, MEMFD = 0x30 };

	struct Vcpu {
		ferry_kvm_vcpu record{};
		Data state;
		std::vector<unsigned long long> needs{VM};
	};
	struct Gmem {
		ferry_kvm_gmem record{};
		std::vector<ferry_run> runs;
		Data slots;
		std::vector<unsigned long long> needs{VM};
	};

	ferry_kvm_vm vm{};
	Data vm_state;
	std::vector<unsigned long long> vm_needs{MEMFD};
	std::vector<Vcpu> vcpus;
	std::vector<Gmem> gmems;
	// Of whatever kind.
	unsigned int memfds = 1;
	const char *memfd_handler = "memory-v1";
	std::function<int(ferry_writer *)> save_memfd;
	// The VM behind all of the others, not before them.
	bool vm_last = false;
	// Children that are left out: "state", "pages", "slots".
	std::string without;

	Handover carry() const;
	// The tree alone; with the blobs and runs at these places.
	Data tree(const std::vector<ferry_bulk> &refs) const;

	// Where the blobs are, in the order VM, vCPUs, pages and slots of each
	// guest_memfd.
	static Pfn place(std::size_t nr)
	{
		return first_pfn + 0x4000 + nr * 0x800;
	}
	std::vector<ferry_bulk> place_all(Handover &handover) const;

    private:
	// Writes the nodes of luo.ko.
	class Tree;
};

class CarriedVm::Tree {
    public:
	Tree(const CarriedVm &vm, const std::vector<ferry_bulk> &refs, ferry_writer *writer)
		: vm_{vm}, refs_{refs}, writer_{writer}
	{
	}

	int write()
	{
		luo_v1::ferry_update update{};
		update.number = 3;
		update.sessions = 1;
		update.files = static_cast<unsigned int>(1 + vm_.vcpus.size() + vm_.gmems.size() +
							 vm_.memfds);
		update.tsc_khz = 2'000'000;
		put(luo_v1::ferry_update_record, &update);
		begin("session@0");
		luo_v1::ferry_session session{};
		std::snprintf(session.session_name, sizeof(session.session_name), "vm");
		put(luo_v1::ferry_session_record, &session);
		if (!vm_.vm_last)
			write_vm();
		for (std::size_t i = 0; i < vm_.vcpus.size(); ++i)
			write_vcpu(i);
		for (std::size_t i = 0; i < vm_.gmems.size(); ++i)
			write_gmem(i);
		for (unsigned int i = 0; i < vm_.memfds; ++i) {
			begin_file(MEMFD + i, vm_.memfd_handler, {});
			err_ = err_ || !vm_.save_memfd ? err_ : vm_.save_memfd(writer_);
			end_file();
		}
		if (vm_.vm_last)
			write_vm();
		end();
		return err_;
	}

    private:
	void put(const ferry_record &record, const void *object)
	{
		err_ = err_ ? err_ : ferry_put(writer_, &record, object);
	}
	void begin(const char *name)
	{
		err_ = err_ ? err_ : ferry_begin(writer_, name);
	}
	void end()
	{
		err_ = err_ ? err_ : ferry_end(writer_);
	}
	void begin_file(unsigned long long token, const char *handler,
			const std::vector<unsigned long long> &needs)
	{
		char name[24];
		std::snprintf(name, sizeof(name), "file@%x", files_++);
		begin(name);
		luo_v1::ferry_file file{};
		file.token = token;
		std::snprintf(file.handler, sizeof(file.handler), "%s", handler);
		put(luo_v1::ferry_file_record, &file);
		unsigned int nr = 0;
		for (unsigned long long need : needs) {
			std::snprintf(name, sizeof(name), "needs@%x", nr++);
			begin(name);
			ferry_need record{need};
			put(ferry_need_record, &record);
			end();
		}
		begin("state");
	}
	void end_file()
	{
		end();
		end();
	}
	// The nth of the bulks, if there is anything.
	void put_bulk(const char *name, std::size_t nth, bool there)
	{
		const ferry_bulk &ref = refs_.at(nth);
		if (!there || vm_.without == name)
			return;
		begin(name);
		put(ferry_bulk_record, &ref);
		end();
	}
	void write_vm()
	{
		begin_file(VM, FERRY_KVM_VM_COMPATIBLE, vm_.vm_needs);
		put(ferry_kvm_vm_record, &vm_.vm);
		put_bulk("state", 0, !vm_.vm_state.empty());
		end_file();
	}
	void write_vcpu(std::size_t i)
	{
		const CarriedVm::Vcpu &vcpu = vm_.vcpus[i];
		begin_file(VCPU + i, FERRY_KVM_VCPU_COMPATIBLE, vcpu.needs);
		put(ferry_kvm_vcpu_record, &vcpu.record);
		put_bulk("state", 1 + i, !vcpu.state.empty());
		end_file();
	}
	void write_gmem(std::size_t i)
	{
		const CarriedVm::Gmem &gmem = vm_.gmems[i];
		begin_file(GMEM + i, FERRY_KVM_GMEM_COMPATIBLE, gmem.needs);
		put(ferry_kvm_gmem_record, &gmem.record);
		put_bulk("pages", 1 + vm_.vcpus.size() + 2 * i, true);
		put_bulk("slots", 2 + vm_.vcpus.size() + 2 * i, !gmem.slots.empty());
		end_file();
	}

	const CarriedVm &vm_;
	const std::vector<ferry_bulk> &refs_;
	ferry_writer *writer_;
	int err_ = 0;
	unsigned int files_ = 0;
};

inline std::vector<ferry_bulk> CarriedVm::place_all(Handover &handover) const
{
	std::vector<ferry_bulk> refs;
	auto blob = [&](const Data &data) {
		refs.push_back(data.empty() ? ferry_bulk{}
					    : carry_blob(handover, place(refs.size()), data));
	};
	blob(vm_state);
	for (const Vcpu &vcpu : vcpus)
		blob(vcpu.state);
	for (const Gmem &gmem : gmems) {
		refs.push_back(gmem.runs.empty()
				       ? ferry_bulk{}
				       : carry_runs(handover, place(refs.size()), gmem.runs));
		for (const ferry_run &run : gmem.runs) {
			for (unsigned int i = 0; run.order && i < run.count; ++i)
				handover.keys[run.pfn + (static_cast<Pfn>(i) << run.order)] =
					run.order;
			if (!run.order)
				preserve_pages(handover, run.pfn, run.count);
		}
		blob(gmem.slots);
	}
	return refs;
}

// kho.ko must not be loaded: it is for a moment.
inline CarriedVm::Data CarriedVm::tree(const std::vector<ferry_bulk> &refs) const
{
	struct Context {
		const CarriedVm &vm;
		const std::vector<ferry_bulk> &refs;
	} context{*this, refs};
	auto save = [](void *ctx, ferry_writer *writer, bool) {
		auto &with = *static_cast<Context *>(ctx);
		return Tree{with.vm, with.refs, writer}.write();
	};
	const ferry_provider provider{"luo", nullptr, save, &context};
	void *data = nullptr;
	boot({});
	if (kho_module_init() || ferry_kho_register(&provider))
		bug("there is no tree to be written");
	long size = kho_tree_copy(false, &data);
	if (size <= 0)
		bug("a tree cannot be written: %ld", size);
	auto bytes = static_cast<unsigned char *>(data);
	Data tree{bytes, bytes + std::max(size, 0l)};
	ferry_free(data);
	ferry_kho_unregister(&provider);
	kho_module_exit();
	return tree;
}

inline Handover CarriedVm::carry() const
{
	Handover handover;
	const Data bytes = tree(place_all(handover));
	carry_root(handover, first_pfn + 1, carry_blob(handover, first_pfn + 2, bytes),
		   ferry_crc32c(~0u, bytes.data(), bytes.size()));
	return handover;
}

} // namespace fake
