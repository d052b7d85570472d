// SPDX-License-Identifier: GPL-2.0
// kvm/state.cc: the blobs of sections, and in which order a state is read and
// loaded.
#include "failures.hh"
#include "fake/kvm.hh"
#include "fake/kvm_carry.hh"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <map>

#include "kvm/state.hh"

using fake::Data;
using fake::host;
using fake::put_section;
using ferry::Errno;
using ferry::Result;
using virt::Bytes;
using virt::Section;
using virt::Sections;

namespace {

constexpr unsigned int required[] = {FERRY_KVM_REGS, FERRY_KVM_SREGS, FERRY_KVM_MP_STATE};

// The sections of a blob as text: "kind:bytes".
std::string text(Bytes blob)
{
	std::string text;
	auto done = virt::for_each_section(blob, [&](const Section &section) -> Result<void> {
		text += (text.empty() ? "" : " ") + std::to_string(section.kind) + ":" +
			std::to_string(section.data.size());
		return {};
	});
	return done.has_value() ? text : text + " and an error";
}

Data data_of(Bytes blob, unsigned int kind)
{
	Data data;
	(void)virt::for_each_section(blob, [&](const Section &section) -> Result<void> {
		if (section.kind == kind)
			data = {section.data.begin(), section.data.end()};
		return {};
	});
	return data;
}

std::map<unsigned int, unsigned long long> msrs_of(Bytes blob)
{
	std::map<unsigned int, unsigned long long> msrs;
	Data data = data_of(blob, FERRY_KVM_MSRS);
	for (std::size_t at = 0; at + sizeof(ferry_kvm_msr) <= data.size();
	     at += sizeof(ferry_kvm_msr)) {
		ferry_kvm_msr msr;
		std::memcpy(&msr, data.data() + at, sizeof(msr));
		EXPECT_EQ(msr.reserved, 0u);
		EXPECT_TRUE(msrs.emplace(msr.index, msr.value).second) << msr.index;
	}
	return msrs;
}

// ---- the format ----

TEST(KvmSections, AreWrittenOneAfterTheOther)
{
	Sections sections;
	EXPECT_TRUE(sections.bytes().empty());
	ASSERT_TRUE(sections.add(7, "seven", 5).has_value());
	ASSERT_TRUE(sections.add(8, "", 0).has_value());
	ASSERT_TRUE(sections.add(9, "12345678", 8).has_value());
	const unsigned char expected[] = {
		7,   0,	  0,   0,   5,	 0, 0, 0, // a header
		's', 'e', 'v', 'e', 'n', 0, 0, 0, // filled up
		8,   0,	  0,   0,   0,	 0, 0, 0, // nothing
		9,   0,	  0,   0,   8,	 0, 0, 0, '1', '2', '3', '4', '5', '6', '7', '8',
	};
	Bytes bytes = sections.bytes();
	ASSERT_EQ(bytes.size(), sizeof(expected));
	EXPECT_EQ(std::memcmp(bytes.data(), expected, sizeof(expected)), 0);
	EXPECT_EQ(text(bytes), "7:5 8:0 9:8");
}

TEST(KvmSections, AreFilledUpWithZerosAlsoWhereThereWasSomething)
{
	Sections sections;
	auto room = sections.reserve(100);
	ASSERT_TRUE(room.has_value());
	std::memset(*room, 0xee, 100);
	sections.commit(1, 3);
	Bytes bytes = sections.bytes();
	ASSERT_EQ(bytes.size(), 16u);
	EXPECT_EQ((Data{bytes.begin() + 8, bytes.end()}), (Data{0xee, 0xee, 0xee, 0, 0, 0, 0, 0}));
}

TEST(KvmSections, KeepWhatIsThereWhenTheyGrow)
{
	Sections sections;
	Data data(1000);
	for (unsigned int i = 0; i < 300; ++i) {
		std::fill(data.begin(), data.end(), static_cast<unsigned char>(i));
		ASSERT_TRUE(sections.add(i, data.data(), i).has_value());
	}
	unsigned int i = 0;
	auto done = virt::for_each_section(sections.bytes(),
					   [&](const Section &section) -> Result<void> {
						   EXPECT_EQ(section.kind, i);
						   EXPECT_EQ(section.data.size(), i);
						   for (unsigned char byte : section.data)
							   EXPECT_EQ(byte, i & 0xff);
						   ++i;
						   return {};
					   });
	EXPECT_TRUE(done.has_value());
	EXPECT_EQ(i, 300u);
}

TEST(KvmSections, ReportThatThereIsNoMemory)
{
	for_each_failure([] {
		Sections sections;
		for (std::size_t bytes : {10, 5000, 100, 100000}) {
			Data data(bytes);
			if (auto added = sections.add(1, data.data(), bytes); !added.has_value()) {
				EXPECT_EQ(added.error(), Errno::NoMem);
				return -ENOMEM;
			}
		}
		return 0;
	});
}

TEST(KvmSections, AreReadUpToTheDamage)
{
	Data good;
	put_section(good, 1, Data{1, 2, 3});
	put_section(good, 2, Data(16));
	EXPECT_EQ(text(good), "1:3 2:16");
	EXPECT_EQ(text({}), "");
	// Cut off anywhere: between sections alone it is a blob.
	for (std::size_t size = 1; size < good.size(); ++size) {
		// A copy, so that ASan sees what is read beyond.
		Data cut{good.begin(), good.begin() + static_cast<long>(size)};
		EXPECT_EQ(text(cut) == "1:3", size == 16) << size;
		EXPECT_EQ(text(cut).ends_with("and an error"), size != 16) << size;
	}
	for (unsigned int bytes : {17u, 4096u, 0x7fffffffu, 0xfffffff0u, 0xffffffffu}) {
		Data damaged = good;
		std::memcpy(damaged.data() + 16 + 4, &bytes, sizeof(bytes));
		EXPECT_EQ(text(damaged), "1:3 and an error") << bytes;
	}
}

TEST(KvmSections, EndWithWhatTheVisitorSays)
{
	Data blob;
	put_section(blob, 1, Data(8));
	put_section(blob, 2, Data(8));
	int visited = 0;
	auto done = virt::for_each_section(blob, [&](const Section &) -> Result<void> {
		++visited;
		return ferry::fail(Errno::Busy);
	});
	ASSERT_FALSE(done.has_value());
	EXPECT_EQ(done.error(), Errno::Busy);
	EXPECT_EQ(visited, 1);
}

// ---- blobs of a vCPU and of a VM ----

Data vcpu_blob(const std::vector<unsigned int> &without = {})
{
	Data blob;
	for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind) {
		if (std::find(without.begin(), without.end(), kind) == without.end())
			put_section(blob, kind, Data(8, static_cast<unsigned char>(kind)));
	}
	return blob;
}

