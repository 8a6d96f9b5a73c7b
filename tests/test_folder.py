"""scene/folder.py: what is in the folders, every defect at once, and the pixels with the right labels."""

import contextlib
import io
import os
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scene import folder, photo
from scene.command import printable
from scene.folder import DataError, check, check_test, load, scan

COLORS = {"ocean": (0, 60, 220), "road": (90, 90, 90), "grass": (40, 200, 30)}


def jpeg(color=(120, 130, 140), kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", (20, 16), color).save(file, kind)
    return file.getvalue()


def plant(root, **classes):
    """Folders of photos: plant(root, ocean=["a.jpg"]) writes root/ocean/a.jpg in the colour of the ocean."""
    for name, files in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            (root / name / file).write_bytes(jpeg(COLORS.get(name, (9, 9, 9))))
    return root


@pytest.fixture
def train(tmp_path):
    return plant(tmp_path / "train", road=["1.jpg", "2.jpg"], grass=["a.jpg"], ocean=["z.jpg", "b.jpg", "m.jpg"])


@pytest.fixture
def test(tmp_path):
    return plant(tmp_path / "test", ocean=["1.jpg"], road=["1.jpg"], grass=["1.jpg"])


def problems(train, test, using=check):
    """What is wrong with the folders, and `load` raises it all."""
    found, _ = using(train, test)
    listings = [listing for listing in (train, test) if not isinstance(listing, list)]
    assert unusable(listings, ["grass", "ocean", "road"], found)[:len(found)] == found
    return found


def unusable(listings, classes, problems=()):
    with pytest.raises(DataError) as caught:
        load(listings, classes, 8, problems)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


# Looking


def test_classes_and_files_are_sorted_by_name(train, monkeypatch):
    listdir = os.listdir
    expected = {
        "grass": [f"{train}/grass/a.jpg"],
        "ocean": [f"{train}/ocean/{name}.jpg" for name in "bmz"],
        "road": [f"{train}/road/{name}.jpg" for name in "12"],
    }
    for order in (sorted, lambda names: sorted(names, reverse=True)):
        monkeypatch.setattr(os, "listdir", lambda path, order=order: order(listdir(path)))
        found = scan(train)
        assert (found.photos, list(found.photos)) == (expected, ["grass", "ocean", "road"])
        assert found.classes == ["grass", "ocean", "road"]
        assert found.paths == expected["grass"] + expected["ocean"] + expected["road"]
        assert (found.problems, found.notes, found.skipped) == ([], [], {})


def test_suffixes_in_any_case(tmp_path):
    good = ["a.jpg", "b.JPG", "c.Jpeg", "d.jpe", "e.JFIF", "f.mpo", "g.PNG", "h.webp"]
    bad = ["i.gif", "j.GIF", "k.txt", "Thumbs.db", "README", "l.jpg.part", ".hidden.jpg", ".DS_Store"]
    found = scan(plant(tmp_path, ocean=good + bad, road=["a.jpg"]))
    assert [os.path.basename(path) for path in found.photos["ocean"]] == good
    assert found.skipped == {".gif": 2, ".txt": 1, ".db": 1, "no suffix": 1, ".part": 1, "hidden": 2}
    assert found.problems == found.notes == []


def test_hidden_folders_are_no_classes(train):
    plant(train, **{".ipynb_checkpoints": ["a.jpg"], "__MACOSX": ["a.jpg"]})
    plant(train / "ocean", **{".ipynb_checkpoints": ["a.jpg"]})
    found = scan(train)
    assert found.classes == ["grass", "ocean", "road"]
    assert found.skipped == {"hidden": 3} and found.notes == []


def test_notes_on_what_is_passed_over(train):
    plant(train, **{"": ["loose.jpg"]})
    plant(train / "ocean", deep=["a.jpg"])
    plant(train / "road", deep=["a.jpg"], deeper=["a.jpg"])
    for name in ("1.heic", "2.HEIC", "3.heif"):
        (train / "grass" / name).write_bytes(b"?")
    found = scan(train)
    assert found.notes == [
        f"{train}/ocean: passed over 1 folder inside the class: move their photos up into it.",
        f"{train}/road: passed over 2 folders inside the class: move their photos up into it.",
        f"{train}: passed over 1 photo beside the class folders: move them into their classes.",
        f"{train}: passed over 3 HEIC photos: export them as JPEG; a phone takes JPEG once its camera is set to "
        "Most Compatible.",
    ]
    assert found.skipped == {"folder": 3, ".heic": 2, ".heif": 1}
    assert len(found.paths) == 6


def test_linked_folders_and_loops(train, tmp_path):
    plant(tmp_path / "elsewhere", sky=["a.jpg"])
    (train / "sky").symlink_to(tmp_path / "elsewhere" / "sky")
    (train / "ocean" / "loop").symlink_to(train)
    found = scan(train)
    assert found.photos["sky"] == [f"{train}/sky/a.jpg"]
    assert found.skipped == {"folder": 1}


def test_scanning_changes_nothing(train):
    before = {path: path.stat() for path in train.rglob("*")}
    load([scan(train)], ["grass", "ocean", "road"], 8)
    for path, status in before.items():
        assert (path.stat().st_mtime_ns, path.stat().st_size) == (status.st_mtime_ns, status.st_size)


# Checking


def test_good_folders(train, test):
    assert check(scan(train), scan(test)) == ([], [])
    assert check_test(["grass", "ocean", "road"], scan(test)) == ([], [])


def test_missing_folder_and_file_instead_of_folder(train, tmp_path):
    file = train / "ocean" / "b.jpg"
    assert problems(scan(tmp_path / "nowhere"), scan(file)) == [
        f"{tmp_path}/nowhere does not exist: check the path.",
        f"{file} is not a folder: give one that holds a folder of photos for each class.",
    ]


def test_unreadable_folders(train, test, monkeypatch):
    """Permissions do not stop root, under whom tests may run: the refusal is played."""
    readable = os.listdir
    refused = [f"{train}/road"]

    def listdir(path):
        if str(path) in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return readable(path)

    monkeypatch.setattr(os, "listdir", listdir)
    sentence = f"{train}/road cannot be read: Permission denied."
    assert problems(scan(train), scan(test)) == [sentence]  # and no word on TEST's road, which TRAIN has after all
    refused.append(str(test))
    assert problems(scan(train), scan(test)) == [sentence, f"{test} cannot be read: Permission denied."]


def test_no_classes(tmp_path, test):
    plant(tmp_path / "flat", **{"": ["a.jpg", "b.jpg"]})
    flat = scan(tmp_path / "flat")
    expected = f"{tmp_path}/flat holds no class folders: make a folder of photos for each class in it."
    assert problems(flat, scan(test)) == [expected]
    assert problems(scan(test), flat) == [expected]
    assert flat.notes == [
        f"{tmp_path}/flat: passed over 2 photos beside the class folders: move them into their classes."
    ]


def test_one_class(tmp_path, test):
    one = scan(plant(tmp_path / "one", ocean=["a.jpg"]))
    assert problems(one, one) == [
        f"{tmp_path}/one holds one class only, ocean: add a folder for what is not ocean."
    ]
    found, warnings = check(scan(test), one)                # TEST may hold one class
    assert found == []
    assert warnings == [f"{tmp_path}/one has no photos of {name}: it is not tested." for name in ("grass", "road")]


def test_empty_class(train, test):
    for root in (train, test):
        (root / "sky").mkdir()
        (root / "sky" / "notes.txt").write_text("none yet")
    advice = "put JPEG, PNG or WebP files in it, or delete the folder"
    assert problems(scan(train), scan(test)) == [f"{root}/sky holds no photos: {advice}." for root in (train, test)]


def test_class_that_train_lacks(train, test):
    plant(test, sky=["a.jpg"], Ocean=["a.jpg"])
    assert problems(scan(train), scan(test)) == [
        f"{test}/Ocean: in {train} this class is spelt ocean: rename one of them.",
        f"{test}/sky: {train} has no class of this name: rename the folder, or delete it.",
    ]


def test_class_that_the_model_lacks(test):
    assert problems(["ocean", "Road"], scan(test), using=check_test) == [
        f"{test}/grass: the model has no class of this name: rename the folder, or delete it.",
        f"{test}/road: in the model this class is spelt Road: rename one of them.",
    ]


def test_class_without_test_photos_is_a_warning(train, tmp_path):
    test = scan(plant(tmp_path / "few", ocean=["1.jpg"]))
    expected = [f"{tmp_path}/few has no photos of {name}: it is not tested." for name in ("grass", "road")]
    assert check(scan(train), test) == ([], expected)
    assert check_test(["grass", "ocean", "road"], test) == ([], expected)


def test_warnings_of_both_folders(train, test):
    plant(train, **{"": ["a.jpg"]})
    plant(test / "ocean", deep=[])
    assert check(scan(train), scan(test)) == ([], scan(train).notes + scan(test).notes)
    assert len(check(scan(train), scan(test))[1]) == 2


def test_warnings_stay_when_there_are_problems(train, test):
    plant(train, **{"": ["a.jpg"]})
    (train / "sky").mkdir()
    (test / "road").rename(test / "Road")
    for file in (test / "grass").iterdir():
        file.rename(file.with_suffix(".heic"))
    found, warnings = check(scan(train), scan(test))
    assert len(found) == 3
    assert warnings == scan(train).notes + scan(test).notes + [f"{test} has no photos of sky: it is not tested."]
    assert len(warnings) == 3                               # and no word on road: it is only misspelt


def test_a_test_folder_that_is_not_there_is_one_problem(train, tmp_path):
    assert check(scan(train), scan(tmp_path / "none")) == ([f"{tmp_path}/none does not exist: check the path."], [])


def test_everything_wrong_is_said_at_once(tmp_path):
    train = plant(tmp_path / "train", ocean=[])
    test = plant(tmp_path / "test", road=["a.jpg"], sky=[])
    found = problems(scan(train), scan(test))
    assert len(found) == 5
    for sentence, path in zip(found, ["train/ocean", "train", "test/sky", "test/road", "test/sky"], strict=True):
        assert sentence.startswith(f"{tmp_path}/{path}") and sentence.endswith(".") and "\n" not in sentence


def test_class_names_must_be_text(train, test):
    os.mkdir(os.fsencode(train) + b"/caf\xe9")
    plant(train, **{"two\nlines": ["a.jpg"]})
    (train / os.fsdecode(b"caf\xe9") / "a.jpg").write_bytes(jpeg())
    assert problems(scan(train), scan(test)) == [
        rf"{train}/caf\xe9: the name of a class must be plain text: rename the folder.",
        rf"{train}/two\nlines: the name of a class must be plain text: rename the folder.",
    ]


def test_class_names_of_any_language(tmp_path):
    root = plant(tmp_path, **{"Wüste": ["a.jpg"], "海": ["b.jpg"], "corn field": ["c.jpg"]})
    assert scan(root).classes == ["Wüste", "corn field", "海"]
    assert check(scan(root), scan(root)) == ([], [])


@pytest.fixture
def two_ways():
    """The same two names as Linux and Windows write them, and as some Macs do."""
    names = ["Wüste", "Wz"]
    return [[unicodedata.normalize(form, name) for name in names] for form in ("NFC", "NFD")]


def test_the_same_letters_encoded_in_two_ways_are_one_class(tmp_path, two_ways):
    composed, split = two_ways
    assert sorted(composed) == composed[::-1] and sorted(split) == split        # even their order differs
    listings = [scan(plant(tmp_path / str(i), **dict.fromkeys(names, ["a.jpg"]))) for i, names in enumerate(two_ways)]
    for train, test in (listings, listings[::-1]):
        assert train.classes == test.classes == sorted(composed)        # so labels are the same on every machine
        assert check(train, test) == check_test(composed, test) == ([], [])
        assert [photos.labels.tolist() for photos in load([train, test], train.classes, 8)] == [[0, 1], [0, 1]]
    assert listings[1].paths == [f"{tmp_path}/1/{name}/a.jpg" for name in reversed(split)]


def test_two_folders_that_are_one_class(tmp_path, two_ways):
    (composed, _), (split, _) = two_ways
    root = plant(tmp_path, **{composed: ["a.jpg"], split: ["b.jpg"], "road": ["c.jpg"]})
    found = scan(root)
    assert found.classes == [composed, "road"] and len(found.paths) == 3
    assert found.problems == [f"{root}/{composed}: two folders have this name, its letters encoded in two ways: make them one."]


# Names


def test_printable():
    assert printable("Wüste/海 1.jpg") == "Wüste/海 1.jpg"
    assert printable("a\nb\tc\x1b[31m\u2028") == r"a\nb\tc\x1b[31m\u2028"
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg"


@given(st.binary(max_size=40).filter(lambda name: b"\0" not in name))
def test_any_name_can_be_shown_on_one_line(name):
    shown = printable(os.fsdecode(name))
    assert shown.isprintable() and shown.encode("utf-8").count(b"\n") == 0


# Loading


def test_pixels_labels_and_paths_belong_together(train, test):
    classes = ["road", "ocean", "grass"]                    # not in the order of the folders
    both = load([scan(train), scan(test)], classes, 12)
    for photos, root, count in zip(both, (train, test), (6, 3), strict=True):
        assert (photos.pixels.shape, photos.pixels.dtype) == ((count, 12, 12, 3), np.uint8)
        assert (photos.labels.shape, photos.labels.dtype) == ((count,), np.int64)
        assert photos.paths == scan(root).paths and photos.classes == classes
        for pixels, label, path in zip(photos.pixels, photos.labels, photos.paths, strict=True):
            name = os.path.basename(os.path.dirname(path))
            assert classes[label] == name
            assert abs(pixels.astype(int) - COLORS[name]).max() <= 6
            with open(path, "rb") as file:
                assert np.array_equal(pixels, photo.decode(file.read(), 12))


def test_same_pixels_on_any_number_of_cores(train, monkeypatch):
    for i, name in enumerate(os.listdir(train / "ocean")):
        Image.effect_noise((50 + i, 40), 80).save(train / "ocean" / name)
    results = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(folder, "cores", lambda cores=cores: cores)
        results.append(load([scan(train)], ["grass", "ocean", "road"], 16)[0].pixels)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_all_unreadable_photos_of_all_folders_at_once(train, test):
    whole = jpeg()
    (train / "grass" / "cut.jpg").write_bytes(whole[:-40])
    (train / "ocean" / "b.jpg").write_bytes(b"")
    (train / "road" / "1.jpg").write_bytes(b"<html>Not found</html>")
    (train / "road" / "gone.jpg").symlink_to(train / "nothing.jpg")
    os.mkfifo(train / "road" / "pipe.jpg")
    (test / "ocean" / "1.jpg").write_bytes(jpeg(kind="GIF"))
    (test / "road" / os.fsdecode(b"\xff\n.png")).write_bytes(jpeg(kind="PNG")[:-1])
    listings = [scan(train), scan(test)]
    assert check(*listings) == ([], [])                     # names alone do not tell
    found = unusable(listings, ["grass", "ocean", "road"])
    assert found == [
        f"{train}/grass/cut.jpg: truncated: the end of the JPEG is missing.",
        f"{train}/ocean/b.jpg: the file is empty.",
        f"{train}/road/1.jpg: not a JPEG, PNG or WebP photo but a web page.",
        f"{train}/road/gone.jpg: cannot be read: No such file or directory.",
        f"{train}/road/pipe.jpg: not a regular file.",
        f"{test}/ocean/1.jpg: not a JPEG, PNG or WebP photo.",
        rf"{test}/road/\xff\n.png: truncated: the end of the PNG is missing.",
    ]
    (train / "sky").mkdir()                                 # folders and photos, at once
    plant(test, moon=["a.jpg"])
    listings = [scan(train), scan(test)]
    assert unusable(listings, listings[0].classes, check(*listings)[0]) == [
        f"{train}/sky holds no photos: put JPEG, PNG or WebP files in it, or delete the folder.",
        f"{test}/moon: {train} has no class of this name: rename the folder, or delete it.",
    ] + found


def test_unusable_photos_of_one_folder_are_found_when_the_other_is_missing(test, tmp_path):
    (test / "road" / "1.jpg").write_bytes(b"")
    listings = [scan(tmp_path / "none"), scan(test)]
    assert unusable(listings, [], check(*listings)[0]) == [
        f"{tmp_path}/none does not exist: check the path.", f"{test}/road/1.jpg: the file is empty."]
    listings = [listings[0]] * 2                            # nothing to decode
    assert unusable(listings, [], ["a problem"]) == ["a problem"]


def test_a_photo_with_the_wrong_suffix_is_still_a_photo(train):
    (train / "grass" / "a.jpg").write_bytes(jpeg(COLORS["grass"], "PNG"))
    photos, = load([scan(train)], ["grass", "ocean", "road"], 8)
    assert tuple(photos.pixels[0, 0, 0]) == COLORS["grass"]


def test_a_file_that_vanishes_after_the_scan(train):
    found = scan(train)
    (train / "road" / "2.jpg").unlink()
    assert unusable([found], found.classes) == [f"{train}/road/2.jpg: cannot be read: No such file or directory."]


def test_photos_are_decoded_at_the_same_time(train, monkeypatch):
    """Two decoders meet at a barrier: with one thread, the first would wait in vain."""
    barrier = threading.Barrier(2)

    def meet(data, size):
        barrier.wait(timeout=10)
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(folder, "cores", lambda: 2)
    monkeypatch.setattr(photo, "decode", meet)
    assert len(load([scan(train)], ["grass", "ocean", "road"], 4)[0].pixels) == 6


def test_an_interruption_does_not_wait_for_the_rest(train, monkeypatch):
    decoded = []

    def interrupt(data, size):
        decoded.append(1)
        raise KeyboardInterrupt

    for i in range(500):
        (train / "grass" / f"{i}.jpg").write_bytes(b"x")
    monkeypatch.setattr(folder, "cores", lambda: 1)
    monkeypatch.setattr(photo, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load([scan(train)], ["grass", "ocean", "road"], 4)
    assert len(decoded) < 400


def test_an_interruption_before_all_are_queued_does_not_wait_for_them(train, monkeypatch):
    """Ctrl-C while a large set is still being handed to the threads."""
    decoded, queued = [], []
    submit = ThreadPoolExecutor.submit

    def interrupt(*arguments):
        if len(queued) == 100:
            raise KeyboardInterrupt
        queued.append(1)
        return submit(*arguments)

    def decode(data, size):
        decoded.append(1)
        time.sleep(0.02)
        raise photo.PhotoError("?")

    plant(train, grass=[f"{i}.jpg" for i in range(200)])
    monkeypatch.setattr(folder, "cores", lambda: 1)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupt)
    monkeypatch.setattr(photo, "decode", decode)
    with pytest.raises(KeyboardInterrupt):
        load([scan(train)], ["grass", "ocean", "road"], 4)
    assert len(queued) == 100 and len(decoded) < 80


def test_the_bar_is_for_terminals(train, capsys, monkeypatch):
    load([scan(train)], ["grass", "ocean", "road"], 8)
    assert capsys.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    with contextlib.redirect_stderr(terminal):
        load([scan(train)], ["grass", "ocean", "road"], 8)
    assert "photos" in terminal.getvalue() and "6" in terminal.getvalue()
    assert capsys.readouterr() == ("", "")
