"""Every defect in the zoo is reported, every sound photo is used, and no folder is changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import unprivileged
from tests.zoo import BAD, GOOD, NO_PHOTOS, ODD, SETS, SOUND, ZOO, build, look

ROOT = Path(__file__).parent.parent


def state(root):
    """Every file and folder with its kind, permissions, size, times (but for the last access) and bytes."""
    found = {}
    for path in [root, *root.rglob("*")]:
        s = path.lstat()
        data = path.read_bytes() if path.is_file() and s.st_size < 10**6 else None
        found[path] = s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, data
    return found


def with_skip_bad(line):
    """The line of the table with --skip-bad: an error in a photo, not in a folder, becomes "skipped"."""
    where = line.removeprefix("error").split(": ")[0]
    return line.replace("error  ", "skipped", 1) if line.startswith("error") and Path(where).suffix else line


def test_the_zoo_is_large_and_the_sound_data_set_sound(tmp_path, monkeypatch):
    assert len(ZOO) >= 90
    build(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert look() == ([], len(SOUND), {})


@pytest.mark.parametrize("name", [name for name, kind in ZOO.items() if not kind.permissions])
def test_a_defect_is_reported(name, tmp_path, monkeypatch):
    build(tmp_path, name)
    before = state(tmp_path)
    monkeypatch.chdir(tmp_path)
    kind = ZOO[name]
    for skip_bad, expected in (False, kind.report), (True, [with_skip_bad(line) for line in kind.report]):
        report, used, passed_over = look(skip_bad)
        assert report == expected
        assert used == (0 if report and report[0].startswith("error") else len(SOUND) + kind.used)
        assert passed_over == kind.passed_over
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", [name for name, kind in ZOO.items() if kind.permissions])
def test_a_lack_of_permission_is_reported(name, tmp_path):
    """In a process without root's right to read everything, even if root runs the tests."""
    command = [sys.executable, "-c", "import json; from tests.zoo import look; print(json.dumps(look()[0]))"]
    build(tmp_path, name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = unprivileged(command)
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    for path in tmp_path.rglob("*"):
        path.chmod(0o700)           # so that pytest can delete it
    assert json.loads(result.stdout) == ZOO[name].report


# The command, on many defects at once


def train(cwd, *options):
    command = [sys.executable, "-m", "scene.main", "train", "test", "FCNN", "--epochs", "1", *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def many(tmp_path):
    build(tmp_path, *BAD, *GOOD, *ODD, "photo_in_two_classes_of_train", "what_computers_leave_behind")
    return tmp_path


def test_all_errors_are_said_before_training(many):
    before = state(many)
    result = train(many, "--output", "..")
    assert result.returncode == 2 and "Settings" not in result.stdout
    *lines, advice = result.stderr.splitlines()
    verdicts = [line.split()[0] for line in lines]
    assert verdicts == ["error"] * len(BAD) + ["warning"] * 2 + ["accepted"] * len(ODD)
    assert set(lines[:len(BAD)]) == {ZOO[name].report[0] for name in BAD}
    assert advice == f"With --skip-bad, photos that cannot be used are left out: {len(BAD)} of them."
    assert state(many) == before and not (many.parent / "model_FCNN").exists()


def test_training_without_the_bad_photos(many, tmp_path_factory):
    before = state(many)
    output = tmp_path_factory.mktemp("output")
    result = train(many, "--skip-bad", "--output", output)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout[:result.stdout.index("Settings")].splitlines()
    skipped = [with_skip_bad(ZOO[name].report[0]) for name in BAD]
    assert set(lines) >= {*skipped, *(line for line in lines if line.startswith("accepted"))}
    findings = json.loads((output / "metrics_FCNN.json").read_text())["findings"]
    written = [f"{f['verdict']:9} {f['where']}: {f['what']}." for f in findings if f["verdict"] == "skipped"]
    assert written == sorted(skipped)
    assert state(many) == before

    for name in BAD:                    # without these files at all: the same model
        where = ZOO[name].report[0].removeprefix("error").split(": ")[0].strip()
        (many / where).unlink()
    again = tmp_path_factory.mktemp("again")
    assert train(many, "--output", again).returncode == 0
    assert (again / "model_FCNN").read_bytes() == (output / "model_FCNN").read_bytes()


def test_a_trained_model_is_tested_without_the_bad_photos(tmp_path):
    build(tmp_path)
    assert train(tmp_path).returncode == 0
    (tmp_path / "test/road/0.jpg").write_bytes(b"")
    result = train(tmp_path, "--load-model", "model_FCNN")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "error     test/road/0.jpg: the file is empty."
    result = train(tmp_path, "--load-model", "model_FCNN", "--skip-bad")
    assert result.returncode == 0
    assert "skipped   test/road/0.jpg: the file is empty.\n" in result.stdout
    assert json.loads((tmp_path / "evaluation_FCNN.json").read_text())["photos"] == len(SOUND) // 2 - 1


@pytest.mark.parametrize("part", SETS)
def test_a_class_without_one_good_photo_is_an_error(part, tmp_path):
    build(tmp_path)
    for path in (tmp_path / part / "road").iterdir():
        path.write_bytes(b"")
    for name in SETS:
        (tmp_path / name / "sky").mkdir()
    result = train(tmp_path, "--skip-bad")
    assert result.returncode == 2
    unusable = "none of its photos can be used: add others, or move the folder elsewhere"
    assert result.stderr.splitlines() == [
        *(f"error     {name}/sky: {NO_PHOTOS}." for name in SETS),
        f"error     {part}/road: {unusable}.",
        *(f"skipped   {part}/road/{i}.jpg: the file is empty." for i in range(3))]
