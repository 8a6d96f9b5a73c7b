"""scene/photos/folder.py and findings.py: listings, all defects at once, and pixels with the right labels.

tests/test_zoo.py has the defects of single folders and photos.
"""

import contextlib
import io
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scene.errors import is_printable, printable
from scene.photos import decode, sets
from scene.photos.findings import ALIKE, DataError, Finding, table
from scene.photos.folder import check, check_test, load, scan

COLORS = {"ocean": (0, 60, 220), "road": (90, 90, 90), "grass": (40, 200, 30)}


def jpeg(color=(120, 130, 140), kind="JPEG"):
    file = io.BytesIO()
    image = Image.new("RGB", (20, 16), color)
    image.paste(tuple(value + 3 for value in color), (0, 0, 10, 16))    # since no plain colour is a duplicate
    image.save(file, kind)
    return file.getvalue()


def plant(root, **classes):
    """Writes photos into folders: plant(root, ocean=["a.jpg"]) writes root/ocean/a.jpg, in ocean's colour."""
    for name, files in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            (root / name / file).write_bytes(jpeg(COLORS.get(name, (9, 9, 9))))
    return root


@pytest.fixture
def train(tmp_path):
    ocean = ["z.jpg", "b.jpg", "m.jpg"]
    return plant(tmp_path / "train", road=["1.jpg", "2.jpg"], grass=["a.jpg"], ocean=ocean)


@pytest.fixture
def test(tmp_path):
    return plant(tmp_path / "test", ocean=["1.jpg"], road=["1.jpg"], grass=["1.jpg"])


def lines(findings):
    """Findings as lines of text, without the full stop."""
    return [f"{finding.verdict} {finding.where}: {finding.what}" for finding in findings]


def refused(listings, classes, findings=()):
    """The findings when `load` refuses the listings, as lines."""
    with pytest.raises(DataError) as caught:
        load(listings, classes, 8, findings)
    assert str(caught.value).startswith(table(caught.value.findings))
    return lines(caught.value.findings)


# Listing


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
        assert (found.findings, found.passed_over) == ([], {})


def test_suffixes_in_any_case(tmp_path):
    good = ["a.jpg", "b.JPG", "c.Jpeg", "d.jpe", "e.JFIF", "f.mpo", "g.PNG", "h.webp"]
    bad = ["i.gif", "j.GIF", "k.txt", "Thumbs.db", "README", "l.jpg.part", ".hidden.jpg", ".DS_Store"]
    found = scan(plant(tmp_path, ocean=good + bad, road=["a.jpg"]))
    assert [os.path.basename(path) for path in found.photos["ocean"]] == good
    assert found.passed_over == {".gif": 2, ".txt": 1, ".db": 1, "no suffix": 1, ".part": 1, "hidden": 2}
    assert lines(found.findings) == [f"warning {tmp_path}: passed over 2 GIF photos: export them as JPEG"]


# Checking


def test_good_folders(train, test):
    assert check(scan(train), scan(test)) == check_test(["grass", "ocean", "road"], scan(test)) == []


def test_an_unreadable_class_is_still_a_class(train, test, monkeypatch):
    """Simulates the refusal, since permissions do not stop root, who may run the tests."""
    readable = os.listdir

    def listdir(path):
        if str(path) == f"{train}/road":
            raise PermissionError(13, "Permission denied", str(path))
        return readable(path)

    monkeypatch.setattr(os, "listdir", listdir)
    found = lines(check(scan(train), scan(test)))
    assert found == [f"error {train}/road: cannot be read: Permission denied"]      # nothing on TEST's road


def test_test_may_hold_one_class(tmp_path, test):
    one = scan(plant(tmp_path / "one", ocean=["a.jpg"]))
    expected = [f"warning {tmp_path}/one/{name}: no such folder, so this class is not tested"
                for name in ("grass", "road")]
    assert lines(check(scan(test), one)) == expected
    assert lines(check_test(["grass", "ocean", "road"], one)) == expected


def test_class_that_the_model_lacks(test):
    assert lines(check_test(["ocean", "Road"], scan(test))) == [
        f"error {test}/grass: the model has no class of this name: rename the folder, or move it elsewhere",
        f"error {test}/road: in the model this class is spelt Road: rename one of them",
    ]


