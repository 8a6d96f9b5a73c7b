"""scene/photos/sort.py and undo.py: photos into folders and back, on real files."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from scene import files
from scene.errors import UserError
from scene.locks import locked
from scene.photos import sort
from scene.photos.gather import Inputs
from scene.photos.journal import HEADER, JournalError, Record, encode, line, read
from scene.photos.sort import AlreadyThere, LeftInPlace, Rehearsal, sorting
from scene.photos.undo import BACK, DELETED, MOVED, undo
from scene.signals import STOPS, Stopped, stop_on_signals
from tests import sorting as cut
from tests.jobs import unprivileged
from tests.sorting import ROOT, check_nothing_lost, digest, hashes, make_source, snapshot, sort_all

CLASSES = ["coast", "road"]
both = pytest.mark.parametrize("move", [False, True], ids=["copy", "move"])


@pytest.fixture
def source(tmp_path):
    make_source(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def into(tmp_path):
    return tmp_path / "sorted"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system."""
    others = [place for place in ("/dev/shm", "/var/tmp", ROOT)
              if os.path.isdir(place) and os.stat(place).st_dev != os.stat(tmp_path).st_dev]
    if not others:
        pytest.skip("there is no second file system to try")
    with tempfile.TemporaryDirectory(dir=others[0]) as folder:
        yield Path(folder).resolve()


def put(source, into, path, folder="road", move=False, roots=()):
    """Sorts one photo. Returns its new path relative to INTO."""
    with sorting(str(into), Inputs([str(source), *roots]), CLASSES, move) as sorter:
        return os.path.relpath(sorter.put(str(path), digest(path), folder), into)


def undo_file(into):
    path, = into.glob("undo_*.csv")
    return str(path)


def take_back(into, **options):
    """Undoes the sorting. Returns {path in INTO: what became of it}."""
    return {os.path.relpath(target, into): what for target, _, what in undo(undo_file(into), **options)}


# Names


@both
def test_every_photo_in_the_folder_of_its_class_and_back(source, into, move):
    before = snapshot(source)
    sort_all(source, into, move)
    after = {path: what for path, what in snapshot(into).items() if "/" in path}
    assert set(after) == {"sea/0.jpg", "meadow/1.jpg", "meadow/1_2.jpg", "sea/2.jpg", "sea/2_2.jpg"}
    assert set(after.values()) | {before["b/0.jpg"]} == set(before.values()), "bytes and times"
    stays = {"b/0.jpg": before["b/0.jpg"]}              # the same bytes as a/0.jpg
    assert snapshot(source) == (stays if move else before)
    assert set(take_back(into).values()) == {MOVED if move else DELETED}
    assert snapshot(source) == before and os.listdir(into) == [os.path.basename(undo_file(into))]
    assert set(take_back(into).values()) == {BACK}
    assert snapshot(source) == before


@both
def test_a_name_that_is_taken_gets_a_number_and_nothing_is_overwritten(source, into, move):
    (into / "road").mkdir(parents=True)
    for name in ("0.jpg", "0_2.jpg"):
        (into / "road" / name).write_text("somebody's")
    assert put(source, into, source / "a/0.jpg", move=move) == "road/0_3.jpg"
    assert (into / "road/0.jpg").read_text() == (into / "road/0_2.jpg").read_text() == "somebody's"
    take_back(into)
    assert sorted(os.listdir(into / "road")) == ["0.jpg", "0_2.jpg"]


@both
@pytest.mark.parametrize("what", ["dangling link", "link to the same bytes", "folder", "link to a folder"])
def test_anything_at_the_name_counts_as_taken_and_no_link_is_followed(source, into, tmp_path, move, what):
    (into / "road").mkdir(parents=True)
    place = into / "road/0.jpg"
    (tmp_path / "outside").mkdir()
    if what == "folder":
        place.mkdir()
    else:
        place.symlink_to({"dangling link": tmp_path / "new.jpg", "link to a folder": tmp_path / "outside",
                          "link to the same bytes": source / "b/0.jpg"}[what])
    assert put(source, into, source / "a/0.jpg", move=move) == "road/0_2.jpg"
    assert not (tmp_path / "new.jpg").exists() and os.listdir(tmp_path / "outside") == []


