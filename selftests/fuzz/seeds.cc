// SPDX-License-Identifier: GPL-2.0
// The first inputs of the fuzzers, from the golden files: seeds DIR writes
// DIR/<fuzzer>/<name>.
#include "kvm.hh"
#include "pages.hh"

#include <fstream>
#include <iterator>
#include <string>

#include "kho/linux.h"

namespace {

using Bytes = std::vector<unsigned char>;

std::string dir;

Bytes golden(const char *name)
{
	std::ifstream in{std::string(GOLDEN "/") + name, std::ios::binary};
	return {std::istreambuf_iterator<char>{in}, {}};
}

void write(const char *name, const Bytes &bytes)
{
	std::ofstream out{dir + "/" + name, std::ios::binary};
	out.write(reinterpret_cast<const char *>(bytes.data()),
		  static_cast<std::streamsize>(bytes.size()));
	if (!out.flush())
		std::exit(1);
}

Bytes page_of(const fake::Handover &handover, fake::Pfn pfn)
{
	auto &page = handover.pages.at(pfn);
	return {page.begin(), page.end()};
}

// A root page, a block of runs and a tree, in the pages of pages.hh.
void root()
{
	fake::Handover handover;
	auto ref = fake::carry_blob(handover, fuzz::first + 1, golden("tree-v1.bin"));
	Bytes tree = golden("tree-v1.bin");
	fake::carry_root(handover, fuzz::first, ref, ferry_crc32c(~0u, tree.data(), tree.size()));
	std::vector<Bytes> pages;
	for (fake::Pfn pfn = fuzz::first; handover.pages.count(pfn); ++pfn)
		pages.push_back(page_of(handover, pfn));
	write("kho_root/as-it-is", fuzz::input(0, ref, pages));
	write("kho_root/fixed", fuzz::input(fuzz::fix_root | fuzz::fix_blocks, ref, pages));
	pages.erase(pages.begin());
	pages.insert(pages.begin(), Bytes(1));
	write("kho_runs/blob", fuzz::input(fuzz::fix_blocks | 128, ref, pages));
}

// Two blocks of runs of the folios of pages.hh.
void runs()
{
	constexpr fake::Pfn folio = fake::first_folio;
	std::vector<ferry_run> all;
	for (unsigned int i = 1; i < 64; ++i)
		all.push_back({folio + i, i, 1, 0, 0});
	all.push_back({folio + 512, 512, 7, 9, 1});
	all.push_back({folio + 4096, 4096, 16, 2, 0});

	fake::Handover handover;
	ferry_bulk ref = fake::carry_runs(handover, fuzz::first, all);
	write("kho_runs/one-block",
	      fuzz::input(fuzz::fix_blocks, ref, {page_of(handover, fuzz::first)}));

	ferry_run some[] = {{folio + 1, 0, 63, 0, 0}};
	ferry_run more[] = {{folio + 512, 512, 1, 9, 0}, {folio + 1024, 0, 2, 9, 5}};
	ref = fake::carry_runs(handover, fuzz::first, some);
	ferry_bulk second = fake::carry_runs(handover, fuzz::first + 1, more);
	ref.blocks += second.blocks;
	ref.runs += second.runs;
	ref.pages += second.pages;
	std::vector<Bytes> pages{page_of(handover, fuzz::first),
				 page_of(handover, fuzz::first + 1)};
	auto header = [&](int page) {
		return reinterpret_cast<ferry_runs_block *>(pages[page].data());
	};
	header(0)->next = (fuzz::first + 1) * 4096;
	header(1)->seq = 1;
	write("kho_runs/two-blocks", fuzz::input(fuzz::fix_blocks, ref, pages));
	write("kho_runs/golden",
	      fuzz::input(0, {fuzz::first * 4096, 1, 4, 263'691, 0}, {golden("runs-v1.bin")}));
	write("kho_runs/lists",
	      fuzz::input(0, {fuzz::first * 4096, 1, 10, 3084, 0}, {golden("runs-v2.bin")}));
}

void trees()
{
	Bytes tree = golden("tree-v1.bin"), newer = golden("luo-tree-v2.bin");
	write("kho_tree/golden", tree);
	for (unsigned char how : {0, 1, 2, 4, 8, 16, 64, 0xff}) {
		Bytes input{how, static_cast<unsigned char>(how == 1 ? 0 : how)};
		auto seed = [&](const std::string &name, const Bytes &of) {
			Bytes all = input;
			all.insert(all.end(), of.begin(), of.end());
			write(("luo_tree/" + name + std::to_string(how)).c_str(), all);
		};
		seed("how-", tree);
		seed("v2-", newer);
	}
}

Bytes bytes_of(const std::vector<ferry_run> &runs)
{
	auto from = reinterpret_cast<const unsigned char *>(runs.data());
	return {from, from + runs.size() * sizeof(runs[0])};
}

// The machine of kvm_golden_test.cc.
void machines()
{
	fuzz::KvmHead head{};
	head.vm.vcpus = 2;
	head.vm.slots = 3;
	head.vm.tsc_khz = 2'000'000;
	head.vcpu[1].id = 5;
	head.gmem = {128 * 4096, 3};
	std::vector<Bytes> pieces{
		golden("kvm-vm-v1.bin"),
		golden("kvm-vcpu-v1.bin"),
		golden("kvm-slots-v1.bin"),
		bytes_of({{0, 0, 2, 0, 0}, {0, 100, 1, 0, FERRY_RUN_DESCENDING}}),
	};
	for (unsigned char how : {0, 1, 2, 4, 8, 16, 32, 64, 65, 66, 67, 128, 0xff}) {
		head.how = how;
		for (unsigned char fail : {0, 20, 60, 100, 140}) {
			head.fail = fail;
			write(("kvm_state/how-" + std::to_string(how) + "-" + std::to_string(fail))
				      .c_str(),
			      fuzz::kvm_input(head, pieces));
		}
	}
	head.how = head.fail = 0;
	for (unsigned int i = 0; i < pieces.size(); ++i) {
		auto fewer = pieces;
		fewer[i].clear();
		write(("kvm_state/without-" + std::to_string(i)).c_str(),
		      fuzz::kvm_input(head, fewer));
	}
}

} // namespace

int main(int, char **argv)
{
	dir = argv[1];
	root();
	runs();
	trees();
	machines();
	return 0;
}
