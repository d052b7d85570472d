// SPDX-License-Identifier: GPL-2.0
#include "kvm/state.hh"

#include <ferry/log.hh>

#include <algorithm>

using ferry::check;
using ferry::check_status;
using ferry::Errno;
using ferry::fail;
using ferry::Result;

namespace virt {

// ---- sections ----

namespace {

constexpr std::size_t align8(std::size_t bytes)
{
	return (bytes + 7) & ~std::size_t{7};
}

} // namespace

Result<void *> Sections::reserve(std::size_t most)
{
	const std::size_t wanted = size_ + sizeof(ferry_kvm_section) + align8(most);
	if (wanted > room_) {
		// So that the states of a vCPU fit at once.
		constexpr std::size_t first = 0x10000;
		const std::size_t room = std::max({2 * room_, wanted, first});
		auto *data = static_cast<unsigned char *>(ferry_alloc(room));
		if (!data)
			return fail(Errno::NoMem);
		if (size_)
			memcpy(data, data_, size_);
		ferry_free(data_);
		data_ = data;
		room_ = room;
	}
	return static_cast<void *>(data_ + size_ + sizeof(ferry_kvm_section));
}

void Sections::commit(unsigned int kind, std::size_t bytes)
{
	const ferry_kvm_section head{.kind = kind, .bytes = static_cast<unsigned int>(bytes)};
	memcpy(data_ + size_, &head, sizeof(head));
	size_ += sizeof(head);
	// What was reserved before and not used may have left something there.
	memset(data_ + size_ + bytes, 0, align8(bytes) - bytes);
	size_ += align8(bytes);
}

Result<void> Sections::add(unsigned int kind, const void *data, std::size_t bytes)
{
	void *to = TRY(reserve(bytes));
	memcpy(to, data, bytes);
	commit(kind, bytes);
	return {};
}

Result<void> Sections::append(const Sections &other)
{
	if (!other.size_)
		return {};
	TRY(reserve(other.size_));
	memcpy(data_ + size_, other.data_, other.size_);
	size_ += other.size_;
	return {};
}

Result<Section> next_section(Bytes &blob)
{
	ferry_kvm_section head;
	if (blob.size() < sizeof(head))
		return fail(Errno::BadMsg);
	memcpy(&head, blob.data(), sizeof(head));
	blob = blob.subspan(sizeof(head));
	if (align8(head.bytes) > blob.size())
		return fail(Errno::BadMsg);
	Section section{.kind = head.kind, .data = blob.first(head.bytes)};
	blob = blob.subspan(align8(head.bytes));
	return section;
}

namespace {

// The sections of a blob by kind, those that are there once.
template <unsigned int first, unsigned int nr> class Index {
    public:
	// Errno::BadMsg: one that is not known, or is there twice.
	Result<void> build(Bytes blob)
	{
		return for_each_section(blob, [this](const Section &section) -> Result<void> {
			if (section.kind < first || section.kind >= first + nr) {
				log_err("a section of the unknown kind %u", section.kind);
				return fail(Errno::BadMsg);
			}
			Bytes &at = at_[section.kind - first];
			if (at.data()) {
				log_err("two sections of the kind %u", section.kind);
				return fail(Errno::BadMsg);
			}
			at = section.data;
			return {};
		});
	}
	// Empty where there is none.
	Bytes operator[](unsigned int kind) const
	{
		return at_[kind - first];
	}

    private:
	std::array<Bytes, nr> at_{};
};

using VcpuIndex = Index<FERRY_KVM_REGS, FERRY_KVM_ONE_REGS - FERRY_KVM_REGS + 1>;

Result<void> read(unsigned long scratch, file *of, unsigned int kind, Sections &sections)
{
	std::size_t room = LINUX_KVM_STATE_BYTES;
	auto bytes = check(linux_kvm_get(scratch, of, kind, TRY(sections.reserve(room)), room));
	// Few are larger; and so much memory takes its time.
	if (!bytes.has_value() && bytes.error() == Errno::TooBig) {
		room = LINUX_KVM_SCRATCH_BYTES;
		bytes = check(linux_kvm_get(scratch, of, kind, TRY(sections.reserve(room)), room));
	}
	if (!bytes.has_value()) {
		log_err("state of the kind %u cannot be read (%d)", kind, ferry::to_errno(bytes));
		return fail(bytes.error());
	}
	if (*bytes)
		sections.commit(kind, static_cast<std::size_t>(*bytes));
	return {};
}

Result<void> load(unsigned long scratch, file *to, unsigned int kind, Bytes data)
{
	if (data.empty())
		return {};
	auto done = check_status(linux_kvm_set(scratch, to, kind, data.data(), data.size()));
	if (!done.has_value())
		log_err("state of the kind %u cannot be set (%d)", kind, ferry::to_errno(done));
	return done;
}

// ---- MSRs ----

using Msrs = std::span<ferry_kvm_msr>;

// Of one vCPU: what KVM lists, and up to 32 banks of machine checks.
constexpr std::size_t max_msrs = 1024;

constexpr unsigned int msr_tsc = 0x10;
constexpr unsigned int msr_tsc_deadline = 0x6e0;

bool is_deadline(unsigned int index)
{
	return index == msr_tsc_deadline;
}

// May an MSR point into the guest's memory, or start a timer that goes by what is
// there? Those of KVM (Documentation/virt/kvm/x86/msr.rst) and of Hyper-V may.
bool refers_to_memory(unsigned int index)
{
	constexpr unsigned int of_kvm_first = 0x4b564d00;
	constexpr unsigned int of_kvm_last = 0x4b564dff;
	constexpr unsigned int of_hyperv_first = 0x40000000;
	constexpr unsigned int of_hyperv_last = 0x400001ff;
	constexpr unsigned int old_wall_clock = 0x11;
	constexpr unsigned int old_system_time = 0x12;
	return index == old_wall_clock || index == old_system_time ||
	       (index >= of_kvm_first && index <= of_kvm_last) ||
	       (index >= of_hyperv_first && index <= of_hyperv_last);
}

bool refers_to_nothing(unsigned int index)
{
	return !refers_to_memory(index) && !is_deadline(index);
}

// The list of KVM_GET_MSR_INDEX_LIST leaves out what each VMM is expected to know:
// memory types and machine checks (Intel SDM vol. 4, table 2-2; AMD APM vol. 2,
// appendix A); and of Hyper-V's synthetic interrupts and timers the most (Hyper-V
// TLFS, "Virtual Interrupt Controller", "Timers"). A timer's count is a point of
// the guest's time, or a period, which begins anew.
constexpr struct {
	unsigned int first, nr;
} more_msrs[] = {
	{0x200, 16}, // IA32_MTRR_PHYSBASE0 to PHYSMASK7
	{0x250, 1}, // IA32_MTRR_FIX64K_00000
	{0x258, 2}, // IA32_MTRR_FIX16K_80000, _A0000
	{0x268, 8}, // IA32_MTRR_FIX4K_C0000 to _F8000
	{0x2ff, 1}, // IA32_MTRR_DEF_TYPE
	{0x40000082, 2}, // HV_X64_MSR_SIEFP, HV_X64_MSR_SIMP
	{0x40000090, 16}, // HV_X64_MSR_SINT0 to SINT15
	{0x400000b1, 7}, // HV_X64_MSR_STIMER0_COUNT to STIMER3_COUNT, with their configurations
};
constexpr unsigned int msr_mc0_ctl = 0x400; // four of each bank
constexpr unsigned int msr_mc0_ctl2 = 0x280;

// Fills in the indexes of all MSRs that say something; returns how many.
class MsrList {
    public:
	explicit MsrList(Msrs room) : room_{room}
	{
	}

