// SPDX-License-Identifier: GPL-2.0
/*
 * The self-tests that run in the test machine:
 *
 *	ferry-tests uapi|carry1-carry3|veto1|veto2|unload|session|session1-session4|
 *		    kvm|kvm1-kvm6|kvm-unload|hugetlb1|hugetlb2|scratch1|scratch2|pieces1|pieces2|
 *		    dma1-dma4|refused1-refused6|dma-soak1-dma-soak11|traffic1|traffic2|
 *		    kernel [FILTER]
 *	ferry-tests soak STAGE LAST
 *
 * What has a number is the stage before or after a kexec; what stage 1 leaves behind holds
 * the sessions until the jump. With FERRY_LAST in the environment no jump follows, and
 * nothing is left behind. kernel comes last in every stage: did the kernel complain
 * meanwhile?
 */
#include "selftests/kexec/common.hh"

int carry_stage(int stage, const char *filter);
int veto_stage(int stage, const char *filter);
int session_stage(int stage, const char *filter);
int kvm_stage(int stage, const char *filter);
int dma_stage(int stage, const char *filter);
int hugetlb_stage(int stage, const char *filter);
int scratch_stage(int stage, const char *filter);
int pieces_stage(int stage, const char *filter);
int refused_stage(int stage, const char *filter);
int traffic_stage(int stage, const char *filter);
int dma_soak_stage(int stage, const char *filter);
int soak_stage(unsigned stage, unsigned last);
int kernel_cases(const char *filter);

// For "session/kept over exec": does this descriptor lead to the session of that name?
static int session_name(const char *fd, const char *name)
{
	Session session{Fd(std::atoi(fd))};
	auto is = session.name();
	return is && *is == name ? 0 : 1;
}

int main(int argc, char **argv)
{
	std::string what = argc > 1 ? argv[1] : "";
	const char *filter = argc > 2 ? argv[2] : "";
	if (what == "session-name" && argc == 4)
		return session_name(argv[2], argv[3]);
	if (what == "uapi" || what == "unload" || what == "session" || what == "kvm" ||
	    what == "kvm-unload")
		return ktap::run(what, filter);
	if (what.starts_with("carry") && what.size() == 6)
		return carry_stage(what[5] - '0', filter);
	if (what.starts_with("veto") && what.size() == 5)
		return veto_stage(what[4] - '0', filter);
	if (what.starts_with("session") && what.size() == 8)
		return session_stage(what[7] - '0', filter);
	if (what.starts_with("kvm") && what.size() == 4)
		return kvm_stage(what[3] - '0', filter);
	if (what.starts_with("hugetlb") && what.size() == 8)
		return hugetlb_stage(what[7] - '0', filter);
	if (what.starts_with("scratch") && what.size() == 8)
		return scratch_stage(what[7] - '0', filter);
	if (what == "pieces1" || what == "pieces2")
		return pieces_stage(what[6] - '0', filter);
	if (what.starts_with("dma") && what.size() == 4)
		return dma_stage(what[3] - '0', filter);
	if (what.starts_with("refused") && what.size() == 8)
		return refused_stage(what[7] - '0', filter);
	if (what == "traffic1" || what == "traffic2")
		return traffic_stage(what[7] - '0', filter);
	if (what.starts_with("dma-soak"))
		return dma_soak_stage(std::atoi(what.c_str() + 8), filter);
	if (what == "soak" && argc == 4)
		return soak_stage(std::atoi(argv[2]), std::atoi(argv[3]));
	if (what == "kernel")
		return kernel_cases(filter);
	std::fprintf(stderr, "usage: ferry-tests "
			     "uapi|carry1-carry3|veto1|veto2|unload|session|session1-session4|kvm|"
			     "kvm1-kvm6|kvm-unload|hugetlb1|hugetlb2|scratch1|scratch2|pieces1|"
			     "pieces2|dma1-dma4|refused1-refused6|dma-soak1-dma-soak11|traffic1|"
			     "traffic2|kernel [FILTER]\n"
			     "       ferry-tests soak STAGE LAST\n");
	return 2;
}
