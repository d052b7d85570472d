#!/usr/bin/python3
"""Where the time went while a guest stood still: reads what ferry-vmm says after an update.

As a program, it draws that of the last update in a console (the figures are in ms, an SVG):

  scripts/gap.py CONSOLE -o FILE.svg
"""

import argparse
import re
import sys

# Those of both ways; and who works in one. What is not in the second and third line is the VMM's.
STAGES = ("pause", "save", "read", "console", "freeze", "files", "kexec", "kernel", "init", "start", "memory",
          "machine", "load", "devices", "run")
CARRY = ("freeze", "files", "read", "machine", "memory", "load")
KERNEL = ("kexec", "kernel", "init")
COLOURS = {"the VMM": "#4c78a8", "the guest's state and memory": "#e45756", "the kernels": "#bab0ac"}

GAP = re.compile(r"ferry-vmm: the guest stood still for ([\d.]+) ms; its time-stamp counter is off by (-?[\d.]+) us")
STAGE = re.compile(r"ferry-vmm:   (\w+) +(-?[\d.]+) ms, at +(-?[\d.]+) ms  (.*)")


class Gap:
    """One update: how long it was, and its stages as (name, ms, at ms, what), in their order."""

    def __init__(self, ms, tsc_off_us):
        self.ms, self.tsc_off_us, self.stages = ms, tsc_off_us, []

    def of(self, *names):
        """The ms of these stages; those that it did not have took none."""
        return sum(ms for name, ms, _, _ in self.stages if name in names)


def parse(console):
    """All updates of a console."""
    gaps = []
    for line in console.splitlines():
        if found := GAP.search(line):
            gaps.append(Gap(float(found[1]), float(found[2])))
        elif gaps and (found := STAGE.search(line)):
            gaps[-1].stages.append((found[1], float(found[2]), float(found[3]), found[4].strip()))
    return gaps


def party(name):
    return list(COLOURS)[1 if name in CARRY else 2 if name in KERNEL else 0]


def bars(axes, stages):
    """A line for each stage, where and as long as it was."""
    for row, (name, ms, at, _) in enumerate(stages):
        axes.barh(row, ms, left=at, height=0.7, color=COLOURS[party(name)])
        axes.annotate("%.1f" % ms, (at + ms, row), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(stages)), ["%s: %s" % (name, what) for name, _, _, what in stages])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(gap, path):
    import matplotlib
    matplotlib.use("svg")
    # Text stays text, and the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ferry", "font.size": 9})
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    # The kernels take nearly all of it: so the rest once more, as if they took nothing.
    rest, at = [], 0.0
    for name, ms, _, what in gap.stages:
        if name not in KERNEL:
            rest.append((name, ms, at, what))
            at += ms
    figure, (whole, ours) = pyplot.subplots(
        2, figsize=(9, 1.4 + 0.26 * (len(gap.stages) + len(rest))), layout="constrained",
        height_ratios=(len(gap.stages), len(rest)))
    bars(whole, gap.stages)
    bars(ours, rest)
    whole.set_title("The guest stood still for %.0f ms" % gap.ms, loc="left")
    ours.set_title("Without the kernels: %.0f ms" % at, loc="left")
    ours.set_xlabel("ms")
    whole.legend([Patch(color=colour) for colour in COLOURS.values()], COLOURS, loc="lower left", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(prog="scripts/gap.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("console", help="file with what ferry-vmm said")
    parser.add_argument("-o", metavar="FILE", required=True, help="the picture")
    args = parser.parse_args()
    with open(args.console, encoding="utf-8", errors="replace") as text:
        gaps = parse(text.read())
    if not gaps:
        sys.exit("gap.py: %s tells of no update" % args.console)
    draw(gaps[-1], args.o)


if __name__ == "__main__":
    main()