def test_a_test_folder_that_is_not_there_is_one_problem(train, tmp_path):
    found = lines(check(scan(train), scan(tmp_path / "none")))
    assert found == [f"error {tmp_path}/none: no such folder: check the path"]


@pytest.mark.parametrize("name", [
    "a\\b", "\\", "up\\..", "C:\\photos", "tab\t", "\x7f", "\x85", "\u2028", "\u202eabc", "\u2066",
    os.fsdecode(b"\xff"),
    "\u0958" * 85,                      # 255 bytes, but 510 in Unicode form NFC
])
def test_a_class_name_that_is_not_one_printable_path_component(train, name):
    plant(train, **{name: ["a.jpg"]})
    assert lines(scan(train).findings) == [
        f"error {train}/{printable(name)}: a class name must be printable, without backslashes, "
        "and at most 255 bytes: rename the folder"]


def test_all_findings_are_reported_at_once(train, test):
    plant(train, **{"": ["a.jpg"]})
    (train / "sky").mkdir()
    (test / "road").rename(test / "Road")
    for file in (test / "grass").iterdir():
        file.rename(file.with_suffix(".heic"))
    (train / "ocean" / "b.jpg").write_bytes(b"")
    (test / "ocean" / "1.jpg").write_bytes(b"?")
    listings = [scan(train), scan(test)]
    assert refused(listings, listings[0].classes, check(*listings)) == [
        f"error {train}/sky: no JPEG, PNG or WebP photos in it: add some, or move the folder elsewhere",
        f"warning {train}: passed over 1 photo beside the class folders: move them into their classes",
        f"error {test}/grass: no JPEG, PNG or WebP photos in it, but 1 .heic file: export them as JPEG",
        f"warning {test}: passed over 1 HEIC photo: export it as JPEG "
        "(iPhones take JPEG if their camera is set to Most Compatible)",
        f"error {test}/Road: in {train} this class is spelt road: rename one of them",
        f"warning {test}/sky: no such folder, so this class is not tested",     # road is only misspelt
        f"error {train}/ocean/b.jpg: the file is empty",
        f"error {test}/ocean/1.jpg: not a JPEG, PNG or WebP photo",
        f"warning {test}: 1 of 2 photos also in {train}, so the accuracy will be too high",
        f"warning {test}/Road/1.jpg and {train}/road/1.jpg: the same photo in the test and the training set",
    ]


def test_class_names_of_any_language(tmp_path):
    """With joiners, spaces of all kinds, marks of direction, and characters newer than Python's tables."""
    more = ["نیم\u200cفاصله", "क्\u200dष", "👨\u200d👩\u200d👧", "a\xa0b", "海\u3000山", "\u200fשלום",
            "beach ", "\U0001fae9", "\U0003fffd", "\u200b", "🏴\U000e0067\U000e007f", "\ufeffa"]
    names = {"Wüste": ["a.jpg"], "海": ["b.jpg"], "corn field": ["c.jpg"]} | dict.fromkeys(more, ["d.jpg"])
    train, test = (scan(plant(tmp_path / part, **names)) for part in ("train", "test"))
    assert train.classes == sorted(["Wüste", "corn field", "海", *more])
    assert check(train, test) == []


@pytest.fixture
def two_ways():
    """The same two names in the Unicode forms of Linux and Windows, and of some Macs."""
    names = ["Wüste", "Wz"]
    return [[unicodedata.normalize(form, name) for name in names] for form in ("NFC", "NFD")]


def test_the_same_letters_encoded_in_two_ways_are_one_class(tmp_path, two_ways):
    composed, split = two_ways
    assert sorted(composed) == composed[::-1] and sorted(split) == split        # even their order differs
    listings = [scan(plant(tmp_path / str(i), **dict.fromkeys(names, ["a.jpg"])))
                for i, names in enumerate(two_ways)]
    for train, test in (listings, listings[::-1]):
        assert train.classes == test.classes == sorted(composed)        # so labels are equal on every machine
        assert check(train, test) == check_test(composed, test) == []
        sets, _ = load([train, test], train.classes, 8)
        assert [photos.labels.tolist() for photos in sets] == [[0, 1], [0, 1]]
    assert listings[1].paths == [f"{tmp_path}/1/{name}/a.jpg" for name in reversed(split)]


