#!/usr/bin/env python3
"""Tests of selftests/run: what it makes of consoles, and when it begins once more. Reports in KTAP."""

import argparse
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
PATH = os.path.join(os.path.dirname(os.path.realpath(__file__)), "run")
LOADER = importlib.machinery.SourceFileLoader("run", PATH)
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", LOADER))
LOADER.exec_module(run)


def console(*lines, plan=None):
    return "\n".join(["KTAP version 1", "1..%d" % (plan or len([x for x in lines if "ok " in x])), *lines]) + "\n"


def read(text):
    results = run.Results()
    results.read(text)
    return {name: verdict for name, (verdict, _) in results.cases.items()}


class Consoles(unittest.TestCase):
    """What is made of the text on a machine's console."""

    def test_a_case_passes_when_all_of_its_parts_do(self):
        self.assertEqual(read(console("ok 1 a", "ok 2 b") + console("not ok 1 a", "ok 2 b")), {"a": "not ok", "b": "ok"})

    def test_a_skipped_case_is_no_passed_one(self):
        self.assertEqual(read(console("ok 1 a # SKIP no KVM")), {"a": "skip"})

    def test_the_kernel_speaks_in_the_middle_of_a_result(self):
        self.assertEqual(read(console("no[   12.345678] luo: hm", "t ok 1 a")), {"a": "not ok"})

    def test_a_program_that_ends_early(self):
        self.assertIn("not ok", read(console("ok 1 a", plan=2)).values())

    def test_the_remarks_of_a_case_are_its_own(self):
        results = run.Results()
        results.read(console("# of a", "ok 1 a", "# of b", "not ok 2 b"))
        self.assertEqual(results.cases["b"], ("not ok", "of b"))


