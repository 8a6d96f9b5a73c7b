"""scene/files.py and scene/locks.py: writes that nothing tears, on file systems of every kind, and locks."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scene import files, locks
from scene.locks import Locked, locked

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
NO_FOLDER_SYNC = ["EINVAL", "EIO", "ENOTSUP", "ENOSYS", "EBADF", "EACCES", "EPERM", "EROFS"]


def python(code, *arguments, **options):
    """Runs Python code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          **options)


def in_own_mounts(script, *arguments, cwd):
    """Runs a shell script that may mount things, which nobody else sees."""
    if not shutil.which("unshare"):
        pytest.skip("this system has no unshare, which lets a test mount a disk of its own")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-ec", script, "sh", *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    if result.returncode == 77 or "Operation not permitted" in result.stderr:
        pytest.skip(f"this system lets no test mount anything: {result.stderr}")
    return result


# Writes


def test_a_save_reaches_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """First the bytes, then the name, then the folder. If the disk fails, only the old file is there."""
    done = []
    fsync = os.fsync
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or replace(*paths))
    files.write(tmp_path / "file", b"old")
    assert done == ["fsync", "replace", "fsync"]

    def fail(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        files.write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("name", NO_FOLDER_SYNC)
@pytest.mark.parametrize("where", ["fsync", "open"])
def test_a_file_system_without_folder_sync_is_written_to(name, where, tmp_path, monkeypatch):
    fsync = os.fsync
    open_ = os.open

    def no_fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(getattr(errno, name), name)
        return fsync(handle)

    def no_open(path, flags, *rest, **options):
        if os.path.isdir(path):
            raise OSError(getattr(errno, name), name)
        return open_(path, flags, *rest, **options)

    monkeypatch.setattr(os, where, {"fsync": no_fsync, "open": no_open}[where])
    files.write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "ENOSYS"])
def test_a_file_system_without_any_sync_is_written_to(name, tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(getattr(errno, name), name)

    monkeypatch.setattr(os, "fsync", fail)
    files.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["EBUSY", "EPERM", "EACCES", "EXDEV", "ENOSYS"])
