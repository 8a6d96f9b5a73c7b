"""Mutation testing: does a test notice when a line is wrong?

    python -m tests.mutate MODULE TESTS... [--only EXPRESSION] [--minutes 10]

For example `python -m tests.mutate scene/nn/norm.py tests/nn/test_norm.py tests/nn/test_laws.py`. Changes one
thing in the module at a time (an operator, a comparison, a constant, a condition, a default), in a copy of
the checkout, and runs the tests, which stop at the first failure. Each mutant has a process of its own,
forked from one that has imported torch already. A mutant that no test kills is printed: a test is missing, or
the change makes no difference. Mutants come in random order, the same every time, until the time is up.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import hypothesis  # noqa: F401  it and torch take seconds to import: once here, and not in every fork
import pytest
import torch  # noqa: F401

ROOT = Path(__file__).parent.parent
LONGEST = 120               # seconds for the tests of one mutant
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
    ast.USub: ast.UAdd,
}


def mutants(source):
    """Yields (line, what was changed, the changed source) for every mutant of a module."""
    tree = ast.parse(source)
    for i, node in enumerate(nodes(tree)):
        for change in changes(node):
            mutant = copy.deepcopy(tree)
            twin = nodes(mutant)[i]
            before = ast.unparse(twin)
            change(twin)
            after = ast.unparse(twin)
            if after != before:
                yield node.lineno, f"{before}  ->  {after}", ast.unparse(ast.fix_missing_locations(mutant))


def nodes(tree):
    """All nodes that do something: annotations do nothing, and `strict` only guards against other faults."""
    found = []
    waiting = [tree]
    for node in waiting:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns") or isinstance(node, ast.keyword) and node.arg == "strict":
                continue
            children = [each for each in (value if isinstance(value, list) else [value])
                        if isinstance(each, ast.AST)]
            found += children
            waiting += children
    return found


def changes(node):
    """The ways to make one node wrong: functions that change a copy of it."""
    if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        yield lambda twin: setattr(twin, "op", SWAPPED[type(twin.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield lambda twin: twin.ops.__setitem__(0, SWAPPED[type(twin.ops[0])]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda twin: setattr(twin, "value", twin.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield lambda twin: setattr(twin, "value", not twin.value)
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield lambda twin: setattr(twin, "test", ast.UnaryOp(ast.Not(), twin.test))
    if isinstance(node, ast.Return) and node.value is not None:
        yield lambda twin: setattr(twin, "value", ast.Constant(None))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield lambda twin: setattr(twin, "value", ast.Constant(None))


def copy_checkout(folder):
    """A copy of the checkout's files in which modules can be changed."""
    left_out = (".git", ".venv", "build", "__pycache__", ".hypothesis", ".pytest_cache", "bucket")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)


def survives(folder, tests):
    """Whether all tests pass in the copy, in a forked process. A time-out counts as a failure."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:     # a process may still write
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setpgid(0, 0)
                code = run_tests(folder, scratch, tests)
            finally:                        # whatever a mutant raises, only the parent deletes folders
                os._exit(code)
        end = time.monotonic() + LONGEST
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status == 0
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False


def run_tests(folder, scratch, tests):
    """Runs pytest on the copy, in this process, which has not imported anything of Scene yet.

    scratch: a folder for what the tests write, since this process ends without deleting anything.
    """
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": scratch}
    tempfile.tempdir = None                 # read TMPDIR again
    sys.dont_write_bytecode = True
    os.chdir(folder)
    sys.path[:] = [str(folder), *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "scene")]:
        del sys.modules[name]
    with open(os.devnull, "r+b") as nothing:
        for stream in 0, 1, 2:
            os.dup2(nothing.fileno(), stream)
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def run(module, tests, minutes):
    """Prints the mutants that survive, and how many were killed."""
    source = (ROOT / module).read_text(encoding="utf-8")
    found = list(mutants(source))
    random.Random(0).shuffle(found)
    end = time.monotonic() + 60 * minutes
    killed = tried = 0
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(folder)
        path = Path(folder, module)
        if not survives(folder, tests):
            sys.exit(f"{' '.join(tests)} fail without any mutant: fix that first.")
        for line, change, text in found:
            if time.monotonic() > end:
                break
            path.write_text(text, encoding="utf-8")
            tried += 1
            if survives(folder, tests):
                print(f"survived  {module}:{line}  {change}", flush=True)
            else:
                killed += 1
    print(f"{killed} of {tried} mutants killed, of {len(found)} that there are.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutate",
        description="Change a module in one place at a time, and list the changes that no test notices.")
    parser.add_argument("module", metavar="MODULE", help="the file to change, scene/nn/norm.py say")
    parser.add_argument("tests", metavar="TESTS", nargs="+", help="the tests to run on each mutant")
    parser.add_argument("--minutes", metavar="N", type=float, default=10, help="when to stop (default: 10)")
    parser.add_argument("--only", metavar="EXPRESSION", help="of the tests, those that pytest -k selects")
    options = parser.parse_args()
    run(options.module, [*options.tests, *(["-k", options.only] if options.only else [])], options.minutes)
