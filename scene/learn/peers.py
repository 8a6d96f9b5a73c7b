"""The processes of a training that PyTorch's torchrun started, on one machine or several.

Process 0 trains as if it were alone, and only it writes and talks. The others follow (cluster.py). Every
process says now and then that it is alive. One that dies, or is silent for PATIENCE, ends all.

Source: PyTorch's documentation, "Distributed communication package" and "torchrun (Elastic Launch)".
Next: cluster.py
"""

import os
import platform
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch

from scene.errors import UserError
from scene.processes import PeerLost
from scene.signals import ignore_stops

PATIENCE = 60               # seconds without a sign of life
BEAT = 2                    # seconds between two signs of life
LOST = "Another process of this training was lost, or silent for {} s."


class Peers:
    """The processes of a training: `with Peers() as peers`. Torchrun says in the environment who is who.

    rank: the number of this process, of `world`. machine: that of its machine.
    """

    def __init__(self):
        if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":        # its store holds old messages
            raise UserError("torchrun has restarted this training, which Scene cannot follow. Start it again "
                            "yourself, with --resume, and torchrun with --max-restarts 0.")
        names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"
        self.rank, self.world, self.local, self.machine = (int(os.environ[name]) for name in names)
        self.name = f"{platform.node()} (process {self.rank})"
        self.launcher = os.getppid()
        self.heard = {}             # of each process: its last sign of life, and when it came
        self.left = threading.Event()
        self.threads = []
        self.stderr = sys.stderr

    def __enter__(self):
        if self.rank:
            ignore_stops()          # process 0 decides, and its end ends us
            sys.stdout = sys.stderr = open(os.devnull, "w")         # noqa: SIM115
        limit = timedelta(seconds=PATIENCE)
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            with explained():
                self.store = torch.distributed.TCPStore(*address, timeout=limit)
                self.store.set(f"alive {self.rank}", "0")
                self.answered = time.monotonic()
                for work in self.beat, self.guard:
                    self.threads.append(threading.Thread(target=work, daemon=True))
                    self.threads[-1].start()
                torch.distributed.init_process_group(
                    "gloo", store=self.store, rank=self.rank, world_size=self.world, timeout=limit)
        except PeerLost as error:
            self.__exit__(PeerLost, error, None)
            raise
        return self

    def __exit__(self, kind, error, traceback):
        self.leave(error)
        self.left.set()
        for thread in self.threads:             # Python ending one inside a call of the store would abort us
            thread.join(2 * BEAT)

    def leave(self, error=None):
        """Tells the others why this process ends: process 0 has the last word, unless it is lost itself."""
        with suppress(RuntimeError, AttributeError):            # they may be gone, and so may the store
            if self.rank == 0:
                self.store.set("over", "")
                left = [f"left {rank}" for rank in range(1, self.world)]
                end = time.monotonic() + BEAT
                while left and not self.store.check(left) and time.monotonic() < end:
                    time.sleep(0.02)
            elif isinstance(error, Exception):
                mine = not isinstance(error, PeerLost)
                self.store.set("failed", f"{self.name}: {error}" if mine else str(error))
            else:
                self.store.set(f"left {self.rank}", "")
        if self.rank and isinstance(error, PeerLost) and self.must_speak():
            print(error, file=self.stderr, flush=True)

    def must_speak(self):
        """Whether process 0 is lost, and nobody else has said so."""
        try:
            before = self.store.get("alive 0")
            time.sleep(2 * BEAT)
            over = self.store.check(["over"]) or self.store.get("alive 0") != before
            return not over and self.store.add("speaker", 1) == 1
        except (RuntimeError, AttributeError):
            return True             # the store is lost, too, which is where process 0 is

    def beat(self):
        """A thread: shows that this process is alive, and notes when that was heard."""
        count = 0
        while not self.left.wait(BEAT if count else 0):
            count += 1
            with suppress(RuntimeError):
                self.store.set(f"alive {self.rank}", str(count))
                self.store.get(f"alive {self.rank}")            # blocks for ever if the network is cut
                self.answered = time.monotonic()

    def guard(self):
        """A thread: ends this process if torchrun was killed, or if the network is cut, which blocks all."""
        while not self.left.wait(BEAT):
            cut = time.monotonic() - self.answered > PATIENCE + BEAT
            if cut and self.local == 0:
                print(LOST.format(PATIENCE), file=self.stderr, flush=True)
            if cut or os.getppid() != self.launcher:
                os.kill(os.getpid(), signal.SIGKILL if self.rank else signal.SIGTERM)
                return

    # Waiting for each other

    def wait(self, *keys):
        """Waits until one of these keys is set, and returns its value. Ends the process when all is over."""
        while True:
            with explained():
                for key in keys:
                    if self.store.check([key]):
                        return self.store.get(key)
                if self.rank and self.store.check(["over"]):
                    sys.exit(0)
                if self.rank == 0 and self.store.check(["failed"]):
                    raise PeerLost(self.store.get("failed").decode())
            self.check_alive()
            time.sleep(0.1)

    def check_alive(self):
        """Raises PeerLost if a process has been silent for too long."""
        now = time.monotonic()
        for rank in range(self.world):
            with explained():
                beat = self.store.get(f"alive {rank}")
            if self.heard.get(rank, (None, 0))[0] != beat:
                self.heard[rank] = beat, now
            elif now - self.heard[rank][1] > PATIENCE:
                raise PeerLost(f"Process {rank} of this training has been silent for {PATIENCE} s.")

    def collective(self, work, *arguments):
        """Calls an operation in which all processes take part. Raises PeerLost if one does not."""
        try:
            work(*arguments)
        except RuntimeError as error:
            with explained():
                time.sleep(BEAT * (self.rank == 0))             # it may say why
                found = self.store.check(["failed"]) and self.store.get("failed").decode()
            raise PeerLost(found or LOST.format(PATIENCE)) from error

    @contextmanager
    def in_turn(self):
        """The first process of each machine decodes, on all cores. Then the others find its cache."""
        key = f"decoded {self.machine}"
        if self.local:
            self.wait(key)
        yield
        if not self.local:
            self.store.set(key, "")


@contextmanager
def explained():
    """Raises PeerLost where torch.distributed fails: a connection is closed, or silent for PATIENCE."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(LOST.format(PATIENCE)) from error