Errno error_of(const Result<void> &result)
{
	return result.has_value() ? Errno{} : result.error();
}

TEST(KvmCheck, WantsOfAVcpuWhatItCannotRunWithout)
{
	EXPECT_TRUE(virt::check_vcpu(vcpu_blob()).has_value());
	EXPECT_TRUE(virt::check_vcpu(vcpu_blob({FERRY_KVM_LAPIC, FERRY_KVM_NESTED, FERRY_KVM_XCRS,
						FERRY_KVM_CPUID}))
			    .has_value());
	for (unsigned int kind : required) {
		EXPECT_EQ(error_of(virt::check_vcpu(vcpu_blob({kind}))), Errno::BadMsg);
		Data blob = vcpu_blob({kind});
		put_section(blob, kind, Data{});
		EXPECT_EQ(error_of(virt::check_vcpu(blob)), Errno::BadMsg) << "an empty one";
	}
	EXPECT_EQ(error_of(virt::check_vcpu({})), Errno::BadMsg);
}

TEST(KvmCheck, RefusesOfAVcpuWhatItDoesNotKnow)
{
	for (unsigned int kind : {0u, 13u, 63u, 64u, 71u, 72u, 1000u, ~0u}) {
		Data blob = vcpu_blob();
		put_section(blob, kind, Data(8));
		fake::clear_log();
		EXPECT_EQ(error_of(virt::check_vcpu(blob)), Errno::BadMsg) << kind;
		EXPECT_TRUE(fake::logged(FERRY_ERR, "unknown kind " + std::to_string(kind)));
	}
	for (std::size_t bytes : {0, 8}) {
		Data blob = vcpu_blob({FERRY_KVM_LAPIC});
		put_section(blob, FERRY_KVM_LAPIC, Data(bytes));
		put_section(blob, FERRY_KVM_LAPIC, Data(bytes));
		EXPECT_EQ(error_of(virt::check_vcpu(blob)), Errno::BadMsg);
		EXPECT_TRUE(fake::logged(FERRY_ERR, "two sections of the kind 5"));
	}
}