# Names


def test_printable():
    assert printable("Wüste/海 1.jpg") == "Wüste/海 1.jpg"
    assert printable("a\nb\tc\x1b[31m\u2028") == r"a\nb\tc\x1b[31m\u2028"
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg"
    assert printable(" beach \u3000") == r"\x20beach\x20\u3000"
    assert printable("می\u200cخواهم a\xa0b \U0003fffd") == "می\u200cخواهم a\xa0b \U0003fffd"
    assert printable("\u202egpj.exe\u2069") == r"\u202egpj.exe\u2069"


@given(st.binary(max_size=40).filter(lambda name: b"\0" not in name))
def test_any_name_can_be_shown_on_one_line(name):
    shown = printable(os.fsdecode(name))
    assert is_printable(shown) and printable(shown) == shown == shown.strip()
    assert len(shown.splitlines()) <= 1 and b"\n" not in shown.encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_printable_does_not_depend_on_the_age_of_python(name):
    """Only on what never changes: control characters, ends of lines, and changes of direction."""
    bad = {c for c in name if unicodedata.category(c) in ("Cc", "Zl", "Zp")}
    turns = "LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"
    bad |= {c for c in name if unicodedata.bidirectional(c) in turns}
    assert is_printable(name) == (not bad)


# The table


def test_the_table_has_the_worst_first_and_is_empty_without_findings():
    findings = [Finding("accepted", "a", "odd"), Finding("warning", "b", "hm"),
                Finding("skipped", "c", "bad"), Finding("error", "d", "no"), Finding("warning", "e", "hm")]
    assert table(findings).splitlines() == [
        "error     d: no.", "skipped   c: bad.", "warning   b: hm.", "warning   e: hm.", "accepted  a: odd."]
    assert table([]) == ""


def test_three_thousand_findings_are_a_short_table_that_leaves_out_no_kind():
    findings = [Finding("error", f"{i}.jpg", f"{i} MB: too much") for i in range(2900)]
    findings += [Finding("error", "x.jpg", "the file is empty")]
    findings += [Finding("warning", f"{i}.jpg", "hm") for i in range(ALIKE)]
    assert table(findings).splitlines() == [
        *(f"error     {i}.jpg: {i} MB: too much." for i in range(ALIKE)),
        f"error     and {2900 - ALIKE} more like this.",
        "error     x.jpg: the file is empty.",
        *(f"warning   {i}.jpg: hm." for i in range(ALIKE))]


# Loading


def test_pixels_labels_and_paths_belong_together(train, test):
    classes = ["road", "ocean", "grass"]                    # not in the order of the folders
    both, _ = load([scan(train), scan(test)], classes, 12)
    for photos, root, count in zip(both, (train, test), (6, 3), strict=True):
        assert (photos.pixels.shape, photos.pixels.dtype) == ((count, 12, 12, 3), np.uint8)
        assert (photos.labels.shape, photos.labels.dtype) == ((count,), np.int64)
        assert photos.paths == scan(root).paths and photos.classes == classes
        for pixels, label, path in zip(photos.pixels, photos.labels, photos.paths, strict=True):
            name = os.path.basename(os.path.dirname(path))
            assert classes[label] == name
            assert abs(pixels.astype(int) - COLORS[name]).max() <= 6
            with open(path, "rb") as file:
                assert np.array_equal(pixels, decode.decode(file.read(), 12))