@both
def test_the_same_photo_is_not_sorted_twice(source, into, move):
    first = source / "a/1.jpg"
    put(source, into, first, move=False)
    with pytest.raises(AlreadyThere) as caught:
        put(source, into, first, move=move)
    assert str(caught.value) == str(into / "road/1.jpg") and first.exists()
    (into / "road/1.jpg").rename(into / "road/1_2.jpg")         # under a numbered name
    (into / "road/1.jpg").write_text("another")
    with pytest.raises(AlreadyThere):
        put(source, into, first, move=move)


def test_a_moved_photo_that_was_put_back_by_hand_stays(source, into):
    """It is there twice then, and no undo file says that the second one is a move that was cut off."""
    photo = source / "a/1.jpg"
    data = photo.read_bytes()
    for end in True, False:
        with suppress(UserError), sorting(str(into), Inputs([str(source)]), CLASSES, True) as sorter:
            sorter.put(str(photo), digest(photo), "road")
            if not end:
                sorter.put(str(source / "a/2.jpg"), digest(source / "a/2.jpg"), "road")
                raise UserError("cut off")
        photo.write_bytes(data)
        with pytest.raises(AlreadyThere):
            put(source, into, photo, move=True)
        assert photo.read_bytes() == data
        shutil.rmtree(into)


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"a\nb.jpg", b"=1+1.jpg", b"%41.jpg", b"-rf.jpg", b" .jpg",
                                  b"a\\b.jpg", "ü, \"ö\".jpg".encode(), b"x" * 251 + b".jpg", b"no_suffix"])
@both
def test_any_name_goes_there_and_back(source, into, name, move):
    path = os.path.join(os.fsencode(source), b"a", name)
    Path(os.fsdecode(path)).write_bytes(b"a photo")
    put(source, into, Path(os.fsdecode(path)), move=move)
    assert os.listdir(os.fsencode(into / "road")) == [name] and os.path.exists(path) != move
    take_back(into)
    assert Path(os.fsdecode(path)).read_bytes() == b"a photo" and not (into / "road").exists()


def test_a_name_too_long_for_a_number_is_left_in_place(source, into):
    name = "x" * 251 + ".jpg"
    (source / "a" / name).write_bytes(b"one")
    (source / "b" / name).write_bytes(b"other")
    put(source, into, source / "a" / name)
    with pytest.raises(LeftInPlace, match="File name too long"):
        put(source, into, source / "b" / name)


# What may be sorted where


@pytest.mark.parametrize("inputs, into", [
    (["photos"], "photos"), (["photos"], "photos/a"), (["photos"], "photos/new/deep"),
    (["photos/a"], "photos"), (["photos/a"], "."), (["photos/a/0.jpg"], "photos"),
    (["photos/a/0.jpg"], "photos/a"), (["link"], "photos/x"), (["photos"], "link"), (["photos"], "link/x"),
    (["photos/a/*.jpg"], "photos"), (["other", "photos"], "photos/x"),
])
def test_into_and_inputs_may_not_contain_each_other(source, tmp_path, monkeypatch, inputs, into):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "other").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="(lie in one another|lies in).*: choose another folder to sort"), \
            sorting(into, Inputs(inputs), CLASSES, True):
        pytest.fail("not reached")
    assert snapshot(tmp_path) == before and not (source / "new").exists()


def test_photos_named_one_by_one_may_be_sorted_into_a_folder_beside_them(source, monkeypatch):
    monkeypatch.chdir(source / "a")
    with sorting("sorted", Inputs(["0.jpg"]), CLASSES, True) as sorter:
        sorter.put("0.jpg", digest(Path("0.jpg")), "road")
    assert sorted(os.listdir()) == ["1.jpg", "2.jpg", "sorted"]
    assert take_back(Path("sorted")) and sorted(os.listdir()) == ["0.jpg", "1.jpg", "2.jpg", "sorted"]


@pytest.mark.parametrize("classes, words", [
    (["coast", "unsure"], "a class called unsure"), (["Unsure", "coast"], "a class called Unsure"),
    (["Coast", "coast"], "Coast and coast would share a folder"), (["Stra\u00dfe", "STRASSE"], "share a"),
    (["\u00fc", "u\u0308"], "would share"), (["road", "road."], "share a"), (["unsure "], "called unsure"),
])
def test_classes_that_would_share_a_folder(source, into, classes, words):
    with pytest.raises(UserError, match=words), sorting(str(into), Inputs([str(source)]), classes, False):
        pytest.fail("not reached")
    assert not into.exists()


