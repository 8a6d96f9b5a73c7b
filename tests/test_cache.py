"""scene/photos/cache.py: an entry is what decoding would give, or it does not count."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scene.options import parse
from scene.photos import cache as module
from scene.photos.cache import GROUPS, INDEX, PHOTOS, Cache, make_cache
from scene.photos.folder import load, scan
from scene.photos.pixels import decode_all, size_of
from tests.jobs import forked_job, make_photos

SIZE = 12


@pytest.fixture
def folder(tmp_path):
    """A folder with photos: usable, odd, plain, damaged."""
    make_photos(tmp_path / "photos")
    Image.new("RGB", (30, 30), (9, 200, 9)).save(tmp_path / "photos/dark/plain.png")
    Image.effect_noise((4, 4), 50).convert("RGB").save(tmp_path / "photos/dark/small.png")
    (tmp_path / "photos/light/damaged.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "photos"


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache/scene").mkdir(0o700, parents=True)
    return Cache(str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch):
    """Counts the photos that are decoded, in this process."""
    count = []
    monkeypatch.setattr("scene.processes.cores", lambda: 1)
    decode = module.decode_all

    def counted(paths, size, memory=None):
        count.append(len(paths))
        return decode(paths, size, memory)

    monkeypatch.setattr(module, "decode_all", counted)
    return count


def entries(cache, suffix=""):
    return sorted(name for name in os.listdir(cache.folder) if name.endswith(suffix))


def assert_equal(found, expected):
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.details.tobytes() == expected.details.tobytes()
    assert found[2:] == expected[2:]


def test_the_second_time_nothing_is_decoded(folder, cache, decoded):
    paths = scan(folder).paths
    expected = decode_all(paths, SIZE)
    for _ in range(3):
        assert_equal(cache.decode_all(paths, SIZE), expected)
    assert decoded == [len(paths)]
    assert set(expected.problems) == {paths.index(f"{folder}/light/damaged.jpg")}
    assert expected.oddities == {paths.index(f"{folder}/dark/small.png"): "4x4 pixels, enlarged to 12x12"}


def test_all_that_load_returns_is_the_same(folder, cache):
    first, second, plain = (load([scan(folder)], ["dark", "light"], SIZE, skip_bad=True, cache=each)
                            for each in (cache, cache, None))
    for (photos,), findings in (first, second):
        (expected,), noticed = plain
        assert findings == noticed and photos.paths == expected.paths
        for name in "pixels", "labels", "groups", "hashes":
            np.testing.assert_array_equal(getattr(photos, name), getattr(expected, name))
    assert len(entries(cache, GROUPS)) == 1


def change_time(path):
    os.utime(path, ns=(1, 1))


def change_content(path):
    """Of the same size and modification time: only the system's own time tells."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [change_time, change_content, lambda path: path.rename(f"{path}.png"),
                                    lambda path: path.unlink()])
def test_changed_photos_are_decoded_again(change, folder, cache, decoded):
    cache.decode_all(scan(folder).paths, SIZE)
    change(folder / "dark/plain.png")
    cache.decode_all(scan(folder).paths, SIZE)
    assert len(decoded) == 2 and len(entries(cache, PHOTOS)) == 2


def test_another_size_or_decoder_is_another_entry(folder, cache, decoded):
    paths = scan(folder).paths
    for size in (SIZE, SIZE + 1):
        assert cache.decode_all(paths, size).pixels.shape[1] == size
    cache.version = "of a newer Scene"
    cache.decode_all(paths, SIZE)
    assert len(decoded) == 3 == len(entries(cache, PHOTOS))


def test_by_contents_a_copy_elsewhere_is_the_same_and_a_change_is_not(folder, cache, decoded, tmp_path):
    cache.by_contents = True
    cache.decode_all(scan(folder).paths, SIZE)
    folder.rename(tmp_path / "elsewhere")
    change_time(tmp_path / "elsewhere/dark/plain.png")
    cache.decode_all(scan(tmp_path / "elsewhere").paths, SIZE)
    assert len(decoded) == 1
    change_content(tmp_path / "elsewhere/dark/0.png")
    cache.decode_all(scan(tmp_path / "elsewhere").paths, SIZE)
    assert len(decoded) == 2


