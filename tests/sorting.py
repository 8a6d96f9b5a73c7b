"""Sorting that is cut off: at every step in turn, or by a kill at a random moment. Nothing may be lost.

tests/test_sort.py cuts off every step and tries ten kills; `python -m tests.bench.soak sort` tries 200.
Nothing here imports torch, since a process with it takes ten times as long to fork.
"""

import errno
import hashlib
import os
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from PIL import Image

from scene import errors, predict
from scene.answer.classifier import PRETRAINED
from scene.photos import journal, sort
from scene.photos.gather import Inputs
from scene.photos.undo import undo

ROOT = Path(__file__).parent.parent
CLASSES = ["sea", "meadow"]
CUT = 77        # the exit code of a process that is cut off


def make_source(folder, photos=3):
    """A folder of files in two subfolders, some with the same name, two with the same bytes."""
    for i in range(photos):
        for part in "ab":
            path = folder / part / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"photo {i if i == 0 else (i, part)} ".encode() * (i + 1))
            os.utime(path, ns=(10**18 + i, 10**18 + 123_456_789 * i))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def snapshot(folder):
    """{relative path: (SHA-256, time of modification)} of every file in a folder."""
    return {str(path.relative_to(folder)): (digest(path), path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if path.is_file()}


def hashes(snapshot):
    return {sha256 for sha256, _ in snapshot.values()}


def check_nothing_lost(before, source, into, move):
    """Every photo is whole in the source or in INTO, and INTO has nothing else under a photo's name."""
    left, placed = ({path: what for path, what in snapshot(folder).items() if not hidden(path)}
                    for folder in (source, into))
    assert hashes(before) <= hashes(left) | hashes(placed), "a photo is lost"
    assert hashes(placed) <= hashes(before), "half a photo has a photo's name"
    assert left.items() <= before.items() if move else left == before
    return len(placed)


def hidden(path):
    """Whether a file in INTO or the source is none of the photos: an undo file, a lock, a temporary file."""
    name = Path(path).name
    return name.startswith((".scene.", ".sorting.lock", "undo_"))


# Every step


def sort_all(source, into, move):
    """Sorts every file of a folder, by its name."""
    inputs = Inputs([str(source)])
    with sort.sorting(str(into), inputs, CLASSES, move) as sorter:
        for path in inputs.photos():
            with suppress(sort.AlreadyThere):
                sorter.put(path, sort.digest(path), CLASSES[int(Path(path).stem) % 2])


STEPS = [(os, "link"), (os, "unlink"), (os, "rename"), (os, "mkdir"), (os, "rmdir"), (os, "fsync"),
         (os, "utime"), (shutil, "copyfileobj"), (shutil, "copystat"), (journal.Journal, "note"),
         (sort, "digest")]


def cut_off(work, step):
    """Runs work in a fork that ends abruptly before its step of this number. Returns whether it did."""
    pid = os.fork()
    if pid == 0:
        try:
            for owner, name in STEPS:
                setattr(owner, name, counted(getattr(owner, name), step, name))
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, CUT), code
    return code == CUT


def counted(function, step, name, done=[0]):        # noqa: B006  (one counter for all functions of a fork)
    """The function, which ends the process when the step of this number is reached."""
    def call(*arguments, **options):
        done[0] += 1
        if done[0] == step:
            if name == "note":                      # half a line reaches the file
                with suppress(Exception):
                    arguments[0].open()
                    arguments[0].file.write(journal.encode(arguments[1])[:20])
            if name == "copyfileobj":               # half a photo
                arguments[1].write(arguments[0].read(5))
                arguments[1].flush()
            os._exit(CUT)
        return function(*arguments, **options)

    return call


def every_step(move, kind):
    """Cuts off the sorting, and then the undoing, before every step, and prints how many there were.

    kind: "same" file system, "across" two, "fat" for one without hard links, or "fat, across".
    """
    behave_like(kind)
    step = 0
    more = True
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        while more:
            step += 1
            root = Path(folder).resolve() / str(step)
            make_source(root / "photos", 2)
            more = one_step(root / "photos", root / "sorted", move, step)
    print(step)


def one_step(source, into, move, step):
    """Cuts off sorting and undoing before the step of this number. Returns whether sorting has so many."""
    before = snapshot(source)
    more = cut_off(lambda: sort_all(source, into, move), step)
    check_nothing_lost(before, source, into, move)
    if step % 2:                                                # half of them are not finished first
        sort_all(source, into, move)
        after = snapshot(into)
        assert [path for path in after if "/" in path] == ["meadow/1.jpg", "meadow/1_2.jpg", "sea/0.jpg"]
        assert hashes(before) <= hashes(after)
        assert set(snapshot(source)) == ({"b/0.jpg"} if move else set(before)), "one was there already"
    undo_files = list(into.glob("undo_*.csv"))
    if undo_files:
        again = cut_off(lambda: list(undo(str(undo_files[0]))), step)
        check_nothing_lost(before, source, into, move)
        list(undo(str(undo_files[0])))
        assert snapshot(source) == before, (step, again)
        assert os.listdir(into) == [undo_files[0].name], (step, again)
    return more