TEST(KvmCheck, TakesOfAVmEachStateOnceAndSlotsAsOftenAsTheyAre)
{
	Data blob;
	for (unsigned int kind = FERRY_KVM_PIC_MASTER; kind <= FERRY_KVM_VCPUS; ++kind)
		put_section(blob, kind, Data(8));
	for (unsigned int kind : {FERRY_KVM_SLOT, FERRY_KVM_DIRTY, FERRY_KVM_SLOT})
		put_section(blob, kind, Data(8));
	EXPECT_TRUE(virt::check_vm(blob).has_value());
	EXPECT_TRUE(virt::check_vm({}).has_value());
	for (unsigned int kind : {0u, 1u, 11u, 63u, 64u, 67u, 70u, 73u, 74u, 96u, 64u + 256, ~0u}) {
		Data bad = blob;
		put_section(bad, kind, Data(8));
		EXPECT_EQ(error_of(virt::check_vm(bad)), Errno::BadMsg) << kind;
		EXPECT_TRUE(fake::logged(FERRY_ERR, "kind " + std::to_string(kind)));
	}
	Data cut{blob.begin(), blob.end() - 8};
	EXPECT_EQ(error_of(virt::check_vm(cut)), Errno::BadMsg);
}

// ---- reading and loading ----

class KvmState : public testing::Test {
    protected:
	void SetUp() override
	{
		vm = fake::new_vm();
		vcpu = fake::new_vcpu(vm, 3);
		// Else nothing could be loaded.
		fake::vm_of(vm).parked = true;
		EXPECT_EQ(linux_kvm_scratch_map(&scratch), 0);
	}
	void TearDown() override
	{
		linux_kvm_scratch_unmap(scratch);
		linux_kvm_fput(vcpu);
		linux_kvm_fput(vm);
		fake::run_releases();
	}

	// Reads in a worker, with the VM frozen.
	template <class F> int in_freeze(F read)
	{
		fake::vm_of(vm).frozen = true;
		auto work = [](void *ctx, unsigned long at) {
			return ferry::to_errno((*static_cast<F *>(ctx))(at));
		};
		int result = linux_kvm_in_worker(work, &read);
		fake::vm_of(vm).frozen = false;
		return result;
	}
	int read(Sections &sections)
	{
		return in_freeze(
			[&](unsigned long at) { return virt::read_vcpu(at, vcpu, sections); });
	}
	int load(Bytes blob, const ferry_kvm_vcpu &record = {})
	{
		auto rest = virt::load_vcpu_most(scratch, vcpu, record, blob);
		return ferry::to_errno(rest.has_value() ? virt::load_vcpu_rest(scratch, vcpu, *rest)
							: ferry::fail(rest.error()));
	}
	fake::Vcpu &its() const
	{
		return fake::vcpu_of(vcpu);
	}
	std::string trace() const
	{
		std::string text;
		for (const std::string &line : host.trace)
			text += (text.empty() ? "" : ", ") + line;
		return text;
	}

	file *vm = nullptr, *vcpu = nullptr;
	unsigned long scratch = 0;
};

TEST_F(KvmState, ReadsAllThatAVcpuHas)
{
	its().states = {};
	its().states[FERRY_KVM_REGS] = Data(144, 1);
	its().states[FERRY_KVM_SREGS] = Data(320, 2);
	its().states[FERRY_KVM_MP_STATE] = Data(4, 8);
	its().states[FERRY_KVM_XSAVE] = Data(LINUX_KVM_STATE_BYTES, 3);
	Sections sections;
	ASSERT_EQ(read(sections), 0);
	// The MP state is read first, as reading it may change the others.
	EXPECT_EQ(text(sections.bytes()), "8:4 1:144 2:320 3:16384 11:128");
	EXPECT_EQ(data_of(sections.bytes(), FERRY_KVM_SREGS), Data(320, 2));
	EXPECT_TRUE(virt::check_vcpu(sections.bytes()).has_value());
}

TEST_F(KvmState, TakesATimerThatIsDueAlong)
{
	its().timer_due = true;
	Sections sections;
	ASSERT_EQ(read(sections), 0);
	EXPECT_EQ(data_of(sections.bytes(), FERRY_KVM_LAPIC), (Data{0, 0, 0, 0, 0, 0, 0, 1}));
}