@pytest.mark.parametrize("suffix", [PHOTOS, INDEX, GROUPS])
@pytest.mark.parametrize("spoil", ["first", "middle", "last", "cut", "longer", "empty", "gone"])
def test_a_damaged_entry_is_decoded_again(spoil, suffix, folder, cache, decoded, capsys):
    """Every part of every file: pixels, hashes, times, findings and groups."""
    (expected,), noticed = load([scan(folder)], ["dark", "light"], SIZE, skip_bad=True, cache=cache)
    pixels, groups = expected.pixels[:], expected.groups
    path = os.path.join(cache.folder, *entries(cache, suffix))
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if spoil in ("first", "middle", "last"):
        data[{"first": 0, "middle": len(data) // 2, "last": -1}[spoil]] ^= 16
    os.unlink(path)
    if spoil != "gone":
        with open(path, "wb") as file:
            file.write({"cut": data[:-1], "longer": data + b"x", "empty": b""}.get(spoil, data))
    (photos,), findings = load([scan(folder)], ["dark", "light"], SIZE, skip_bad=True, cache=cache)
    np.testing.assert_array_equal(photos.pixels, pixels)
    assert findings == noticed and (photos.groups == groups).all()
    assert len(decoded) == (1 if suffix == GROUPS else 2)
    load([scan(folder)], ["dark", "light"], SIZE, skip_bad=True, cache=cache)
    assert len(decoded) == (1 if suffix == GROUPS else 2), "it was mended"


def test_what_could_not_be_read_is_tried_again(folder, cache, decoded):
    paths = scan(folder).paths
    (folder / "dark/0.png").rename(folder / "gone")
    assert cache.decode_all(paths, SIZE).problems[0] == "cannot be read: No such file or directory"
    assert entries(cache) == [], "nothing is kept"
    (folder / "gone").rename(folder / "dark/0.png")
    assert 0 not in cache.decode_all(paths, SIZE).problems


def test_photos_that_change_meanwhile_are_not_kept(folder, cache, decoded, monkeypatch):
    decode = module.decode_all
    monkeypatch.setattr(module, "decode_all", lambda paths, size, memory=None: (
        change_time(folder / "dark/plain.png"), decode(paths, size, memory))[1])
    assert len(cache.decode_all(scan(folder).paths, SIZE).pixels) == 15
    assert entries(cache) == []


KILLED = """
import os, signal, sys
from scene.photos import cache, folder
decode = cache.decode_all
def killed(*arguments):
    found = decode(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
cache.decode_all = killed
cache.Cache(sys.argv[1]).decode_all(folder.scan(sys.argv[2]).paths, 12)
"""


def test_a_killed_run_leaves_nothing_that_stays(folder, cache, tmp_path):
    command = [sys.executable, "-c", KILLED, tmp_path / "cache", folder]
    assert subprocess.run(command).returncode == -9 and len(entries(cache, ".part")) == 1
    paths = scan(folder).paths
    assert_equal(cache.decode_all(paths, SIZE + 1), decode_all(paths, SIZE + 1))
    assert entries(cache, ".part") == [], "and a run on other photos sweeps it"


def test_the_longest_unused_entries_are_dropped(folder, cache, decoded, capsys):
    paths = scan(folder).paths
    cache.limit = 2.5 * size_of(len(paths), 32)
    for k, size in enumerate((32, 31, 30)):
        cache.used.clear()                              # each as in a run of its own
        cache.decode_all(paths, size)
        for name in entries(cache):
            os.utime(os.path.join(cache.folder, name), (k, k)) if k < 2 else None
        if k == 1:
            cache.decode_all(paths, 32)                 # used again, so it is not the oldest
            capsys.readouterr()
    assert "oldest decoded photos" in capsys.readouterr().out
    decoded.clear()
    cache.decode_all(paths, 32)
    assert decoded == []
    cache.limit = 100
    assert len(cache.decode_all(paths, 29).pixels) == len(paths) and len(entries(cache, PHOTOS)) == 2
    assert not cache.takes(len(paths), 29) and "at most 100 bytes" in cache.room()


def test_no_file_is_dropped_but_old_entries(folder, cache):
    """Somebody's photos in a folder of that name, what another run is building, and this run's own stay."""
    paths = scan(folder).paths
    others = ["holiday.jpg", "f" * 64, "f" * 64 + ".jpg", "f" * 64 + ".photos.0a1b.99.part"]
    for name in others:
        Path(cache.folder, name).write_bytes(bytes(1000))
        os.utime(os.path.join(cache.folder, name), (0, 0))
    cache.limit = 1.5 * size_of(len(paths), SIZE)
    cache.decode_all(paths, SIZE)
    first = set(entries(cache)) - set(others)
    cache.decode_all(paths, SIZE - 1)
    assert set(entries(cache)) == first | set(others), "this run's own entry stays, so there is no room"
    cache.used.clear()
    cache.decode_all(paths, SIZE - 1)
    assert not first & set(entries(cache)) and set(others) < set(entries(cache))


def test_entries_are_dropped_for_room_on_the_disk(folder, cache, monkeypatch):
    paths = scan(folder).paths
    cache.decode_all(paths, SIZE)
    old = entries(cache, PHOTOS)
    cache.used.clear()
    usage = namedtuple("usage", "free")(size_of(len(paths), SIZE + 1) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    cache.decode_all(paths, SIZE + 1)
    assert len(entries(cache, PHOTOS)) == 1 and entries(cache, PHOTOS) != old


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="Linux's way to reserve room on a disk")
def test_a_full_disk_is_no_reason_to_fail(folder, cache, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    paths = scan(folder).paths
    assert_equal(cache.decode_all(paths, SIZE), decode_all(paths, SIZE))
    assert entries(cache) == []
    assert "(No space left on device), so they are in memory" in capsys.readouterr().out


# The command


def options(*words):
    return parse(["train", "test", "FCNN", *map(str, words)])


def test_the_folder_is_the_users_alone_and_said_once(tmp_path, capsys):
    made = make_cache(options("--cache", tmp_path / "new/cache", "--cache-size", 1.5))
    assert made.limit == 1.5e9 and os.stat(made.folder).st_mode & 0o777 == 0o700
    assert capsys.readouterr().out == (
        f"Decoded photos are kept in {tmp_path}/new/cache/scene for the next run, at most 1.5 GB: "
        "--cache-size. Other folders: --cache. None: --no-cache.\n")
    make_cache(options("--cache", tmp_path / "new/cache"))
    assert capsys.readouterr().out == ""
    assert make_cache(options("--no-cache")) is None


def test_a_folder_that_others_can_write_to_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "scene").mkdir(0o777)
    os.chmod(tmp_path / "scene", 0o777)
    with pytest.raises(module.UserError, match="is not yours alone, so others could change the photos in it"):
        make_cache(options("--cache", tmp_path))
    monkeypatch.setenv(module.ENVIRONMENT, str(tmp_path))
    assert make_cache(options()) is None and "not kept for the next run" in capsys.readouterr().out
    (tmp_path / "file").touch()
    monkeypatch.setenv(module.ENVIRONMENT, str(tmp_path / "file"))
    assert make_cache(options()) is None, "a home that cannot be written to is no reason to fail"
    with pytest.raises(OSError):
        make_cache(options("--cache", tmp_path / "file"))


def test_the_model_is_the_same_with_and_without_a_cache(tmp_path, cache):
    for name in ("train", "test"):
        make_photos(tmp_path / name, count=40)
        cache.decode_all(scan(tmp_path / name).paths, 24)
    models = []
    for words in (["--no-cache"], ["--cache", tmp_path / "cache"]):
        command = ["train", "test", "FCNN", "--epochs", 1, "--no-report", *words]
        process = forked_job([*command, "--output", "out"], tmp_path, "log")
        process.join()
        assert process.exitcode == 0, (tmp_path / "log").read_text()
        models.append(json.loads((tmp_path / "out/metrics_FCNN.json").read_text())["model"]["sha256"])
    assert models[0] == models[1] and len(entries(cache, PHOTOS)) == 2
