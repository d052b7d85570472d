#!/usr/bin/python3
"""A NIC that belongs to a guest receives numbered frames while its host gets a new kernel: were all received?

It prints a table of the frames and of what was done meanwhile, and draws the numbers over the time. The
sender runs beside the machine, and sends 250 frames a second; each has its number, and the time at which
it was sent.

With --lu mainline the memory alone is carried, and the device is set up from the beginning by its next
owner: as a VMM has to do it there.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
STAGES = ["ferry-tests traffic1", "ferry-tests traffic2"]
LINE = re.compile(r"TRAFFIC (\w+) ([\[{].*[\]}])")


def selftests_run():
    """selftests/run, which has the machine with the devices, and its program."""
    loader = importlib.machinery.SourceFileLoader("selftests_run", ROOT + "/selftests/run")
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Traffic:
    """What one run said. Times are of the sender's clock, in seconds since the first frame."""

    def __init__(self, console):
        self.frames, self.events, self.gaps, self.total, waiting = [], [], [], None, []
        for kind, text in LINE.findall(console):
            what = json.loads(text)
            if kind == "frames":
                self.frames += what
            elif kind == "gap":
                self.gaps.append((what["from"], what["to"]))
            elif kind == "total":
                self.total = what
            elif kind == "event":
                waiting.append(what)
            elif kind == "clock":
                # A frame that came right now: what is that by the sender's clock? For all events of a kernel.
                self.events += [(each["name"], each["at"] + what["sent"] - what["at"]) for each in waiting]
                waiting = []
        if self.total is None or not self.frames or waiting:
            raise ValueError("the machine did not say what it received")
        start = self.frames[0][1]
        self.frames = [(number, (sent - start) / 1e9) for number, sent in self.frames]
        self.events = [(name, (at - start) / 1e9) for name, at in self.events]
        self.gaps = [((begin - start) / 1e9, (end - start) / 1e9) for begin, end in self.gaps]

    def gap(self):
        """The longest time without a frame, in seconds: where none is missing, the time between two."""
        (first, begin), (last, end) = self.frames[0], self.frames[-1]
        # What was sent before the device is set up, and kept by somebody, comes late.
        anew = dict(self.events).get("set up anew", 0)
        return max((max(to, anew) - since for since, to in self.gaps), default=(end - begin) / (last - first))


def run(side, *options):
    """One update; what the console said, and whether all went well."""
    tests = selftests_run()
    command = [ROOT + "/scripts/vm", "--lu", side, "--mem", "1G", "--bin",
               tests.build_tests(ROOT + "/build/kselftest/bin"), *options]
    for number, stage in enumerate(STAGES, 1):
        command += ["--stage%d" % number, stage]
    with tempfile.TemporaryDirectory() as folder:
        with tests.Devices(argparse.Namespace(logs=folder, lu=side, flavour="base"), "traffic") as machine:
            done = subprocess.run(command + machine.options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, errors="replace")
    return done.stdout, done.returncode == 0


def show(traffic):
    print("  %-28s %10s %16s" % ("", "at", "frames until then"))
    for name, at in traffic.events:
        last = max([number for number, sent in traffic.frames if sent <= at], default=0)
        print("  %-28s %8.3f s %16d" % (name, at, last - traffic.frames[0][0]))
    print("  %-28s %10d" % ("received", traffic.total["received"]))
    print("  %-28s %10d" % ("lost", traffic.total["lost"]))
    print("  %-28s %10.1f ms" % ("longest time without one", 1000 * traffic.gap()))


def draw(traffic, path):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ferry", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    first = traffic.frames[0][0]
    axes.plot([sent for _, sent in traffic.frames], [number - first for number, _ in traffic.frames], ".",
              markersize=2, color="#4c78a8", label="a frame in the guest's memory (each tenth is drawn)")
    times = dict(traffic.events)
    axes.axvspan(times["reboot(2)"], times["its first program"], color="#bab0ac", alpha=0.4,
                 label="no program runs: the old kernel leaves, the new one boots")
    top = traffic.frames[-1][0] - first
    for row, (name, at) in enumerate(traffic.events):
        axes.axvline(at, color="#e45756", linewidth=0.8)
        axes.annotate(name, (at, top * (1 - 0.07 * row)), xytext=(3, 0), textcoords="offset points", fontsize=8)
    axes.set_xlabel("s")
    axes.set_ylabel("number of the frame")
    axes.set_title("%d frames received, %d lost" % (traffic.total["received"], traffic.total["lost"]))
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(prog="scripts/traffic.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lu", choices=["ferry", "mainline"], default="ferry", help="who carries (ferry)")
    parser.add_argument("--log", metavar="CONSOLE", help="read what a run has said, and run nothing")
    parser.add_argument("-o", metavar="FILE", default=ROOT + "/build/demo/traffic.svg",
                        help="where the picture goes (build/demo/traffic.svg)")
    args, options = parser.parse_known_args()
    if args.log:
        with open(args.log, errors="replace") as text:
            said, good = text.read(), True
    else:
        print("traffic: a NIC receives while its host gets a new kernel; this takes half a minute", flush=True)
        said, good = run(args.lu, *options)
    try:
        traffic = Traffic(said)
    except ValueError as error:
        sys.exit("%s\ntraffic: %s" % (said, error))
    show(traffic)
    os.makedirs(os.path.dirname(os.path.abspath(args.o)), exist_ok=True)
    draw(traffic, args.o)
    print("  picture: " + os.path.relpath(args.o))
    if not good or (args.lu == "ferry" and traffic.total["lost"]):
        sys.exit("traffic: FAILED: %s" % said.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