TEST_F(KvmState, SaysWhichStateCannotBeRead)
{
	for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind) {
		host.refused = {kind};
		Sections sections;
		EXPECT_EQ(read(sections), -EINVAL);
		EXPECT_TRUE(fake::logged(FERRY_ERR,
					 "kind " + std::to_string(kind) + " cannot be read (-22)"));
	}
}

TEST_F(KvmState, FailsToReadWithoutATrace)
{
	for_each_failure([&] {
		Sections sections;
		return read(sections);
	});
}

// ---- MSRs ----

TEST_F(KvmState, ReadsTheMsrsThatAreListedAndThoseThatAreNot)
{
	host.msr_list = {0x174, 0x10, 0x175, 0xc0000080, 0x6e0};
	its().msrs = {
		{0x10, 99}, // runs, and comes with the offset
		{0x174, 1},	  {0x175, 2},	    {0x6e0, 3},	      {0x200, 4},
		{0x20f, 5},	  {0x250, 6}, // memory types
		{0x258, 7},	  {0x26f, 8},	    {0x2ff, 9},	      {0x400, 10},
		{0x407, 11}, // two banks
		{0x280, 12},	  {0x281, 13},	    {0x408, 14}, // of a third bank that it has not
		{0x40000082, 16}, {0x40000083, 17}, {0x40000090, 18}, {0x4000009f, 19}, // SynIC
		{0x400000b1, 20}, {0x400000b7, 21}, // and its timers
		{0x12345, 15},	  {0x400000b8, 22}, // neither listed nor known
	};
	its().is.mcg_cap = 0x1000002;
	Sections sections;
	ASSERT_EQ(read(sections), 0);
	auto expected = its().msrs;
	for (unsigned int index : {0x10, 0x408, 0x12345, 0x400000b8})
		expected.erase(index);
	EXPECT_EQ(msrs_of(sections.bytes()), expected);
}

TEST_F(KvmState, ReadsAsManyMsrsAsAHostMayList)
{
	host.msr_list.clear();
	its().msrs.clear();
	its().is.mcg_cap = 32;
	for (unsigned int i = 0; i < 512; ++i) {
		host.msr_list.push_back(0x10000 + i);
		its().msrs[0x10000 + i] = i;
	}
	for (unsigned int i = 0; i < 32; ++i)
		its().msrs[0x280 + i] = i;
	for (unsigned int i = 0; i < 128; ++i)
		its().msrs[0x400 + i] = i;
	Sections sections;
	ASSERT_EQ(read(sections), 0);
	const auto were = its().msrs;
	EXPECT_EQ(msrs_of(sections.bytes()), were);
	// And all of them are written, which takes more than one call.
	for (auto &[index, value] : its().msrs)
		value = ~0ull;
	ASSERT_EQ(load(sections.bytes()), 0);
	EXPECT_EQ(its().msrs, were);
}

// More than there is room for is an error, and not left out.
TEST_F(KvmState, RefusesAHostWithTooManyMsrs)
{
	for (std::size_t listed : {513, 700, 1024, 1025}) {
		host.msr_list.resize(listed);
		Sections sections;
		EXPECT_EQ(read(sections), -E2BIG) << listed;
	}
	host.msr_list.resize(100);
	its().is.mcg_cap = 0xff;
	Sections sections;
	EXPECT_EQ(read(sections), -E2BIG);
}

Data msr_section(const std::vector<ferry_kvm_msr> &msrs)
{
	auto from = reinterpret_cast<const unsigned char *>(msrs.data());
	return {from, from + msrs.size() * sizeof(msrs[0])};
}

Data blob_with_msrs(const std::vector<ferry_kvm_msr> &msrs)
{
	Data blob;
	for (unsigned int kind : required)
		put_section(blob, kind, Data(8, 1));
	put_section(blob, FERRY_KVM_MSRS, msr_section(msrs));
	return blob;
}