	Result<void> fill(unsigned long scratch, unsigned long long mcg_cap)
	{
		TRY(add_listed(scratch));
		for (const auto &range : more_msrs)
			TRY(add(range.first, range.nr));
		const auto banks = static_cast<unsigned int>(mcg_cap & 0xff);
		TRY(add(msr_mc0_ctl, 4 * banks));
		return add(msr_mc0_ctl2, banks);
	}
	Msrs list() const
	{
		return room_.first(nr_);
	}

    private:
	Result<void> add_listed(unsigned long scratch)
	{
		// In the upper half of the room: half as many fill the lower half at most.
		const std::size_t most = room_.size() / 2;
		auto *index = reinterpret_cast<unsigned int *>(room_.data() + most);
		const int nr = TRY(
			check(linux_kvm_msr_list(scratch, index, static_cast<unsigned int>(most))));
		for (int i = 0; i < nr; ++i) {
			// It comes with the offset: the counter itself runs.
			const unsigned int at = index[i];
			if (at != msr_tsc)
				TRY(add(at, 1));
		}
		return {};
	}

	Result<void> add(unsigned int first, unsigned int nr)
	{
		if (nr > room_.size() - nr_)
			return fail(Errno::TooBig);
		for (unsigned int i = 0; i < nr; ++i)
			room_[nr_++] = {.index = first + i, .reserved = 0, .value = 0};
		return {};
	}