@pytest.mark.parametrize("what", ["file", "link", "dangling"])
@pytest.mark.parametrize("name", ["road", "unsure"])
def test_a_class_folder_that_is_a_link_or_file(source, into, tmp_path, what, name):
    into.mkdir()
    (tmp_path / "outside").mkdir()
    if what == "file":
        (into / name).write_text("")
    else:
        (into / name).symlink_to(tmp_path / ("outside" if what == "link" else "nowhere"))
    with pytest.raises(UserError, match=f"sorted/{name} is a link or a file"), \
            sorting(str(into), Inputs([str(source)]), CLASSES, False):
        pytest.fail("not reached")


def test_into_that_is_a_file(source, into):
    into.write_text("mine")
    with pytest.raises(UserError, match="sorted is not a folder"), \
            sorting(str(into), Inputs([str(source)]), CLASSES, False):
        pytest.fail("not reached")
    assert into.read_text() == "mine"


def test_two_sorts_at_once_in_one_folder(source, into):
    into.mkdir()
    with locked(str(into / ".sorting.lock"), "process 1"):
        said = r"Another command sorts photos in .*sorted \(process 1\): wait until it ends, or"
        with pytest.raises(UserError, match=said):
            put(source, into, source / "a/0.jpg")
        with pytest.raises(UserError, match=said):
            list(undo(str(into / "undo_.csv")))
    assert os.listdir(into) == []


def test_a_folder_made_for_nothing_goes_again(source, into):
    with sorting(str(into), Inputs([str(source)]), CLASSES, False):
        pass
    assert not into.exists()


# What becomes of a photo meanwhile


@both
@pytest.mark.parametrize("what", ["changed", "gone", "link"])
def test_a_photo_that_is_no_longer_what_was_classified(source, into, move, what):
    photo = source / "a/0.jpg"
    sha256 = digest(photo)
    photo.unlink()
    if what == "changed":
        photo.write_text("edited")
    if what == "link":
        photo.symlink_to(source / "b/0.jpg")
    with sorting(str(into), Inputs([str(source)]), CLASSES, move) as sorter, pytest.raises(LeftInPlace):
        sorter.put(str(photo), sha256, "road")
    assert os.path.lexists(photo) == (what != "gone") and not into.exists()


def test_a_photo_that_changes_while_it_is_copied(source, into, monkeypatch):
    photo = source / "a/0.jpg"

    def copy(original, file, size):
        photo.write_text("edited")
        file.write(original.read(size))

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(LeftInPlace, match="changed"):
        put(source, into, photo)
    assert os.listdir(into / "road") == [] and photo.read_text() == "edited"


def test_a_name_taken_by_another_program_at_the_last_moment(source, into, monkeypatch):
    link = os.link

    def late(path, target):
        if target.endswith("road/0.jpg"):
            Path(target).write_text("somebody's")
        return link(path, target)

    monkeypatch.setattr(os, "link", late)
    assert put(source, into, source / "a/0.jpg", move=True) == "road/0_2.jpg"
    assert (into / "road/0.jpg").read_text() == "somebody's"
    monkeypatch.undo()
    assert MOVED in take_back(into).values() and (into / "road/0.jpg").read_text() == "somebody's"


@both
def test_a_full_disk_ends_the_sort_and_what_is_done_can_be_undone(source, into, move, monkeypatch):
    before = snapshot(source)
    notes = []

    def note(self, record, durable=False, real=sort.Journal.note):
        notes.append(record)
        if len(notes) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, record, durable)

    monkeypatch.setattr(sort.Journal, "note", note)
    with pytest.raises(OSError, match="No space left"):
        sort_all(source, into, move)
    monkeypatch.undo()
    assert check_nothing_lost(before, source, into, move)
    take_back(into)
    assert snapshot(source) == before