TEST_F(KvmState, WritesOnlyTheMsrsThatDiffer)
{
	for (unsigned int i = 0; i < 100; ++i)
		its().msrs[0x1000 + i] = i;
	std::vector<ferry_kvm_msr> wanted;
	for (unsigned int i = 0; i < 100; ++i)
		wanted.push_back({0x1000 + i, 0, i == 0 || i == 31 || i == 32 || i == 99 ? 7 : i});
	ASSERT_EQ(load(blob_with_msrs(wanted)), 0);
	EXPECT_EQ(trace(),
		  "configure vcpu 3, set 2, msrs 1000=7 101f=7 1020=7 1063=7, tsc, set 1, set 8");
	EXPECT_EQ(host.msr_reads, 4u);
	for (const ferry_kvm_msr &msr : wanted)
		EXPECT_EQ(its().msrs[msr.index], msr.value);
}

TEST_F(KvmState, WritesMsrsThatAppearOnlyWithTheWrite)
{
	its().msrs = {{1, 0}, {3, 0}};
	its().hidden_msrs = {2, 4, 5};
	ASSERT_EQ(load(blob_with_msrs({{1, 0, 0}, {2, 0, 0}, {3, 0, 9}, {4, 0, 4}, {5, 0, 5}})), 0);
	EXPECT_EQ(trace(), "configure vcpu 3, set 2, msrs 2=0 3=9 4=4 5=5, tsc, set 1, set 8");
}

TEST_F(KvmState, SaysWhichMsrIsRefused)
{
	its().refused_msrs = {0x175};
	EXPECT_EQ(load(blob_with_msrs({{0x174, 0, 1}, {0x175, 0, 0xabc}, {0x176, 0, 2}})),
		  -EOPNOTSUPP);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "MSR 0x175 cannot be set to 0xabc"));
	// One that it has already need not be set.
	its().msrs[0x175] = 0xabc;
	EXPECT_EQ(load(blob_with_msrs({{0x175, 0, 0xabc}, {0x176, 0, 2}})), 0);
	EXPECT_EQ(load(blob_with_msrs({{0xdead, 0, 0}})), -EOPNOTSUPP);
	EXPECT_TRUE(fake::logged(FERRY_ERR, "MSR 0xdead"));
}

// A deadline is in terms of the counter and of the LAPIC's mode.
TEST_F(KvmState, WritesDeadlinesLast)
{
	Data blob = vcpu_blob();
	put_section(blob, FERRY_KVM_MSRS, msr_section({{0x6e0, 0, 1000}, {0x174, 0, 5}}));
	ASSERT_EQ(load(blob), 0);
	EXPECT_EQ(trace(), "set 9, configure vcpu 3, set 2, msrs 174=5, tsc, set 4, set 3, set 5, "
			   "set 6, set 1, set 10, set 6, set 7, set 8, msrs 6e0=3e8");
}

// Timers that fire for nobody, a nested guest's memory, and a rate that is refined.
TEST_F(KvmState, LoadsAheadOnlyWhatStaysAsItIs)
{
	ferry_kvm_vcpu record{};
	EXPECT_TRUE(virt::may_load_ahead(record, vcpu_blob()));
	record.tsc_ratio = 1;
	EXPECT_FALSE(virt::may_load_ahead(record, vcpu_blob()));

	auto with_lapic = [](unsigned int lvt, unsigned int count) {
		Data lapic(1024), blob;
		std::memcpy(&lapic[0x320], &lvt, sizeof(lvt));
		std::memcpy(&lapic[0x380], &count, sizeof(count));
		put_section(blob, FERRY_KVM_LAPIC, lapic);
		return virt::may_load_ahead({}, blob);
	};
	EXPECT_TRUE(with_lapic(0x000000ec, 1000)) << "one-shot";
	EXPECT_TRUE(with_lapic(0x000400ec, 1000)) << "deadline";
	EXPECT_TRUE(with_lapic(0x000200ec, 0)) << "periodic, and stopped";
	EXPECT_FALSE(with_lapic(0x000200ec, 1000));
	EXPECT_FALSE(with_lapic(0x000300ec, 1000)) << "masked, and goes on";

	auto with_nested = [](unsigned char flags) {
		Data blob;
		put_section(blob, FERRY_KVM_NESTED, {flags, 0, 1, 0, 128, 0, 0, 0});
		return virt::may_load_ahead({}, blob);
	};
	EXPECT_TRUE(with_nested(0x4)) << "L1 runs";
	EXPECT_FALSE(with_nested(0x5));
}

