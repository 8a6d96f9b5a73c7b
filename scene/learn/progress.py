"""Shows the progress of a training run, and ends a run that has diverged.

Next: minutes.py
"""

import math
import sys

from tqdm import tqdm

from scene.errors import UserError

EXPLODED = 100              # a mean loss far above that of guessing, log K: 7 for a thousand classes
ADVICE = "Try a smaller --learning-rate."


class Diverged(UserError):
    """The loss has exploded, or the loss or an answer of the network is NaN or infinite."""

    exit_code = 3


def check_answers(logits):
    """Raises Diverged if the answers of a trained network are not finite."""
    if not logits.isfinite().all():
        raise Diverged(f"Training diverged in its last step: its answers are NaN or infinite. {ADVICE}")


class Progress:
    """Shows the progress: a bar on a terminal, and elsewhere a line at the end of each epoch."""

    def __init__(self, epochs, size):
        self.epochs = epochs
        self.size = size
        self.epoch = 0
        self.history = []       # of each whole epoch: loss, training accuracy, and these on photos held out
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(total=epochs * size, unit="photo", disable=not self.terminal,
                        bar_format="{desc} {bar} {percentage:.0f} %, {rate_fmt}, {remaining} left")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def start_epoch(self, epoch):
        self.epoch = epoch
        self.photos = self.loss = self.right = 0

    def place(self):
        """The counts so far, for `resume`."""
        return {"epoch": self.epoch, "photos": self.photos, "loss": self.loss, "right": self.right,
                "history": self.history}

    def resume(self, place):
        self.epoch = place["epoch"]
        self.photos = place["photos"]
        self.loss = place["loss"]
        self.right = place["right"]
        self.history = place["history"]
        done = f"after {self.photos} of its {self.size} photos"
        over = (self.epoch, self.photos) == (self.epochs, self.size)
        left = ": nothing is left to train" if over else ""
        print(f"Resumed in epoch {self.epoch} of {self.epochs}, {done}{left}.", flush=True)
        self.bar.initial = self.bar.n = (self.epoch - 1) * self.size + self.photos

    def add(self, photos, loss, right):
        """Counts a batch, given its sums of loss and right answers. Raises Diverged."""
        if not loss / photos < EXPLODED:
            how = f"has exploded to {loss / photos:.3g}" if math.isfinite(loss) else "is NaN or infinite"
            raise Diverged(f"Training diverged in epoch {self.epoch}: the loss {how}. {ADVICE}")
        self.photos += photos
        self.loss += loss
        self.right += right
        self.bar.set_description_str(self.line(), refresh=False)
        self.bar.update(photos)

    def end_epoch(self, held_out=()):
        self.history.append([self.loss / self.photos, self.right / self.photos, *held_out])
        if not self.terminal:
            print(self.line(), flush=True)

    def line(self):
        loss = self.loss / self.photos
        accuracy = self.right / self.photos
        return f"epoch {self.epoch}/{self.epochs}: loss {loss:.3f}, training accuracy {accuracy:.1%}"