	Msrs room_;
	std::size_t nr_ = 0;
};

// Reads those that can be read, and closes the list up. A guest has not all
// that the host could give it; where one is missing, its neighbours often are, too,
// and a call copies all that it asks for: so it asks for few after a miss.
Result<Msrs> read_msrs(unsigned long scratch, file *vcpu, Msrs list)
{
	std::size_t done = 0;
	std::size_t nr = list.size();
	std::size_t at_once = LINUX_KVM_MSRS_AT_ONCE;
	while (done < nr) {
		const std::size_t most = std::min(nr - done, at_once);
		const auto read = static_cast<std::size_t>(TRY(check(linux_kvm_get_msrs(
			scratch, vcpu, list.data() + done, static_cast<unsigned int>(most)))));
		done += read;
		if (read < most) {
			std::copy(list.begin() + done + 1, list.begin() + nr, list.begin() + done);
			--nr;
			at_once = 1;
		} else {
			at_once = std::min<std::size_t>(4 * at_once, LINUX_KVM_MSRS_AT_ONCE);
		}
	}
	return list.first(nr);
}

Result<void> read_all_msrs(unsigned long scratch, file *vcpu, unsigned long long mcg_cap,
			   Sections &sections)
{
	auto *at = static_cast<ferry_kvm_msr *>(
		TRY(sections.reserve(max_msrs * sizeof(ferry_kvm_msr))));
	MsrList list{Msrs{at, max_msrs}};
	TRY(list.fill(scratch, mcg_cap));
	const Msrs msrs = TRY(read_msrs(scratch, vcpu, list.list()));
	sections.commit(FERRY_KVM_MSRS, msrs.size_bytes());
	return {};
}

Result<void> write_msrs(unsigned long scratch, file *vcpu, Msrs list)
{
	while (!list.empty()) {
		const std::size_t most = std::min<std::size_t>(list.size(), LINUX_KVM_MSRS_AT_ONCE);
		const auto done = static_cast<std::size_t>(TRY(check(linux_kvm_set_msrs(
			scratch, vcpu, list.data(), static_cast<unsigned int>(most)))));
		list = list.subspan(done);
		if (done < most) {
			log_err("MSR %#x cannot be set to %#llx", list[0].index, list[0].value);
			return fail(Errno::OpNotSupp);
		}
	}
	return {};
}

// MSRs on their way in, of which only those are written that differ: most do not,
// and each of them takes its time.
class MsrLoad {
    public:
	~MsrLoad()
	{
		ferry_free(wanted_);
	}