TEST_F(KvmState, LoadsABlobWithoutMsrs)
{
	ASSERT_EQ(load(vcpu_blob()), 0);
	EXPECT_EQ(trace(), "set 9, configure vcpu 3, set 2, tsc, set 4, set 3, set 5, set 6, "
			   "set 1, set 10, set 6, set 7, set 8");
	EXPECT_EQ(host.msr_reads, 0u);
}

TEST_F(KvmState, RefusesAListOfMsrsThatIsNone)
{
	for (std::size_t bytes : {1, 15, 17, 1024 * 16 + 16}) {
		Data blob = vcpu_blob();
		put_section(blob, FERRY_KVM_MSRS, Data(bytes));
		EXPECT_EQ(load(blob), -EBADMSG) << bytes;
	}
	EXPECT_EQ(trace(), "");
	Data blob = vcpu_blob();
	put_section(blob, FERRY_KVM_MSRS, Data(1024 * 16));
	EXPECT_EQ(load(blob), -EOPNOTSUPP) << "MSR 0";
}

TEST_F(KvmState, GivesAVcpuWhatItHad)
{
	its().states.clear();
	for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind)
		its().states[kind] = Data(10 * kind, static_cast<unsigned char>(kind));
	its().msrs[0x174] = 0x1234;
	its().msrs[0x6e0] = 77;
	its().is.features = FERRY_KVM_SYNIC2;
	its().is.mcg_cap = 5;
	its().is.tsc_offset = ~0ull;
	its().is.tsc_ratio = 3;
	its().is.tsc_mult = 4;
	its().is.tsc_shift = 5;
	its().is.tsc_catchup = 1;
	Sections sections;
	ASSERT_EQ(read(sections), 0);
	ferry_kvm_vcpu record;
	linux_kvm_vcpu_look(vcpu, &record);

	file *old = std::exchange(vcpu, fake::new_vcpu(vm, 4));
	ASSERT_EQ(load(sections.bytes(), record), 0);
	fake::Vcpu &was = fake::vcpu_of(old);
	EXPECT_EQ(its().states, was.states);
	EXPECT_EQ(its().msrs, was.msrs);
	EXPECT_EQ(std::memcmp(&its().is, &was.is, sizeof(was.is)), 0);
	linux_kvm_fput(old);
}

TEST_F(KvmState, SaysWhichStateIsRefused)
{
	for (unsigned int kind = FERRY_KVM_REGS; kind < FERRY_KVM_MSRS; ++kind) {
		host.refused = {kind};
		EXPECT_EQ(load(vcpu_blob()), -EINVAL);
		EXPECT_TRUE(fake::logged(FERRY_ERR,
					 "kind " + std::to_string(kind) + " cannot be set (-22)"));
	}
}

TEST_F(KvmState, FailsToLoadWithoutATrace)
{
	Data blob = vcpu_blob();
	put_section(blob, FERRY_KVM_MSRS, msr_section({{0x6e0, 0, 1000}, {0x174, 0, 5}}));
	for_each_failure([&] {
		its().msrs[0x6e0] = its().msrs[0x174] = 0;
		return load(blob);
	});
}

// ---- a VM ----

TEST_F(KvmState, ReadsAllThatAVmHas)
{
	fake::vm_of(vm).states[FERRY_KVM_PIT] = Data(112, 1);
	fake::vm_of(vm).states[FERRY_KVM_PIC_SLAVE] = Data(520, 2);
	Sections sections;
	ASSERT_EQ(in_freeze([&](unsigned long at) { return virt::read_vm(at, vm, sections); }), 0);
	EXPECT_EQ(text(sections.bytes()), "65:520 67:112 68:4");
	EXPECT_TRUE(virt::check_vm(sections.bytes()).has_value());
	for_each_failure([&] {
		Sections again;
		return in_freeze([&](unsigned long at) { return virt::read_vm(at, vm, again); });
	});
}

TEST_F(KvmState, LoadsAVmBeforeAndAfterItsVcpus)
{
	Data blob;
	for (unsigned int kind = FERRY_KVM_PIC_MASTER; kind < FERRY_KVM_SLOT; ++kind)
		put_section(blob, kind, Data(12, static_cast<unsigned char>(kind)));
	put_section(blob, FERRY_KVM_SLOT, Data(48));
	ASSERT_TRUE(virt::load_vm_early(scratch, vm, blob).has_value());
	EXPECT_EQ(trace(), "set 68, set 69, set 70");
	host.trace.clear();
	ASSERT_TRUE(virt::load_vm_late(scratch, vm, blob).has_value());
	EXPECT_EQ(trace(), "set 64, set 65, set 66, set 67");
	for (unsigned int kind = FERRY_KVM_PIC_MASTER; kind < FERRY_KVM_SLOT; ++kind)
		EXPECT_EQ(fake::vm_of(vm).states[kind], Data(12, static_cast<unsigned char>(kind)));
}

