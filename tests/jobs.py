"""Training in tests: scene.main in a process of its own, photos for it, and settings for a short run."""

import os
import shutil
import signal
import subprocess
import sys
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image

from scene import errors, main
from scene.learn.recipe import Settings


def main_job(*arguments, cwd=None, **options):
    """Runs `python -m scene.main` and waits for it to end."""
    command = [sys.executable, "-m", "scene.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, **options)


def forked_job(arguments, cwd, log, prepare=lambda: None, **environment):
    """Starts the main job in a fork of this process, which saves the imports. It prints into the file `log`.

    prepare() is called in the new process. Returns the process.
    """
    def live():
        os.chdir(cwd)
        os.environ |= environment
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(handle, standard)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)   # noqa: SIM115
        prepare()
        code = errors.run(main.run, main.parse([str(word) for word in arguments]))
        sys.stdout.flush()
        os._exit(code)

    process = get_context("fork").Process(target=live)
    process.start()
    return process


def start_job(*arguments, cwd, **options):
    """Starts `python -m scene.main`, and returns its process after three epochs of training."""
    command = [sys.executable, "-m", "scene.main", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=listen_to_hangup, **options)
    while not process.stdout.readline().startswith("epoch 3"):
        assert process.poll() is None
    return process


def listen_to_hangup():
    """Undoes nohup, under which a process ignores SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def unprivileged(command):
    """The command without root's capability to read and write every file, even if root runs the tests."""
    if os.geteuid() != 0:
        return command
    if not shutil.which("setpriv"):
        pytest.skip("root may read and write everything, and there is no setpriv to prevent it")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *command]


def make_photos(folder, classes=("dark", "light"), count=6):
    """Photos of noise, darker or lighter: a task that any network learns."""
    random = np.random.default_rng(len(str(folder)))
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(100, size=(20, 24, 3)) + 150 * k // (len(classes) - 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")


def photos(n=70, size=16, classes=3):
    """Pixels and labels of photos whose class shows in their brightness, under noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    noise = torch.randint(100, (n, size, size, 3), generator=generator)
    return (noise + labels[:, None, None, None] * 70).byte(), labels


def make_settings(epochs, learning_rate, **changes):
    """The settings of a short training run."""
    usual = {"batch_size": 128, "shard": 64, "crop_area": 0.5, "crop_growth": 1, "grey": 0.1,
             "norm_rate": 4.0}
    return Settings(epochs=epochs, learning_rate=learning_rate, **usual | changes)


def alive(pid):
    """Whether a process runs. A zombie, which its parent has not waited for, does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