@pytest.mark.parametrize("before", [None, b"the old one, which is longer"])
def test_what_cannot_be_replaced_is_overwritten(name, before, tmp_path, monkeypatch):
    """And what must never be half-written is not."""
    if before:
        (tmp_path / "file").write_bytes(before)

    def fail(*paths):
        raise OSError(getattr(errno, name), "cannot be renamed")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="cannot be renamed") as raised:
        files.write(tmp_path / "file", b"new", overwrite=False)
    assert raised.value.filename == str(tmp_path / "file")
    assert os.listdir(tmp_path) == (["file"] if before else [])
    files.write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_written_in_place_reaches_the_disk_with_its_permissions(tmp_path, monkeypatch):
    """All bytes are there at the moment of the sync, and no descriptor stays open."""
    def fail(*paths):
        raise OSError(errno.EBUSY, "mounted")

    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(os.fstat(handle).st_size) or fsync(handle))
    before = len(os.listdir("/proc/self/fd"))
    files.write(tmp_path / "usual", b"12345")
    assert seen[0] == 5
    monkeypatch.setattr(os, "replace", fail)
    umask = os.umask(0)
    try:
        files.write(tmp_path / "file", b"123")
        assert seen[2:4] == [3, 3] and stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666
        files.write(tmp_path / "file", b"1", mode=0o640)
        assert seen[5:7] == [1, 1] and stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    finally:
        os.umask(umask)
    monkeypatch.chdir(tmp_path)
    files.sync_folder("")
    assert len(seen) == 9 and len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_no_reason_to_overwrite(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")

    def fail(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("target", ["elsewhere/real", "elsewhere/missing"])
def test_a_link_stays_a_link(target, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/real").write_bytes(b"old")
    (tmp_path / "middle").symlink_to(target)
    (tmp_path / "file").symlink_to("middle")
    files.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").is_symlink() and (tmp_path / target).read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "file", "middle"]
    files.remove(tmp_path / "file")
    assert (tmp_path / "file").is_symlink() and not (tmp_path / target).exists()
    files.remove(tmp_path / "file")


def test_a_file_keeps_its_permissions(tmp_path):
    for mode in 0o600, 0o644, 0o444:
        path = tmp_path / f"{mode:o}"
        path.touch()
        path.chmod(mode)
        files.write(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b"new"


def test_a_check_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.utime(path, (1, 1))
    files.check_writable(path)
    assert path.stat().st_mtime == 1 and path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


MOUNTED = """
mkdir out; echo old > out/file; echo mounted > source
mount --bind source out/file || exit 77
"$1" -c "
from scene import files
files.check_writable('out/file')
files.write('out/file', b'new')
try:
    files.replace_by_copy('out/file')
except OSError as error:
    print(error.strerror)
"
cat source; ls out
"""


def test_a_file_that_is_mounted_is_overwritten(tmp_path):
    result = in_own_mounts(MOUNTED, sys.executable, cwd=tmp_path)
    assert result.stdout == "Device or resource busy\nnewfile\n", result.stderr


READ_ONLY = MOUNTED.partition('"$1"')[0] + """
mount -o remount,bind,ro out/file
"$1" -c "
from scene import files
try:
    files.check_writable('out/file')
except OSError as error:
    print(error.strerror)
"
cat source; ls out
"""


def test_a_file_that_can_be_neither_replaced_nor_overwritten_is_noticed(tmp_path):
    result = in_own_mounts(READ_ONLY, sys.executable, cwd=tmp_path)
    assert result.stdout == "Device or resource busy\nmounted\nfile\n", result.stderr


# What killed writers leave behind


KILLED = """
import os, signal, sys
from scene import files
with files.temporary(sys.argv[1]) as file:
    print(file.name, flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_what_killed_writers_left_is_swept_away(tmp_path):
    """And nothing else: neither the file of a writer that still lives, nor one that only looks like it."""
    path = tmp_path / "model[1]"
    dead = Path(python(KILLED, path, "die").stdout.strip())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", KILLED, path, "wait"], **pipes) as writer:
        alive = writer.stdout.readline().strip()
        kept = {os.path.basename(alive), f"model[1].{dead.name.split('.')[1]}.part", "model[1].backup.part",
                "model[1]", "model1.0123abcd.9.part", "model[1].0123abcd.9.part.txt"}
        for name in kept:
            (tmp_path / name).touch()
        assert dead.exists()
        files.sweep(path)
        assert set(os.listdir(tmp_path)) == kept
    files.sweep(path)
    assert set(os.listdir(tmp_path)) == kept - {os.path.basename(alive)}


@posix
def test_the_writer_of_another_container_lives_even_if_its_number_is_free_here(tmp_path):
    """Two containers number their processes alike. Here it has number 1, as in many of them."""
    if not shutil.which("unshare"):
        pytest.skip("this system has no unshare")
    container = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [*container, sys.executable, "-c", KILLED, str(tmp_path / "model"), "wait"]
    with subprocess.Popen(command, **pipes) as writer:
        alive = writer.stdout.readline().strip()
        if not alive:
            pytest.skip("this system has no namespaces for processes")
        assert alive.endswith(".1.part")
        code = "import sys; from scene import files; files.sweep(sys.argv[1]); files.write(sys.argv[1], b'1')"
        sweeping = [*container, sys.executable, "-c", code, str(tmp_path / "model")]
        subprocess.run(sweeping, check=True)        # as number 1, too
        assert sorted(os.listdir(tmp_path)) == ["model", os.path.basename(alive)]


def test_without_locks_nothing_is_swept(tmp_path, monkeypatch):
    (tmp_path / "model.0123abcd.9.part").touch()
    monkeypatch.setattr(locks, "fcntl", None)
    files.sweep(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model.0123abcd.9.part"]
    files.write(tmp_path / "model", b"new")
    assert (tmp_path / "model").read_bytes() == b"new"


# Locks


# Moving and names


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_a_move_renames_and_never_overwrites(links, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "a file system without hard links")

    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"photo")
    files.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["b"] and (tmp_path / "b").read_bytes() == b"photo"
    assert synced == [str(tmp_path)]
    (tmp_path / "a").symlink_to("nowhere")                  # a link without a target is something, too
    with pytest.raises(FileExistsError) as error:
        files.move(str(tmp_path / "b"), str(tmp_path / "a"))
    assert error.value.errno == errno.EEXIST
    assert (tmp_path / "b").read_bytes() == b"photo" and os.readlink(tmp_path / "a") == "nowhere"


def test_a_move_to_another_file_system_is_refused_and_leaves_all_as_it_was(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"photo")
    with pytest.raises(OSError, match="another file system"):
        files.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error, left", [(FileNotFoundError, ["a", "b"]), (PermissionError, ["a"])])
def test_a_photo_whose_old_name_cannot_be_taken_away(error, left, tmp_path, monkeypatch):
    """If somebody else has taken it away the move is done, and if it may not be, nothing is."""
    def refuse(path):
        if path == str(tmp_path / "a"):
            raise error(errno.EPERM, "no")
        unlink(path)

    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", refuse)
    (tmp_path / "a").write_bytes(b"photo")
    if error is FileNotFoundError:
        files.move(str(tmp_path / "a"), str(tmp_path / "b"))
    else:
        with pytest.raises(PermissionError):
            files.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert sorted(os.listdir(tmp_path)) == left


def test_numbers_for_names_that_are_taken():
    names = files.numbered("in/photo.old.jpg")
    assert [next(names) for _ in range(3)] == [
        "in/photo.old.jpg", "in/photo.old_2.jpg", "in/photo.old_3.jpg"]


@pytest.mark.parametrize("name, valid", [
    ("photo", True), (".hidden", True), ("...", True), ("a b", True), ("a" * 255, True), ("é" * 127, True),
    ("\udcff", True),                                       # a byte that is not UTF-8
    ("", False), (".", False), ("..", False), ("a/b", False), ("a\\b", False), ("a\0", False),
    ("a" * 256, False), ("é" * 128, False),
])
def test_what_can_be_the_name_of_a_folder(name, valid):
    assert files.is_path_component(name) is valid


def test_what_a_folder_contains(tmp_path):
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to("outer")
    outer = tmp_path / "outer"
    for path in outer, inner, outer / "not there" / "yet", tmp_path / "link/inner", inner / "..":
        assert files.contains(str(outer), str(path)) is True, path
        assert files.contains(str(tmp_path / "link"), str(path)) is True, path
    for path in tmp_path, tmp_path / "other", inner / "../..", "/":
        assert files.contains(str(outer), str(path)) is False, path
    assert files.contains(str(tmp_path / "not there"), str(tmp_path / "not there/a")) is False


HOLD = """
import os, sys, time
from scene.locks import Locked, locked
try:
    with locked(sys.argv[1], "somebody") as real:
        print("held", real, flush=True)
        if len(sys.argv) > 2 and os.fork() == 0:
            print(os.getpid(), flush=True)
            time.sleep(60)
        sys.stdin.read()
except Locked as error:
    print("refused", error)
"""


def holder(path, *arguments):
    return subprocess.Popen([sys.executable, "-c", HOLD, path, *arguments], text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)


@posix
def test_one_process_holds_a_lock_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "lock"
    with holder(path) as first:
        assert first.stdout.readline() == "held True\n" and path.read_text() == "somebody\n"
        with pytest.raises(Locked, match="^somebody$"), locked(path, "me"):
            pass
        assert python(HOLD, path).stdout == "refused somebody\n"
        first.communicate("")
    assert not path.exists()
    with locked(path, "me"), pytest.raises(Locked), locked(path, "me again"):
        pass
    assert not path.exists()


@posix
def test_a_killed_process_leaves_its_lock_open_even_if_its_workers_live(tmp_path):
    path = tmp_path / "lock"
    with holder(path, "fork") as first:
        assert first.stdout.readline() == "held True\n"
        worker = int(first.stdout.readline())
        first.kill()
        first.wait()
        assert path.exists()
        with locked(path, "me") as real:
            assert real and path.read_text() == "me\n"
        assert not path.exists()
        os.kill(worker, signal.SIGKILL)


@posix
def test_of_many_that_begin_at_once_one_holds_the_lock_at_a_time(tmp_path):
    """Each comes again until it has had its turn: a lock file that is deleted meanwhile locks nobody out."""
    code = """
import os, sys, time
from scene.locks import Locked, locked
turns = 0
while turns < 20:
    try:
        with locked("lock", "me"):
            os.mkdir("inside")          # fails if another process is inside
            os.rmdir("inside")
            turns += 1
    except Locked:
        pass
"""
    many = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            for _ in range(4)]
    assert [process.communicate()[1] for process in many] == [""] * 4
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "ENOTSUP", "EINVAL"])
def test_a_file_system_without_locks_is_used_without(name, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def fail(*arguments):
        raise OSError(getattr(errno, name), name)

    monkeypatch.setattr(fcntl, "flock", fail)
    with locked(tmp_path / "lock", "me") as real:
        assert not real
    files.write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_nfs_locks_only_what_is_open_for_writing(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    flock = fcntl.flock

    def as_on_nfs(handle, how):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    with locked(tmp_path / "lock", "me") as real:
        assert real and python(HOLD, tmp_path / "lock").stdout == "refused me\n"
    with pytest.raises(Locked), locked(tmp_path / "lock", "me"), locked(tmp_path / "lock", "me"):
        pass


def test_a_stop_signal_frees_the_lock(tmp_path):
    with holder(tmp_path / "lock") as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.wait()
    assert not (tmp_path / "lock").exists()
