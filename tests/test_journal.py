"""scene/photos/journal.py: the undo file."""

import csv
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scene.photos import journal
from scene.photos.journal import Journal, JournalError, Record, quote, read, unquote

SHA = "ab" * 32
NAMES = ["a.jpg", "=cmd|' /C calc'!A0", "+1", "-1", "@x", "\t", "a\nb\r\n", "100 %", "%41", '"quoted", ,',
         "ü ö.jpg", os.fsdecode(b"\xff\xfe.jpg"), os.fsdecode("é".encode()[:1] + b"\n\xa9"), "\u2028", " ",
         "'", "🎉"]


@pytest.mark.parametrize("name", NAMES)
def test_names_read_back_exactly_and_are_no_formulas(name, tmp_path):
    text = quote(name)
    assert unquote(text) == name and os.fsencode(unquote(text)) == os.fsencode(name)
    assert text.isprintable() and text.encode() and text[0] not in "=+-@\t\r"
    record = Record("move", SHA, 10**18 + 1, name, name)
    (tmp_path / "undo_.csv").write_bytes(journal.line(journal.HEADER) + journal.encode(record))
    assert journal.parse(tmp_path / "undo_.csv") == [record]
    assert len((tmp_path / "undo_.csv").read_bytes().splitlines()) == 2


@given(st.binary(min_size=1))
def test_any_bytes_read_back_exactly(data):
    name = os.fsdecode(data)
    assert os.fsencode(unquote(quote(name))) == data and "\n" not in quote(name)


def test_ordinary_names_stay_readable():
    assert quote("/home/me/Straße 1/foto (2).jpg") == "/home/me/Straße 1/foto (2).jpg"


def written(folder, *records, roots=("/photos",), end=False):
    """The path of an undo file with these records."""
    log = Journal(str(folder), list(roots))
    for record in records:
        log.note(record, durable=True)
    log.end() if end else log.close()
    return log.path


MOVE = Record("move", SHA, 5, "/photos/a.jpg", "road/a.jpg")


def test_a_table_that_other_programs_can_read(tmp_path):
    path = written(tmp_path, Record("folder", target="road"), MOVE, end=True)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["action"] for row in rows] == ["root", "folder", "move", "end"]
    assert rows[2] == {"action": "move", "sha256": SHA, "modified": "5ns", "from": "/photos/a.jpg",
                       "to": "road/a.jpg"}


def test_a_table_that_a_spreadsheet_has_saved_again(tmp_path):
    path = written(tmp_path, MOVE, end=True)
    before = read(path)
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data.replace(b"\n", b"\r\n"))
    assert read(path) == before


def test_without_records_there_is_no_file(tmp_path):
    assert written(tmp_path, end=True) is None and os.listdir(tmp_path) == []


def test_a_run_that_was_cut_off_is_continued_in_the_same_file(tmp_path):
    path = written(tmp_path, MOVE)
    again = Journal(str(tmp_path), ["/photos"])
    assert again.path == path and again.last == MOVE
    again.note(MOVE)
    again.end()
    assert [record.action for record in read(path)] == ["root", "move", "move", "end"]
    assert Journal(str(tmp_path), ["/photos"]).path is None
    assert written(tmp_path, MOVE) != path


def test_a_run_with_other_folders_or_one_that_has_ended_is_not_continued(tmp_path):
    written(tmp_path, MOVE)
    assert Journal(str(tmp_path), ["/photos", "/more"]).path is None
    assert Journal(str(tmp_path), ["/other"]).path is None
    written(tmp_path, MOVE, roots=["/ended"], end=True)
    assert Journal(str(tmp_path), ["/ended"]).path is None


def test_a_run_whose_first_folders_are_empty_by_now_is_continued(tmp_path):
    """As with `*/*.jpg --move`: the pattern no longer matches in folders whose photos have moved."""
    path = written(tmp_path, MOVE, roots=["/photos", "/more"])
    assert Journal(str(tmp_path), ["/photos"]).path == Journal(str(tmp_path), []).path == path


@pytest.mark.parametrize("kept", range(1, 30, 4))
def test_a_torn_line_does_not_count_and_the_next_one_is_whole(tmp_path, kept):
    path = written(tmp_path, MOVE)
    whole = read(path)
    with open(path, "ab") as file:
        file.write(journal.encode(MOVE)[:kept])
    assert read(path) == whole
    written(tmp_path, MOVE._replace(target="road/b.jpg"))
    assert read(path) == [*whole, MOVE._replace(target="road/b.jpg")]


@pytest.mark.parametrize("content", [
    b"", b"photo,scene\n", b"\xff\xd8\xff\xe0\n", b"\0\n",
    journal.line(journal.HEADER) + b"delete,,,/a,b\n",
    journal.line(journal.HEADER) + b"move,abc,,/a,b/c\n",
    journal.line(journal.HEADER) + b"move," + SHA.encode() + b",soon,/a,b/c\n",
    journal.line(journal.HEADER) + b"move,too,few\n",
    journal.line(journal.HEADER) + b"root,,,\xff,\n",
])
def test_another_file_is_no_undo_file(tmp_path, content):
    (tmp_path / "undo_.csv").write_bytes(content)
    with pytest.raises(JournalError, match=r"undo_.csv is not an undo file, or damaged in line \d+: nothing"):
        read(str(tmp_path / "undo_.csv"))
    assert Journal(str(tmp_path), ["/photos"]).path is None


@pytest.mark.parametrize("roots, line", [([""], 2), (["photos"], 2), (["/other"], 3), (["/photos2"], 3)])
def test_a_run_that_was_cut_off_is_not_continued_if_a_path_leads_out_of_its_folders(tmp_path, roots, line):
    path = written(tmp_path, MOVE, roots=roots)
    assert Journal(str(tmp_path), roots).path is None
    with pytest.raises(JournalError, match=f"undo_.*csv, line {line}: a path leads"):
        read(path)


def test_a_line_is_on_the_disk_before_note_returns(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size) or fsync(handle))
    log = Journal(str(tmp_path), ["/photos"])
    log.note(MOVE, durable=True)
    assert synced[-1] == os.path.getsize(log.path)