	Result<void> prepare(Bytes section)
	{
		nr_ = section.size() / sizeof(ferry_kvm_msr);
		if (section.size() % sizeof(ferry_kvm_msr) || nr_ > max_msrs)
			return fail(Errno::BadMsg);
		// A second list behind it, for what the vCPU has now.
		wanted_ = static_cast<ferry_kvm_msr *>(
			ferry_alloc(2 * std::max<std::size_t>(section.size(), 1)));
		if (!wanted_)
			return fail(Errno::NoMem);
		if (!section.empty())
			memcpy(wanted_, section.data(), section.size());
		return {};
	}

	// Those with an index that suits.
	Result<void> write(unsigned long scratch, file *vcpu, bool (*suits)(unsigned int index))
	{
		Msrs chosen = choose(suits);
		TRY(drop_equal(scratch, vcpu, chosen));
		return write_msrs(scratch, vcpu, chosen);
	}

	// What write() would write, for later: to see that takes its time, too.
	Result<Blob> pending(unsigned long scratch, file *vcpu, bool (*suits)(unsigned int index))
	{
		Msrs chosen = choose(suits);
		TRY(drop_equal(scratch, vcpu, chosen));
		void *data = ferry_alloc(std::max<std::size_t>(chosen.size_bytes(), 1));
		if (!data)
			return fail(Errno::NoMem);
		if (!chosen.empty())
			memcpy(data, chosen.data(), chosen.size_bytes());
		return Blob{data, chosen.size_bytes()};
	}

    private:
	// Puts them into the second list.
	Msrs choose(bool (*suits)(unsigned int index))
	{
		ferry_kvm_msr *end = std::copy_if(
			wanted_, wanted_ + nr_, wanted_ + nr_,
			[suits](const ferry_kvm_msr &msr) { return suits(msr.index); });
		return {wanted_ + nr_, end};
	}

	Result<void> drop_equal(unsigned long scratch, file *vcpu, Msrs &chosen)
	{
		std::size_t kept = 0;
		for (std::size_t at = 0; at < chosen.size();) {
			// In steps that fit on the stack.
			ferry_kvm_msr now[32];
			const std::size_t nr = std::min(std::size(now), chosen.size() - at);
			std::copy_n(chosen.begin() + at, nr, now);
			const auto known = static_cast<std::size_t>(TRY(check(linux_kvm_get_msrs(
				scratch, vcpu, now, static_cast<unsigned int>(nr)))));
			for (std::size_t i = 0; i < known; ++i) {
				if (now[i].value != chosen[at + i].value)
					chosen[kept++] = chosen[at + i];
			}
			at += known;
			// One that cannot be read now may be there once it is written.
			if (known < nr)
				chosen[kept++] = chosen[at++];
		}
		chosen = chosen.first(kept);
		return {};
	}

	ferry_kvm_msr *wanted_ = nullptr;
	std::size_t nr_ = 0;
};

} // namespace

// ---- a vCPU ----

Result<void> read_vcpu(unsigned long scratch, file *vcpu, Sections &sections)
{
	linux_kvm_flush_timer(vcpu);
	// First, as it is in the API's text: it lets a vCPU take an INIT or a SIPI that
	// has come, which changes the other states.
	TRY(read(scratch, vcpu, FERRY_KVM_MP_STATE, sections));
	for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind) {
		if (kind != FERRY_KVM_MP_STATE)
			TRY(read(scratch, vcpu, kind, sections));
	}
	ferry_kvm_vcpu record;
	linux_kvm_vcpu_look(vcpu, &record);
	TRY(read_all_msrs(scratch, vcpu, record.mcg_cap, sections));
	return read(scratch, vcpu, FERRY_KVM_ONE_REGS, sections);
}

