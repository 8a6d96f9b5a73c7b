"""learn/cluster.py and peers.py: torchrun's processes compute the bytes of one, or end with one sentence.

Most tests fork the processes that torchrun would start, with its environment, which saves the imports.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context

import pytest
import torch

from scene import main
from scene.learn import cluster, peers
from scene.models import MODES
from tests.jobs import forked_job, make_photos
from tests.runtime import ROOT

COMMAND = ["train", "test", "FCNN", "--epochs", 3, "--no-report", "--seed", 3, "--precision", "float32",
           "--batch-size", 60]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photos of which a batch has several shards, and the model of an ordinary run."""
    folder = tmp_path_factory.mktemp("cluster")
    for name, count in (("train", 60), ("test", 5)):
        make_photos(folder / name, ("dark", "grey", "light"), count)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Shards of a few photos, in this process and those that are forked."""
    modes = {name: mode._replace(shard=15) for name, mode in MODES.items()}
    monkeypatch.setattr("scene.learn.run.MODES", modes)
    monkeypatch.setattr(peers, "PATIENCE", 30)
    monkeypatch.setattr(peers, "BEAT", 0.2)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(peers, "PATIENCE", 3)


def keep_store(pipe):
    """A process with the store of a training, which torchrun's would have. It sends its port."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    signal.pause()


