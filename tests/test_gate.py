"""tests/conftest.py's gate: each kind of skip is a failure with SCENE_GATE=1, and runs share the files."""

import os
import subprocess
import sys

import pytest

from tests.runtime import ROOT

SKIPS = """
import pytest

@pytest.fixture
def missing():
    pytest.skip("no such program")

def test_with_fixture(missing):
    pass

@pytest.mark.skipif(True, reason="not on this system")
def test_with_mark():
    pass

@pytest.mark.parametrize("value", [pytest.param(1, marks=pytest.mark.skip("not this value"))])
def test_with_parameter(value):
    pass

def test_inside():
    pytest.skip("not today")

@pytest.mark.xfail
def test_expected_to_fail():
    assert False

def test_good():
    pass
"""
IMPORTS = """
import pytest

pytest.importorskip("no_such_module", reason="needs no_such_module")

def test_never_collected():
    pass
"""
REASONS = ["no such program", "not on this system", "not this value", "not today", "needs no_such_module"]


def run(folder, **variables):
    """(exit code, output) of pytest with conftest.py's hooks, on the two files above."""
    (folder / "test_skips.py").write_text(SKIPS)
    (folder / "test_imports.py").write_text(IMPORTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name != "SCENE_GATE"}
    environment |= {"PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--continue-on-collection-errors"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout


def test_without_the_gate_skips_are_fine(tmp_path):
    code, output = run(tmp_path)
    assert code == 0 and "1 passed, 5 skipped, 1 xfailed" in output, output


def test_with_the_gate_every_skip_fails_and_nothing_else(tmp_path):
    code, output = run(tmp_path, SCENE_GATE="1")
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "1 failed, 1 passed, 1 xfailed, 4 errors" in output, output
    for reason in REASONS:
        assert f": skipped, which SCENE_GATE=1 does not allow: {reason}\n" in output, output



def test_runs_that_share_the_tests_run_each_file_once(tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "share/test_imports.py").touch()
    results = [run(tmp_path, SCENE_SHARE=str(tmp_path / "share")) for _ in range(2)]
    (tmp_path / "share/test_skips.py").unlink()
    results.append(run(tmp_path, SCENE_SHARE=str(tmp_path / "share")))
    assert [("1 passed, " in output, "xfailed" in output) for _, output in results] == [
        (True, True), (False, False), (True, True)], results
