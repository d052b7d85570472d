// SPDX-License-Identifier: GPL-2.0
// A NIC that receives numbered frames while its host gets a new kernel: what arrived, when it was
// sent, and what was done meanwhile. For people, and for scripts/traffic.py, which measures and
// draws what this prints:
//
//	TRAFFIC frames [[NUMBER, SENT], ...]	each tenth frame
//	TRAFFIC gap {"from": SENT, "to": SENT}	frames are missing in between
//	TRAFFIC event {"name": ..., "at": ...}
//	TRAFFIC clock {"at": ..., "sent": ...}	a frame that came right now
//	TRAFFIC total {"received": ..., "lost": ...}
//
// SENT is by the sender's clock, AT the time since the boot of a kernel; both in nanoseconds. A
// clock belongs to the events before it.
#include <ctime>
#include <optional>

#include "selftests/kexec/dma.hh"

namespace {

using dma::Iommufd;
using dma::Memory;
using dma::Pci;
using dma::Receiver;

enum : uint64_t { MEMORY = 1, IOMMUFD = 2, DEVICE = 3 };
constexpr const char *session_name = "traffic";
// Until what QEMU has in store is through: it keeps that many frames.
constexpr unsigned warm_up = 400;

uint64_t now()
{
	timespec time;
	SYS(::clock_gettime(CLOCK_BOOTTIME, &time));
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

void event(const char *name, uint64_t at = now())
{
	ktap::print("TRAFFIC event {\"name\": \"%s\", \"at\": %lu}", name, at);
}

// Whoever carries devices carries this one; the other carries its memory only.
bool carries_devices()
{
	return ::access("/dev/liveupdate_vfio", F_OK) == 0;
}

// The last one came right now.
void receive(Receiver &nic, unsigned frames)
{
	nic.look();
	const auto goal = nic.received + frames;
	const auto start = now();
	while (nic.received < goal) {
		REQUIRE(now() - start < 60'000'000'000);
		::usleep(1000);
		nic.look();
	}
}

// Prints what a receiver sees.
class Log {
    public:
	Log(Receiver &nic, uint32_t next) : nic_(nic), next_(next)
	{
		nic.seen = [this](uint32_t number, uint64_t sent) {
			if (number != next_ && last_)
				ktap::print("TRAFFIC gap {\"from\": %lu, \"to\": %lu}", last_->sent,
					    sent);
			if (number % 10 == 0)
				add({number, sent});
			next_ = number + 1;
			last_ = {number, sent};
		};
	}
	~Log()
	{
		flush();
		nic_.seen = nullptr;
	}
	void clock()
	{
		receive(nic_, 1);
		REQUIRE(last_);
		ktap::print("TRAFFIC clock {\"at\": %lu, \"sent\": %lu}", now(), last_->sent);
	}

    private:
	struct Frame {
		uint32_t number;
		uint64_t sent;
	};

	void add(const Frame &frame)
	{
		text_ += (text_.empty() ? "[" : ", [") + std::to_string(frame.number) + ", " +
			 std::to_string(frame.sent) + "]";
		if (text_.size() > 800)
			flush();
	}
	void flush()
	{
		if (!text_.empty())
			ktap::print("TRAFFIC frames [%s]", text_.c_str());
		text_.clear();
	}

	Receiver &nic_;
	uint32_t next_;
	std::optional<Frame> last_;
	std::string text_;
};

BEFORE("traffic/a NIC that goes on, or is started anew")
{
	dma::need_machine();
	auto memory = Memory::create(16 * MiB);
	Iommufd iommufd;
	iommufd.map(memory);
	Pci device(dma::nic, iommufd);
	device.attach(iommufd.hwpt(device.id()));
	device.master();
	device.map_registers();
	Receiver nic(memory, 0);
	nic.start(device);
	receive(nic, warm_up);
	nic.recycle(device);
	nic.lost = nic.received = 0;
	Log log(nic, nic.next);
	receive(nic, 200);
	auto session = VALUE(stage.device.create(session_name));
	event("preserve");
	OK(session.preserve(memory.fd().get(), MEMORY));
	if (carries_devices()) {
		OK(session.preserve(iommufd.fd().get(), IOMMUFD));
		OK(session.preserve(device.fd().get(), DEVICE));
	}
	receive(nic, 200);
	event("reboot(2)");
	log.clock();
	stage.note("received", nic.received);
	stage.note("lost", nic.lost);
	stage.note("slot", nic.slot);
	stage.note("next", nic.next);
	Stage::keep(std::move(session));
	Stage::keep(std::move(memory));
	Stage::keep(std::move(iommufd));
	Stage::keep(std::move(device));
}

AFTER()
{
	event("the next kernel", 0);
	event("its first program");
	auto session = VALUE(stage.device.retrieve(session_name));
	Memory memory(VALUE(session.retrieve(MEMORY)));
	Receiver nic(memory, 0);
	nic.received = stage.number("received");
	nic.lost = stage.number("lost");
	nic.slot = stage.number("slot");
	nic.next = stage.number("next");
	Log log(nic, nic.next);
	nic.look();
	std::optional<Pci> device;
	if (carries_devices()) {
		Iommufd iommufd(VALUE(session.retrieve(IOMMUFD)));
		device.emplace(dma::nic, VALUE(session.retrieve(DEVICE)), iommufd);
		event("retrieved");
		iommufd.map(memory);
		device->attach(iommufd.hwpt(device->id()));
		event("new page tables");
		Stage::keep(std::move(iommufd));
	} else {
		// As a VMM whose device is gone: it is bound, reset, and set up from the beginning.
		Iommufd iommufd;
		iommufd.map(memory);
		device.emplace(dma::nic, iommufd);
		device->attach(iommufd.hwpt(device->id()));
		device->master();
		device->map_registers();
		nic.slot = 0;
		event("set up anew");
		nic.start(*device);
		Stage::keep(std::move(iommufd));
	}
	receive(nic, warm_up);
	OK(session.finish());
	event("finish");
	receive(nic, 200);
	log.clock();
	CHECK_EQ(dma::faults(dma::nic), 0);
	if (carries_devices())
		CHECK_EQ(nic.lost, 0);
	ktap::print("TRAFFIC total {\"received\": %lu, \"lost\": %lu}", nic.received, nic.lost);
}

} // namespace

int traffic_stage(int stage, const char *filter)
{
	return run_stage(stage, "traffic/", filter);
}