@pytest.mark.parametrize("across", [False, True])
def test_a_source_that_cannot_be_changed_keeps_its_photos_in_one_place(source, elsewhere, across, into):
    """Run without root's power over permissions: the folder of the photos is read-only."""
    code = """
import sys
from scene.photos import sort
from scene.photos.gather import Inputs
source, into = sys.argv[1:]
path = f"{source}/a/0.jpg"
with sort.sorting(into, Inputs([source]), ["coast", "road"], True) as sorter:
    try:
        sorter.put(path, sort.digest(path), "road")
    except sort.LeftInPlace as error:
        print(error)
"""
    into = elsewhere / "sorted" if across else into
    os.chmod(source / "a", 0o555)
    command = unprivileged([sys.executable, "-c", code, str(source), str(into)])
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "cannot be sorted: Permission denied\n", result.stderr
    assert os.listdir(into / "road") == [] and (source / "a/0.jpg").exists()
    os.chmod(source / "a", 0o755)
    assert take_back(into) == {"road/0.jpg": BACK}


# Steps


def failing(number):
    """A function that raises an OSError."""
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    return fail


@both
@pytest.mark.parametrize("fails", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_file_system_without_hard_links(source, into, move, fails, monkeypatch):
    monkeypatch.setattr(os, "link", failing(fails))
    before = snapshot(source)
    (into / "sea").mkdir(parents=True)
    (into / "sea/0.jpg").write_text("somebody's")
    sort_all(source, into, move)
    assert (into / "sea/0.jpg").read_text() == "somebody's"
    assert hashes(before) <= hashes(snapshot(into)) and (source / "a/0.jpg").exists() != move
    take_back(into)
    assert snapshot(source) == before and os.listdir(into / "sea") == ["0.jpg"]


@both
def test_across_file_systems(source, elsewhere, move):
    before = snapshot(source)
    into = elsewhere / "sorted"
    sort_all(source, into, move)
    assert check_nothing_lost(before, source, into, move) == 5
    assert set(take_back(into).values()) == {MOVED if move else DELETED}
    assert snapshot(source) == before


def noted(function, name, done):
    """The function, which adds its name to a list when it is called."""
    def call(*arguments, **options):
        done.append(name)
        return function(*arguments, **options)

    return call


def test_across_file_systems_the_copy_is_compared_before_the_first_file_goes(source, elsewhere, monkeypatch):
    done = []
    for owner, name in cut.STEPS:
        monkeypatch.setattr(owner, name, noted(getattr(owner, name), name, done))
    put(source, elsewhere, source / "a/0.jpg", move=True)
    steps = iter(done)
    for step in ("note", "note", "fsync", "link", "copyfileobj", "copystat", "fsync", "digest", "link",
                 "fsync", "digest", "digest", "unlink"):
        assert step in steps, done                      # in this order, with others between


def test_times_that_a_file_system_rounds_come_back(source, into, monkeypatch):
    photo = source / "a/2.jpg"
    before = snapshot(source)
    put(source, into, photo, move=True)
    os.utime(into / "road/2.jpg", (1, 1))               # as FAT would, to two seconds
    take_back(into)
    assert snapshot(source) == before


def test_a_line_is_on_the_disk_before_each_move(source, into, monkeypatch):
    synced = set()
    fsync = os.fsync
    link = os.link

    def remember(handle):
        synced.add((os.fstat(handle).st_ino, os.fstat(handle).st_size))
        fsync(handle)

    def checked(path, target):
        if path.endswith(".jpg"):
            log = os.stat(undo_file(into))
            assert (log.st_ino, log.st_size) in synced, "a move before its line was on the disk"
            assert read(undo_file(into))[-1].source == path
            moved.append(path)
        link(path, target)

    moved = []
    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(os, "link", checked)
    sort_all(source, into, True)
    assert len(moved) == 5


def test_a_move_never_overwrites_and_a_failed_one_leaves_no_second_name(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    for link in os.link, failing(errno.EPERM):
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(FileExistsError):
            files.move(str(one), str(two))
        assert (one.read_text(), two.read_text()) == ("1", "2")
    monkeypatch.undo()
    two.unlink()
    unlink = {str(one): failing(errno.EACCES), str(two): os.unlink}
    monkeypatch.setattr(os, "unlink", lambda path: unlink[path](path))
    with pytest.raises(PermissionError):
        files.move(str(one), str(two))
    assert one.exists() and not two.exists()


def test_nothing_is_dropped_unless_it_is_there_twice(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(LeftInPlace):                    # the same file by another path
        sort.drop(str(one), str(tmp_path / "folder/one"), digest(one))
    two.write_text("2")
    with pytest.raises(LeftInPlace):
        sort.drop(str(one), str(two), digest(one))
    two.unlink()
    two.symlink_to(one)
    with pytest.raises(LeftInPlace):
        sort.drop(str(one), str(two), digest(one))
    assert one.read_text() == "1"
    two.unlink()
    os.link(one, two)
    sort.drop(str(one), str(two), digest(two))
    assert two.read_text() == "1" and not one.exists()


# Rehearsals


@both
def test_a_rehearsal_says_what_the_sort_does_and_changes_nothing(source, into, tmp_path, move):
    (into / "sea").mkdir(parents=True)
    (into / "sea/2.jpg").write_text("somebody's")
    before = snapshot(tmp_path)
    plans = []
    for sorter in Rehearsal(str(into)), None:
        plan = []
        with suppress(UserError), sorting(str(into), Inputs([str(source)]), CLASSES, move) as real:
            for path in Inputs([str(source)]).photos():
                try:
                    name = cut.CLASSES[int(Path(path).stem) % 2]
                    plan.append((sorter or real).put(path, digest(Path(path)), name))
                except AlreadyThere as error:
                    plan.append(f"already {error}")
        plans.append(plan)
        if sorter:
            assert snapshot(tmp_path) == before
    assert plans[0] == plans[1] and len(plans[0]) == 6 and any("already" in place for place in plans[0])


# Undoing


def test_the_folder_that_photos_were_sorted_into_may_be_renamed(source, into):
    before = snapshot(source)
    sort_all(source, into, True)
    into.rename(into.with_name("renamed"))
    assert set(take_back(into.with_name("renamed")).values()) == {MOVED}
    assert snapshot(source) == before


def test_a_sort_that_was_cut_off_and_undone_is_not_continued(source, into):
    with pytest.raises(UserError), sorting(str(into), Inputs([str(source)]), CLASSES, True) as sorter:
        sorter.put(str(source / "a/0.jpg"), digest(source / "a/0.jpg"), "road")
        raise UserError("cut off")
    assert sort.Journal(str(into), [str(source)]).path == undo_file(into)
    take_back(into)
    assert sort.Journal(str(into), [str(source)]).path is None


def test_a_folder_that_is_gone_is_made_again(source, into):
    before = snapshot(source)
    sort_all(source, into, True)
    shutil.rmtree(source / "a")
    (source / "b/0.jpg").unlink()
    take_back(into)
    assert snapshot(source) == {path: what for path, what in before.items() if path != "b/0.jpg"}


@both
def test_what_has_changed_since_is_left_alone_and_listed(source, into, move):
    before = snapshot(source)
    sort_all(source, into, move)
    (into / "sea/0.jpg").write_text("edited")
    (into / "meadow/1.jpg").unlink()
    if move:
        (source / "b/1.jpg").write_text("another photo")
        (source / "b/2.jpg").write_bytes((into / "sea/2_2.jpg").read_bytes())
    else:
        (source / "b/1.jpg").unlink()                   # the copy is all there is now
        (source / "b/2.jpg").write_text("edited")
    (into / "sea/mine.jpg").write_text("mine")
    what = take_back(into)
    assert what["sea/0.jpg"] == f"changed since it was sorted (it came from {source}/a/0.jpg)"
    assert (into / "sea/0.jpg").read_text() == "edited" and (into / "sea/mine.jpg").read_text() == "mine"
    assert what["sea/2.jpg"] == (MOVED if move else DELETED)
    if move:
        assert what["meadow/1.jpg"] == f"no longer there (it came from {source}/a/1.jpg)"
        assert what["meadow/1_2.jpg"] == f"left there, since another file is at {source}/b/1.jpg"
        assert (source / "b/1.jpg").read_text() == "another photo" and (into / "meadow/1_2.jpg").exists()
        assert what["sea/2_2.jpg"] == MOVED and digest(source / "b/2.jpg") == before["b/2.jpg"][0]
    else:
        assert what["meadow/1.jpg"] == BACK
        for name, path in ("1_2.jpg", "meadow"), ("2_2.jpg", "sea"):
            assert "kept, since" in what[f"{path}/{name}"] and (into / path / name).exists()


@both
def test_a_rehearsed_undo_changes_nothing(source, into, tmp_path, move):
    sort_all(source, into, move)
    before = snapshot(tmp_path)
    planned = take_back(into, dry_run=True)
    assert snapshot(tmp_path) == before
    assert planned == take_back(into)


def forged(into, photos, **changes):
    """Sorts a photo, and rewrites its line in the undo file."""
    put(photos, into, photos / "a/0.jpg", move=True)
    records = [record._replace(**changes) if record.action == "move" else record
               for record in read(undo_file(into))]
    Path(undo_file(into)).write_bytes(line(HEADER) + b"".join(map(encode, records)))


@pytest.mark.parametrize("target", ["../outside/a.jpg", "road/../../outside/a.jpg", "/etc/passwd", "a.jpg",
                                    "", "road/x/a.jpg", "road/..", "./a.jpg", "road//a.jpg", "link/a.jpg",
                                    "road/a\0.jpg"])
def test_an_undo_file_that_leads_out_of_into(source, into, tmp_path, target):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.jpg").write_bytes((source / "a/0.jpg").read_bytes())
    into.mkdir()
    (into / "link").symlink_to(tmp_path / "outside")
    forged(into, source, target=target)
    check_refused(into, tmp_path)


@pytest.mark.parametrize("path", ["{}/../outside/a.jpg", "{0}/../outside/a.jpg", "{}x/a.jpg", "{}/link/a.jpg",
                                  "a.jpg", "", "{}/../sorted/road/a.jpg", "/a.jpg", "{}//a.jpg",
                                  "{}/a/../a.jpg"])
def test_an_undo_file_that_leads_out_of_the_folders_that_were_sorted(source, into, tmp_path, path):
    (tmp_path / "outside").mkdir()
    forged(into, source, source=path.format(source))
    (source / "link").symlink_to(tmp_path / "outside")
    check_refused(into, tmp_path)


def test_a_source_that_was_replaced_by_a_link(source, into, tmp_path):
    put(source, into, source / "a/0.jpg", move=True)
    source.rename(tmp_path / "renamed")
    source.symlink_to(tmp_path / "renamed")
    check_refused(into, tmp_path)


def check_refused(into, tmp_path):
    """Asserts that undoing is refused, and nothing changes."""
    before = snapshot(tmp_path)
    with pytest.raises(JournalError, match=r"line \d: a path leads out of the folders that were sorted\. No"):
        take_back(into)
    assert snapshot(tmp_path) == before


def test_a_record_whose_photo_has_another_hash_is_not_touched(source, into):
    forged(into, source, sha256="00" * 32)
    what, = take_back(into).values()
    assert what.startswith("changed since") and (into / "road/0.jpg").exists()


# Cut off


KINDS = ["same", "across", "fat", "fat, across"]


@pytest.mark.parametrize("kind", KINDS)
@both
def test_cut_off_at_every_step_of_sorting_and_of_undoing(move, kind):
    """In a process without torch, which forks ten times as fast."""
    code = f"from tests import sorting; sorting.every_step({move}, {kind!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20


def test_a_few_kills_of_the_soak():
    command = [sys.executable, "-c", "from tests import sorting; sorting.sorts(10)"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "No photo was lost" in result.stdout


def test_a_stop_signal_waits_until_the_photo_is_sorted(source, into, monkeypatch):
    """Ctrl-C between the two names of a photo that is being moved: it has one of them in the end."""
    sync = files.sync_folder

    def interrupted(folder):
        sync(folder)
        if folder.endswith("road"):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(files, "sync_folder", interrupted)
    handlers = {number: signal.getsignal(number) for number in STOPS}
    try:
        stop_on_signals()
        with pytest.raises(Stopped):
            put(source, into, source / "a/1.jpg", move=True)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not (source / "a/1.jpg").exists() and (into / "road/1.jpg").exists()
    assert read(undo_file(into))[-1].action == "move"


def test_a_photo_with_the_record_of_a_move_that_never_came(source, into):
    """A run that was killed between its line and the move, and never repeated."""
    into.mkdir()
    record = Record("move", digest(source / "a/0.jpg"), 0, str(source / "a/0.jpg"), "road/0.jpg")
    data = line(HEADER) + encode(Record("root", source=str(source))) + encode(record)
    (into / "undo_1.csv").write_bytes(data)
    before = snapshot(source)
    assert take_back(into) == {"road/0.jpg": BACK} and snapshot(source) == before