class Machines(unittest.TestCase):
    """Scenarios, on machines that only leave a log and an exit status behind."""

    said = "vm: FAILED: no end in stage 1 after 300 s: hang\n"
    FINE = (0, console("ok 1 run/a"))
    WRONG = (0, console("# a.cc:1: b", "not ok 1 run/a"))
    COMPLAINED = (0, console("ok 1 run/a", "not ok 2 kernel/no complaint in the log"))

    def run_on(self, name, *machines, see=lambda args: None):
        """The verdicts, the remark, and how many machines it took."""
        left = list(machines)

        def fake(command, **_):
            status, text = left.pop(0)
            with open(command[command.index("--log") + 1], "w") as log:
                log.write(text)
            return subprocess.CompletedProcess(command, status, self.said if status else "")

        real, run.run = run.run, fake
        try:
            with tempfile.TemporaryDirectory() as logs:
                args = argparse.Namespace(flavour="base", lu="ferry", logs=logs, modules=None, filter="")
                results, _, _, _ = run.run_scenario(args, name, [], logs)
                see(args)
        finally:
            run.run = real
        return {verdict for verdict, _ in results.cases.values()}, results.remark, len(machines) - len(left)

    def test_a_machine_that_is_fine(self):
        self.assertEqual(self.run_on("kvm", self.FINE, self.FINE), ({"ok"}, "", 1))

    def test_where_guests_run_a_failure_gets_another_machine(self):
        verdicts, remark, machines = self.run_on("kvm", self.WRONG, self.FINE)
        self.assertEqual((verdicts, machines), ({"ok"}, 2))
        self.assertIn("had a guest that did not go on", remark)

    def test_but_not_a_third_one(self):
        verdicts, _, machines = self.run_on("kvm", self.WRONG, self.WRONG, self.FINE)
        self.assertEqual((verdicts, machines), ({"not ok"}, 2))

    def test_nor_one_where_the_kernel_complained(self):
        oops = "[    1.000000] BUG: kernel NULL pointer dereference\n[    1.000000] RIP: 0010:x+0x1/0x2 [luo_kvm]\n"
        warning = "[    1.000000] WARNING: possible circular locking dependency detected\n"
        for wrong in (self.COMPLAINED, (0, self.WRONG[1] + self.COMPLAINED[1]), (0, self.WRONG[1] + warning),
                      (4, oops + "[    1.000000] Kernel panic - not syncing: Fatal exception\n"),
                      (5, self.FINE[1] + warning)):
            verdicts, _, machines = self.run_on("kvm", wrong, self.FINE)
            self.assertIn("not ok", verdicts)
            self.assertEqual(machines, 1)

    def test_nor_one_that_could_not_be_started_or_left(self):
        for status in (2, 3):
            self.assertEqual(self.run_on("kvm", (status, self.FINE[1]), self.FINE)[2], 1)

    def test_a_host_that_dies_inside_of_kvm(self):
        text = "[    1.000000] BUG: kernel NULL pointer dereference\n[    1.000000] RIP: 0010:a+0x1/0x2 [kvm_amd]\n" \
            "[    1.000000] Kernel panic - not syncing: Fatal exception\n"
        self.assertEqual(self.run_on("kvm", (4, text), self.FINE)[2], 2)
        self.assertEqual(self.run_on("kvm", (4, text + "[    1.000000] BUG: KASAN: x\n"), self.FINE)[2], 1)

    def test_the_consoles_of_the_first_machine_are_kept(self):
        def see(args):
            with open(os.path.join(args.logs, "kvm.log.first")) as text:
                self.assertEqual(text.read(), self.WRONG[1])
            with open(os.path.join(args.logs, "kvm.log")) as text:
                self.assertEqual(text.read(), self.FINE[1])
        self.run_on("kvm", self.WRONG, self.FINE, see=see)

    def test_where_there_are_no_guests_nothing_is_tried_again(self):
        self.assertEqual(self.run_on("carry", self.WRONG, self.FINE), ({"not ok"}, "", 1))

    def test_a_machine_that_does_not_come_to_its_end(self):
        self.assertEqual(self.run_on("carry", (6, console("ok 1 a")), self.FINE)[::2], ({"ok", "not ok"}, 1))

    def test_a_boot_that_does_not_come_to_its_end(self):
        for self.said in ("vm: FAILED: no end before stage 1 after 120 s: hang\n",
                          "vm: FAILED: no end in the jump to stage 2 after 300 s: hang\n"):
            hung = (6, console("ok 1 run/a"))
            verdicts, remark, machines = self.run_on("carry", hung, self.FINE)
            self.assertEqual((verdicts, machines), ({"ok"}, 2))
            self.assertIn("hung in a boot", remark)
            self.assertIn("not ok", self.run_on("carry", hung, hung, self.FINE)[0])
            # What was found until then is not forgotten.
            self.assertEqual(self.run_on("carry", (6, self.WRONG[1]), self.FINE)[2], 1)
            self.assertEqual(self.run_on("carry", (6, hung[1] + "[    1.000000] BUG: KASAN: x\n"), self.FINE)[2], 1)

    def test_a_machine_that_does_not_come_to_its_first_case(self):
        verdicts, remark, machines = self.run_on("tools", (6, "nothing\n"), self.FINE)
        self.assertEqual(machines, 2)
        self.assertIn("hung before its first case", remark)
        self.assertEqual(self.run_on("tools", (6, console("ok 1 a")), self.FINE)[2], 1)
        self.assertEqual(self.run_on("tools", (6, "[    1.000000] BUG: KASAN: x\n"), self.FINE)[2], 1)

    def test_a_machine_without_cases(self):
        self.assertEqual(self.run_on("carry", (0, "nothing\n"), self.FINE), ({"not ok"}, "", 1))


class Ktap(unittest.TextTestResult):
    def addSuccess(self, test):
        super().addSuccess(test)
        print("ok %d %s" % (self.testsRun, test.id().split(".", 1)[1]))

    def addFailure(self, test, err):
        super().addFailure(test, err)
        print("not ok %d %s" % (self.testsRun, test.id().split(".", 1)[1]))

    addError = addFailure


if __name__ == "__main__":
    tests = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    print("KTAP version 1\n1..%d" % tests.countTestCases())
    done = unittest.TextTestRunner(resultclass=Ktap, verbosity=0).run(tests)
    sys.exit(0 if done.testsRun and done.wasSuccessful() else 1)