Result<void> check_vcpu(Bytes blob)
{
	VcpuIndex index;
	TRY(index.build(blob));
	for (unsigned int kind : {FERRY_KVM_REGS, FERRY_KVM_SREGS, FERRY_KVM_MP_STATE}) {
		if (index[kind].empty())
			return fail(Errno::BadMsg);
	}
	return {};
}

namespace {

// Word `at` of a section; 0 where it ends before.
template <class Word> Word word_at(Bytes data, std::size_t at)
{
	Word word = 0;
	if (at + sizeof(word) <= data.size())
		memcpy(&word, data.data() + at, sizeof(word));
	return word;
}

// A timer that starts itself anew, as fast as the guest likes (Intel SDM vol. 3,
// "APIC Timer": LVT, initial count).
bool has_periodic_timer(Bytes lapic)
{
	constexpr std::size_t lvt_timer = 0x320;
	constexpr std::size_t initial_count = 0x380;
	constexpr unsigned int mode = 3u << 17;
	constexpr unsigned int periodic = 1u << 17;
	return (word_at<unsigned int>(lapic, lvt_timer) & mode) == periodic &&
	       word_at<unsigned int>(lapic, initial_count);
}

// KVM looks into a nested guest's memory (struct kvm_nested_state).
bool is_in_nested_guest(Bytes nested)
{
	constexpr unsigned short guest_mode = 1; // KVM_STATE_NESTED_GUEST_MODE
	return word_at<unsigned short>(nested, 0) & guest_mode;
}

} // namespace

bool may_load_ahead(const ferry_kvm_vcpu &record, Bytes blob)
{
	VcpuIndex index;
	// A rate is scaled by what the host has measured, which it refines.
	return !record.tsc_ratio && index.build(blob).has_value() &&
	       !has_periodic_timer(index[FERRY_KVM_LAPIC]) &&
	       !is_in_nested_guest(index[FERRY_KVM_NESTED]);
}

// The order matters: CPUID says what registers there are; a mode (SREGS) which
// values they take; EFER and CR4 are in SREGS, and nested state wants them; the
// LAPIC its base address, which is in SREGS too; a timer's deadline the LAPIC's
// mode and the counter; and INIT-received the LAPIC. REGS drop an exception that
// is pending, and nested state an interrupt shadow: so EVENTS come after them; but
// nested state wants to know of SMM, which is in EVENTS: so they come twice.
// (Documentation/virt/kvm/api.rst says some of it.)
Result<Blob> load_vcpu_most(unsigned long scratch, file *vcpu, const ferry_kvm_vcpu &record,
			    Bytes blob)
{
	VcpuIndex index;
	TRY(index.build(blob));
	MsrLoad msrs;
	TRY(msrs.prepare(index[FERRY_KVM_MSRS]));

	TRY(load(scratch, vcpu, FERRY_KVM_CPUID, index[FERRY_KVM_CPUID]));
	TRY(check_status(linux_kvm_configure_vcpu(scratch, vcpu, &record)));
	TRY(load(scratch, vcpu, FERRY_KVM_SREGS, index[FERRY_KVM_SREGS]));
	TRY(msrs.write(scratch, vcpu, refers_to_nothing));
	TRY(check_status(linux_kvm_set_tsc(scratch, vcpu, &record)));
	for (unsigned int kind :
	     {FERRY_KVM_ONE_REGS, FERRY_KVM_XCRS, FERRY_KVM_XSAVE, FERRY_KVM_LAPIC,
	      FERRY_KVM_EVENTS, FERRY_KVM_REGS, FERRY_KVM_NESTED, FERRY_KVM_EVENTS,
	      FERRY_KVM_DEBUGREGS, FERRY_KVM_MP_STATE})
		TRY(load(scratch, vcpu, kind, index[kind]));
	TRY(msrs.write(scratch, vcpu, is_deadline));
	return msrs.pending(scratch, vcpu, refers_to_memory);
}