TEST_F(KvmState, FailsToLoadAVmWithoutATrace)
{
	Data blob;
	for (unsigned int kind = FERRY_KVM_PIC_MASTER; kind < FERRY_KVM_SLOT; ++kind)
		put_section(blob, kind, Data(12, static_cast<unsigned char>(kind)));
	for_each_failure([&] {
		fake::vm_of(vm).states = host.new_vm_states;
		auto loaded = virt::load_vm_early(scratch, vm, blob);
		if (loaded.has_value())
			loaded = virt::load_vm_late(scratch, vm, blob);
		return ferry::to_errno(loaded);
	});
}

TEST_F(KvmState, DoesNotSetRoutesThatAreThereAlready)
{
	Data blob;
	put_section(blob, FERRY_KVM_ROUTING, fake::vm_of(vm).states[FERRY_KVM_ROUTING]);
	ASSERT_TRUE(virt::load_vm_early(scratch, vm, blob).has_value());
	EXPECT_EQ(trace(), "");
	fake::vm_of(vm).states.erase(FERRY_KVM_ROUTING);
	ASSERT_TRUE(virt::load_vm_early(scratch, vm, blob).has_value());
	EXPECT_EQ(trace(), "set 68");
	ASSERT_TRUE(virt::load_vm_early(scratch, vm, {}).has_value());
	EXPECT_EQ(trace(), "set 68");
}

// ---- the clock ----

ferry_kvm_vm clock_record(unsigned long long clock, unsigned long long tsc, unsigned int khz)
{
	ferry_kvm_vm record{};
	record.clock = clock;
	record.tsc = tsc;
	record.tsc_khz = khz;
	return record;
}

TEST(KvmClock, GoesOnByTheTicksSinceTheFreeze)
{
	auto record = clock_record(1'000'000, 5000, 2'000'000);
	EXPECT_EQ(virt::clock_at(record, 5000), 1'000'000u);
	EXPECT_EQ(virt::clock_at(record, 5001), 1'000'000u);
	EXPECT_EQ(virt::clock_at(record, 5002), 1'000'001u);
	EXPECT_EQ(virt::clock_at(record, 5000 + 2'000'000'000ull), 1'001'000'000u);
}

TEST(KvmClock, IsExactForRatesThatDivideNothing)
{
	auto record = clock_record(0, 0, 2'999'999);
	for (unsigned long long tsc :
	     {1ull, 2'999'998ull, 2'999'999ull, 1ull << 40, 1ull << 50, (1ull << 60) + 12345}) {
		auto exact = static_cast<unsigned long long>(static_cast<unsigned __int128>(tsc) *
							     1'000'000 / 2'999'999);
		EXPECT_EQ(virt::clock_at(record, tsc), exact) << tsc;
	}
}

TEST(KvmClock, DoesNotOverflowInTheMiddle)
{
	// 100 years at 5 GHz, and the largest rate that a record takes.
	constexpr unsigned long long century = 100ull * 365 * 86400;
	auto record = clock_record(0, 0, 5'000'000);
	EXPECT_EQ(virt::clock_at(record, century * 5'000'000'000), century * 1'000'000'000);
	record = clock_record(7, 0, 0xffffffff);
	EXPECT_EQ(virt::clock_at(record, 0xffffffffull * 1000 + 0xfffffffe), 7u + 1'000'999'999);
	// Whatever a damaged record says, there is an answer.
	record = clock_record(~0ull, 0, 1);
	(void)virt::clock_at(record, ~0ull);
	record = clock_record(~0ull, ~0ull, 1);
	EXPECT_EQ(virt::clock_at(record, ~0ull), ~0ull);
}

TEST(KvmClock, StandsStillWhenTheCounterWasReset)
{
	auto record = clock_record(123, 5000, 2'000'000);
	EXPECT_EQ(virt::clock_at(record, 4999), 123u);
	EXPECT_EQ(virt::clock_at(record, 0), 123u);
}

} // namespace