def test_same_pixels_on_any_number_of_cores(train, monkeypatch):
    for i, name in enumerate(os.listdir(train / "ocean")):
        Image.effect_noise((50 + i, 40), 80).save(train / "ocean" / name)
    results = []
    monkeypatch.setattr("scene.photos.pixels.TOGETHER", 1)
    for cores in (1, 2, 7):
        monkeypatch.setattr("scene.processes.cores", lambda cores=cores: cores)
        (photos,), _ = load([scan(train)], ["grass", "ocean", "road"], 16)
        results.append(photos.pixels)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_unusable_photos_of_one_folder_are_found_when_the_other_is_missing(test, tmp_path):
    (test / "road" / "1.jpg").write_bytes(b"")
    listings = [scan(tmp_path / "none"), scan(test)]
    assert refused(listings, [], check(*listings)) == [
        f"error {tmp_path}/none: no such folder: check the path",
        f"error {test}/road/1.jpg: the file is empty"]
    finding = Finding("error", "somewhere", "something")
    assert refused([listings[0]] * 2, [], [finding]) == ["error somewhere: something"]  # nothing to decode


def test_a_file_that_vanishes_after_the_scan(train):
    found = scan(train)
    (train / "road" / "2.jpg").unlink()
    assert refused([found], found.classes) == [
        f"error {train}/road/2.jpg: cannot be read: No such file or directory"]


def test_photos_left_out_leave_the_others_in_their_places(train, test):
    for name in ("train/ocean/b.jpg", "train/road/1.jpg"):
        (train.parent / name).write_bytes(b"")
    (photos, others), findings = load([scan(train), scan(test)], ["grass", "ocean", "road"], 8, skip_bad=True)
    skipped = [finding.where for finding in findings if finding.verdict == "skipped"]
    assert skipped == [f"{train}/ocean/b.jpg", f"{train}/road/1.jpg"]
    assert photos.paths == [f"{train}/{name}.jpg" for name in ("grass/a", "ocean/m", "ocean/z", "road/2")]
    assert photos.labels.tolist() == [0, 1, 1, 2]
    assert others.labels.tolist() == [0, 1, 2]
    for path, pixels in zip(photos.paths + others.paths, [*photos.pixels, *others.pixels], strict=True):
        assert abs(pixels.astype(int) - COLORS[path.split("/")[-2]]).max() <= 6


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


# The same seed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the script command and CPU affinity")
def test_the_same_seed_gives_the_same_file_whatever_the_machine_does(tmp_path):
    """On one core and on all, on a terminal, and with files written and listed in another order."""
    random = np.random.default_rng(0)
    names = [f"{part}/{name}/{i}.png" for part in ("a", "b") for name in COLORS for i in range(25)]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(20, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    for name in reversed(names):
        (tmp_path / "reversed" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reversed" / name).write_bytes((tmp_path / name).read_bytes())
    backwards = ("import os, sys; from scene import main, errors\nlistdir = os.listdir\n"
                 "os.listdir = lambda path: sorted(listdir(path), reverse=True)\n"
                 "sys.exit(errors.run(main.run, main.parse(None)))")
    arguments = ["a", "b", "FCNN", "--epochs", "1", "--batch-size", "75"]
    usual = [sys.executable, "-m", "scene.main", *arguments]
    terminal = f"stty rows 40 cols 110; {' '.join(usual)}"
    first_core = min(os.sched_getaffinity(0))
    runs = {
        "plain": (tmp_path, usual, {}),
        "one core": (tmp_path, usual, {"preexec_fn": lambda: os.sched_setaffinity(0, {first_core})}),
        "terminal": (tmp_path, ["script", "-qec", terminal, "/dev/null"], {}),
        "backwards": (tmp_path / "reversed", [sys.executable, "-c", backwards, *arguments], {}),
    }
    models = {}
    for name, (cwd, command, options) in runs.items():
        result = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, **options)
        models[name] = (cwd / "model_FCNN").read_bytes()
        (cwd / "model_FCNN").unlink()
        assert ("photo/s" in result.stdout) == (name == "terminal")
    assert len(set(models.values())) == 1


@pytest.mark.parametrize("counts, words", [
    ({}, "none"),
    ({"sea": 0, "sky\n": 3}, r"sea 0, sky\n 3"),
    ({f"c{i}": i for i in range(20)}, ", ".join(f"c{i} {i}" for i in range(20))),
    ({f"c{i}": 9 for i in range(21)}, "9 each"),
    ({f"c{i}": 100 - i for i in range(21)}, "from c20 80 to c0 100"),
])
def test_the_photos_of_many_classes_are_not_listed_one_by_one(counts, words):
    assert sets.describe_counts(counts) == words