Result<void> load_vcpu_rest(unsigned long scratch, file *vcpu, Blob &rest)
{
	return write_msrs(scratch, vcpu,
			  {reinterpret_cast<ferry_kvm_msr *>(rest.data()),
			   rest.bytes().size() / sizeof(ferry_kvm_msr)});
}

// ---- a VM ----

namespace {

// Those that deliver interrupts come first: what is on its way from one of them to
// a vCPU is then there in the one or in the other, or in both for a level.
constexpr unsigned int vm_kinds[] = {
	FERRY_KVM_PIC_MASTER, FERRY_KVM_PIC_SLAVE,  FERRY_KVM_IOAPIC,	  FERRY_KVM_PIT,
	FERRY_KVM_ROUTING,    FERRY_KVM_MSR_FILTER, FERRY_KVM_PMU_FILTER,
};

Bytes find(Bytes blob, unsigned int kind)
{
	Bytes found;
	(void)for_each_section(blob, [&](const Section &section) -> Result<void> {
		if (section.kind == kind)
			found = section.data;
		return {};
	});
	return found;
}

// A new VM has the usual routes already, and setting them takes its time.
Result<void> load_routes(unsigned long scratch, file *vm, Bytes routes)
{
	if (routes.empty())
		return {};
	Sections now;
	TRY(read(scratch, vm, FERRY_KVM_ROUTING, now));
	const Bytes had = find(now.bytes(), FERRY_KVM_ROUTING);
	if (std::equal(had.begin(), had.end(), routes.begin(), routes.end()))
		return {};
	return load(scratch, vm, FERRY_KVM_ROUTING, routes);
}

} // namespace

Result<void> read_vm(unsigned long scratch, file *vm, Sections &sections)
{
	for (unsigned int kind : vm_kinds)
		TRY(read(scratch, vm, kind, sections));
	return {};
}

Result<void> check_vm(Bytes blob)
{
	unsigned int seen = 0;
	return for_each_section(blob, [&](const Section &section) -> Result<void> {
		const unsigned int bit = section.kind - FERRY_KVM_PIC_MASTER;
		if (section.kind < FERRY_KVM_PIC_MASTER || section.kind > FERRY_KVM_VCPUS ||
		    seen & 1u << bit) {
			log_err("a section of the kind %u has no place here", section.kind);
			return fail(Errno::BadMsg);
		}
		if (section.kind != FERRY_KVM_SLOT && section.kind != FERRY_KVM_DIRTY)
			seen |= 1u << bit;
		return {};
	});
}

Result<void> load_vm_early(unsigned long scratch, file *vm, Bytes blob)
{
	TRY(load_routes(scratch, vm, find(blob, FERRY_KVM_ROUTING)));
	TRY(load(scratch, vm, FERRY_KVM_MSR_FILTER, find(blob, FERRY_KVM_MSR_FILTER)));
	return load(scratch, vm, FERRY_KVM_PMU_FILTER, find(blob, FERRY_KVM_PMU_FILTER));
}

Result<void> load_vm_late(unsigned long scratch, file *vm, Bytes blob)
{
	for (unsigned int kind :
	     {FERRY_KVM_PIC_MASTER, FERRY_KVM_PIC_SLAVE, FERRY_KVM_IOAPIC, FERRY_KVM_PIT})
		TRY(load(scratch, vm, kind, find(blob, kind)));
	return {};
}

unsigned long long clock_at(const ferry_kvm_vm &record, unsigned long long tsc)
{
	constexpr unsigned long long ns_per_ms = 1000000;
	// A counter that stands before where it was has been reset after all.
	if (tsc < record.tsc)
		return record.clock;
	const unsigned long long ticks = tsc - record.tsc;
	const unsigned long long khz = record.tsc_khz;
	return record.clock + ticks / khz * ns_per_ms + ticks % khz * ns_per_ms / khz;
}

} // namespace virt