@contextmanager
def started(world, arguments, folder, prepare=lambda rank: None):
    """Processes of a training. prepare(rank) comes first.

    The store has a thread, and has a process of its own for that: a fork beside a thread that works can hang.
    """
    fork = get_context("fork")
    ours, theirs = fork.Pipe()
    store = fork.Process(target=keep_store, args=(theirs,))
    store.start()
    common = {"WORLD_SIZE": str(world), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(ours.recv()), main.TORCHRUN: "test", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [forked_job(arguments, folder, f"said {rank}", partial(prepare, rank), RANK=str(rank),
                            LOCAL_RANK=str(rank), **common) for rank in range(world)]
    try:
        yield processes
    finally:
        for process in [*processes, store]:
            process.kill()
            process.join()


def ended(processes):
    """The exit codes, once all have ended."""
    codes = []
    for process in processes:
        process.join(60)
        codes.append(process.exitcode)
    return codes


def said(folder, world):
    """What each process printed, except progress and findings."""
    found = [(folder / f"said {rank}").read_text() for rank in range(world)]
    for rank in range(world):
        (folder / f"said {rank}").unlink()
    return found


def model(folder):
    report = json.loads((folder / "metrics_FCNN.json").read_text())
    return report["model"]["sha256"], report["history"]


def together(data, tmp_path, world, *options):
    """Trains with so many processes: what each said, and the model."""
    arguments = [*COMMAND, "--output", tmp_path / str(world), *options]
    with started(world, arguments, data) as processes:
        codes = ended(processes)
    words = said(data, world)
    assert codes == [0] * world, words
    return words, model(tmp_path / str(world))


def train_alone(data, tmp_path, *options):
    process = forked_job([*COMMAND, "--output", tmp_path / "alone", *options], data, "said 0")
    assert ended([process]) == [0], said(data, 1)
    return model(tmp_path / "alone")


def test_any_number_of_processes_computes_the_bytes_of_one(data, tmp_path):
    """Four shards a batch: one of 5 processes has none. Other tests here have two processes, and three."""
    expected = train_alone(data, tmp_path)
    words, found = together(data, tmp_path, 5)
    assert found == expected
    assert not any(words[1:]), "only process 0 talks"
    assert "only as many of the 5 processes have work" in words[0]


def test_folds_and_few_photos_are_trained_together_too(data, tmp_path):
    """A training for each fold, each of other photos, soft labels, and a batch that is a single shard."""
    train_alone(data, tmp_path)
    os.rename(tmp_path / "alone/model_FCNN", tmp_path / "teacher")
    for options in (["--folds", 2], ["--batch-size", 15], ["--distill", tmp_path / "teacher"]):
        shutil.rmtree(tmp_path / "2", ignore_errors=True)
        shutil.rmtree(tmp_path / "alone", ignore_errors=True)
        assert together(data, tmp_path, 2, *options)[1] == train_alone(data, tmp_path, *options)


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def stop(*arguments):
    os.kill(os.getpid(), signal.SIGSTOP)


def at_step(number, act):
    """`Together.work`, which acts in a step."""
    work = cluster.Together.work

    def changed(self, rank, step, *arguments):
        if step == number:
            act()
        return work(self, rank, step, *arguments)

    return changed


PHASES = {
    "decoding": (main, "load_photos"),
    "comparing": (cluster, "describe"),
    "training": (cluster.Together, "work"),
    "testing": (main, "test"),
}


@pytest.mark.parametrize("phase, victim, act", [
    ("decoding", 0, die), ("comparing", 1, die), ("training", 0, die), ("training", 1, die),
    ("testing", 0, die), ("training", 1, stop)])
def test_a_lost_process_ends_all_with_one_sentence(phase, victim, act, data, tmp_path, impatient):
    def prepare(rank):
        if rank == victim:
            place, name = PHASES[phase]
            setattr(place, name, at_step(5, act) if phase == "training" else act)

    with started(3, [*COMMAND, "--output", tmp_path], data, prepare) as processes:
        codes = ended(process for rank, process in enumerate(processes) if rank != victim)
    words = said(data, 3)
    assert codes in ([2, 2], [2, 0]) if victim else codes == [2, 2], words
    sentences = [line for text in words for line in text.splitlines()
                 if "of this training" in line and ("silent for 3 s" in line or "was lost" in line)]
    assert len(sentences) == 1, words
    if phase == "training" and victim:
        assert sentences[0].endswith("The same command with --resume continues from the last checkpoint.")


def test_whoever_resumes_may_have_another_number_of_processes(data, tmp_path, monkeypatch):
    monkeypatch.setattr("scene.learn.checkpoint.PAUSE", 0)
    expected = train_alone(data, tmp_path)
    arguments = [*COMMAND, "--output", tmp_path]

    def prepare(rank):
        cluster.Together.work = at_step(5, die if rank == 2 else lambda: None)

    with started(3, arguments, data, prepare) as processes:
        ended(processes)
    assert (tmp_path / "checkpoint_FCNN").exists() and not (tmp_path / "model_FCNN").exists()
    with started(2, [*arguments, "--resume"], data) as processes:
        assert ended(processes) == [0, 0]
    assert "Resumed in epoch 2" in said(data, 3)[0]
    assert model(tmp_path) == expected


def other_photos(rank):
    if rank:
        os.chdir("elsewhere")


def other_processor(rank):
    if rank:
        os.environ["ATEN_CPU_CAPABILITY"] = "default"


def no_photos(rank):
    if rank:
        os.chdir("/")


@pytest.mark.parametrize("prepare, words", [
    (other_photos, "(process 1) differs from {} (process 0), so it would compute something else: class dark "
                   "was 60 photos ("),
    (other_processor, "ATEN_CPU_CAPABILITY was none and is default. All need the same photos, options, "
                      "versions and kind of processor."),
    (no_photos, "(process 1): error"),
])
def test_others_are_refused_by_name(prepare, words, data, tmp_path):
    shutil.copytree(data / "train", data / "elsewhere/train", dirs_exist_ok=True)
    shutil.copytree(data / "test", data / "elsewhere/test", dirs_exist_ok=True)
    (data / "elsewhere/train/dark/0.png").write_bytes((data / "train/light/0.png").read_bytes())
    with started(2, [*COMMAND, "--output", tmp_path], data, prepare) as processes:
        codes = ended(processes)
    first, second = said(data, 2)
    assert codes == [2, 2 if prepare is no_photos else 0], first + second
    assert words.format(platform.node()) in first and second == ""


def test_a_signal_to_process_0_saves_and_ends_all(data, tmp_path):
    def prepare(rank):
        if rank == 0:
            cluster.Together.work = at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))

    with started(2, [*COMMAND, "--output", tmp_path], data, prepare) as processes:
        assert ended(processes) == [143, 0]
    assert said(data, 2)[0].endswith(
        "Stopped in epoch 3. The same command with --resume continues from there.\n")
    assert (tmp_path / "checkpoint_FCNN").exists()


def test_torchrun_itself(data, tmp_path):
    """The command of the README, on one machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2,
               "-m", "scene.main", *COMMAND, "--epochs", 1, "--output", tmp_path]
    result = subprocess.run([*map(str, command)], cwd=data, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.count("Accuracy") == 1, result.stderr
    assert (tmp_path / "model_FCNN").exists()


def test_no_thread_outlives_the_training(tmp_path):
    """Python would end it in the middle of a call of the store, and C++ the whole process."""
    (tmp_path / "train.py").write_text("import threading\nfrom scene.learn.peers import Peers\n"
                                       "with Peers():\n    print(threading.active_count())\n"
                                       "print(threading.active_count())\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", tmp_path / "train.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["3", "1"]), done.stderr
