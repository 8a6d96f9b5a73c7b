"""scene/photos/gather.py: files, folders and patterns -> photos."""

import os
import tempfile
from pathlib import Path

import pytest

from scene.photos.gather import Inputs
from scene.photos.hints import in_words


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of photos as phones and cameras leave them, as the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("p/b/2.jpg", "p/b/10.JPG", "p/a.png", "p/c.webp", "p/d/e/f.jpeg", "p/B.heic", "p/movie.mp4",
                 "p/.hidden.jpg", "p/.cache/x.jpg", "p/__MACOSX/y.jpg", "p/README", "q[1].jpg",
                 "other/z.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_folders_are_searched_in_the_order_of_names(folder):
    inputs = Inputs(["p"])
    assert inputs.photos() == ["p/B.heic", "p/a.png", "p/b/10.JPG", "p/b/2.jpg", "p/c.webp", "p/d/e/f.jpeg"]
    assert inputs.passed_over == {"hidden": 3, ".mp4": 1, "no suffix": 1} and not inputs.problems
    assert in_words(inputs.passed_over) == "1 .mp4 file, 3 hidden files, 1 file without a suffix"


def test_the_order_is_that_of_the_arguments_and_no_photo_comes_twice(folder):
    inputs = Inputs(["p/d", "p/a.png", "p", "./p/a.png", str(folder / "p/b"), "p/b/../b/2.jpg"])
    assert inputs.photos() == ["p/d/e/f.jpeg", "p/a.png", "p/B.heic", "p/b/10.JPG", "p/b/2.jpg", "p/c.webp"]


def test_a_named_file_is_a_photo_whatever_its_name(folder):
    assert Inputs(["p/README", "none.jpg", "p/.hidden.jpg"]).photos() == [
        "p/README", "none.jpg", "p/.hidden.jpg"]


@pytest.mark.parametrize("pattern, found", [
    ("p/*.png", ["p/a.png"]),
    ("p/b/*", ["p/b/10.JPG", "p/b/2.jpg"]),
    ("p/?.*", ["p/B.heic", "p/a.png", "p/c.webp"]),
    ("p/[a-c].*g", ["p/a.png"]),
    ("p/**/*.jp*g", ["p/__MACOSX/y.jpg", "p/b/2.jpg", "p/d/e/f.jpeg"]),
    ("p/d*", ["p/d/e/f.jpeg"]),                         # a folder
    ("q[1].jpg", ["q[1].jpg"]),                         # a file of this name
])
def test_patterns_that_the_shell_left_alone(folder, pattern, found):
    assert Inputs([pattern]).photos() == found


def test_a_pattern_without_a_match_is_a_problem(folder):
    inputs = Inputs(["p/*.bmp", "p/a.png"])
    assert inputs.photos() == ["p/a.png"]
    assert inputs.problems == [("p/*.bmp", "no file or folder matches this pattern")]


def test_links_in_a_folder_are_not_followed_but_one_that_is_named_is(folder):
    os.symlink(folder / "other", folder / "p/link")
    os.symlink(folder / "other/z.jpg", folder / "p/z.jpg")
    os.symlink(folder / "p", folder / "p/d/loop")
    os.symlink("nowhere.jpg", folder / "p/dangling.jpg")
    os.symlink(folder / "p/d", folder / "named")
    inputs = Inputs(["p"])
    assert not [path for path in inputs.photos() if "z.jpg" in path] and inputs.passed_over["link"] == 4
    inputs = Inputs(["named"])
    assert inputs.photos() == ["named/e/f.jpeg"] and inputs.roots == [str(folder / "p/d")]


def test_names_that_are_not_utf_8_or_hold_line_breaks(folder):
    names = [b"p/x/\xff.jpg", b"p/x/a\nb.jpg", "p/x/ü.jpg".encode()]
    os.mkdir("p/x")
    for name in names:
        open(name, "wb").close()
    assert sorted(map(os.fsencode, Inputs(["p/x"]).photos())) == sorted(names)


def test_roots_are_the_real_folders(folder):
    assert Inputs(["p", "p/a.png", "other/z.jpg"]).roots == [str(folder / "other"), str(folder / "p")]


@pytest.fixture
def user():
    """A folder in which root, too, may only do what an ordinary user may."""
    before = os.geteuid()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:     # where that user may go
        os.chmod(folder, 0o777)
        if before == 0:
            try:
                os.seteuid(65534)
            except OSError:
                pytest.skip("root may read everything, and no other user is known here to become")
        try:
            yield Path(folder)
        finally:
            os.seteuid(before)


def test_a_folder_that_may_not_be_read_is_a_problem_and_not_empty(user):
    for name in "a/1.jpg", "b/2.jpg", "c/3.jpg":
        (user / name).parent.mkdir()
        (user / name).touch()
    (user / "b").chmod(0)
    refused = (f"{user}/b", "cannot be read: Permission denied")
    inputs = Inputs([f"{user}/b"])
    assert (inputs.photos(), inputs.problems, inputs.empty) == ([], [refused], [])
    inputs = Inputs([str(user)])
    assert inputs.photos() == [f"{user}/a/1.jpg", f"{user}/c/3.jpg"]
    assert (inputs.problems, inputs.empty) == ([refused], [])


def test_a_folder_without_photos_is_empty(folder):
    inputs = Inputs(["p/.cache", "p/d", "p/none"])
    (folder / "p/empty").mkdir()
    assert Inputs(["p/empty"]).problems == []
    empty = Inputs(["p/empty"])
    assert (empty.photos(), empty.empty) == ([], ["p/empty"])
    assert inputs.photos() == ["p/.cache/x.jpg", "p/d/e/f.jpeg", "p/none"] and inputs.empty == []


def test_what_was_passed_over_is_counted_in_words():
    found = {"link": 1, "folder": 2, "hidden": 1, "no suffix": 3, ".txt": 1, ".\x1b": 2}
    assert in_words(found) == (
        r"2 .\x1b files, 1 .txt file, 2 folders, 1 hidden file, 1 link, 3 files without a suffix")
    assert in_words({"link": 2, "folder": 1, "no suffix": 1}) == "1 folder, 2 links, 1 file without a suffix"