def behave_like(kind):
    """Lets links and renames in this process behave as on file systems of this kind."""
    real_link, real_rename = os.link, os.rename

    def crosses(*paths):
        return len({part for path in paths for part in Path(path).parts if part in ("photos", "sorted")}) > 1

    def link(path, target):
        if "fat" in kind:
            raise OSError(errno.EPERM, "no hard links")
        if "across" in kind and crosses(path, target):
            raise OSError(errno.EXDEV, "across file systems")
        real_link(path, target)

    def rename(path, target):
        if "across" in kind and crosses(path, target):
            raise OSError(errno.EXDEV, "across file systems")
        real_rename(path, target)

    os.link, os.rename = link, rename


# Kills at random moments


class Command:
    """`python -m scene.predict` in a fork, which has its modules loaded already."""

    def __init__(self, *arguments, log="log"):
        self.pid = os.fork()
        if self.pid == 0:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            try:
                slow_down()
                os._exit(errors.run(predict.run, predict.parse(list(map(str, arguments)))))
            finally:
                os._exit(99)

    def wait(self, seconds=60.0):
        """The exit code, -number after a fatal signal, or None if it still runs after this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.0005)
        return None

    def kill(self, seconds):
        """Kills it after some seconds, unless it ends before. Returns the exit code."""
        code = self.wait(seconds)
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            code = self.wait()
        return code


def slow_down():
    """Makes this process take a moment for each step, as on a slow disk, so that kills hit every step."""
    for owner, name in STEPS[:4]:
        function = getattr(owner, name)

        def slow(*arguments, function=function, **options):
            result = function(*arguments, **options)
            time.sleep(0.0005)
            return result

        setattr(owner, name, slow)


def make_photos(folder, count, random):
    """Photos that a model can answer, in subfolders, some with the same name."""
    for i in range(count):
        path = folder / f"{i % 3}" / f"{i // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        corners = [tuple(random.randrange(256) for _ in range(3)) for _ in range(4)]
        image = Image.new("RGB", (2, 2))
        image.putdata(corners)
        image.resize((16, 16), Image.Resampling.BILINEAR).save(path)
        os.utime(path, ns=(10**18, 10**18 + random.getrandbits(40)))


@contextmanager
def folders(across):
    """A folder for photos and one to sort into, on two file systems or on one."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory(dir="/dev/shm") as two:
        yield Path(one).resolve(), Path(two if across else one).resolve()


def sorts(count):
    """Kills sorts and undos until there were `count` kills. After each, no photo is lost or half there.

    In turn, photos are copied or moved, within a file system or across two. A killed sort is repeated,
    perhaps killed again, until it has finished, and then undone in the same way.
    """
    random = Random(0)
    kills = {"sort": 0, "undo": 0}
    seconds = {"sort": 0.2, "undo": 0.1}            # the longest that a whole run took so far, or a guess
    rounds = between = finished = 0
    while sum(kills.values()) < count:
        move, across = rounds % 2 == 0, rounds // 2 % 2 == 0
        rounds += 1
        with folders(across) as (one, two):
            source, into = one / "photos", two / "sorted"
            make_photos(source, 40, random)
            before = snapshot(source)
            options = ["--sort", into, "--model", PRETRAINED["FCNN"], *["--move"] * move]

            def run(name, *arguments, one=one, before=before, source=source, into=into, move=move):
                """Runs a command until it ends, and kills it at random moments before."""
                nonlocal between, finished
                while sum(kills.values()) < count and random.random() < 0.9:
                    code = Command(*arguments, log=one / "log").kill(random.uniform(0, seconds[name]))
                    placed = check_nothing_lost(before, source, into, move)
                    if code == 0:
                        finished += 1
                        return
                    assert code == -signal.SIGKILL, (one / "log").read_text()
                    kills[name] += 1
                    between += 0 < placed < len(before)
                started = time.monotonic()
                assert Command(*arguments, log=one / "log").wait() == 0, (one / "log").read_text()
                seconds[name] = max(seconds[name], time.monotonic() - started)
                check_nothing_lost(before, source, into, move)
                finished += 1

            run("sort", source, *options)
            after = snapshot(into)
            undo_files = [path for path in after if path.startswith("undo_")]
            assert len(undo_files) == 1 and len(after) == 1 + len(before), sorted(after)
            assert hashes(before) <= hashes(after)
            assert {when for _, when in before.values()} <= {when for _, when in after.values()}
            assert snapshot(source) == ({} if move else before)
            run("undo", "--undo", into / undo_files[0])
            assert snapshot(source) == before and os.listdir(into) == undo_files
    print(f"{rounds} sorts of 40 photos, each undone, in turn as copies and moves, within a file system and "
          f"across two: {kills['sort']} sorts and {kills['undo']} undos killed, {between} of them with some "
          f"photos sorted and others not; {finished} finished. No photo was lost, half there or changed, and "
          "every undo left the photos as they were, times included")
