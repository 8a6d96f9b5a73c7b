"""The trial of the lesson "training_loop": a network that checks every step that a loop takes with it."""

from collections import Counter
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from scene.models import FCNN
from tests.lessons.watch import Mistake
from tests.oracle import assert_close

EPOCHS = 10
RATE = 0.05
ACCURACY = 0.85         # Scene's own loop reaches 0.92 or more on the example


class WatchedFCNN(FCNN):
    """An FCNN that knows the photos. It raises Mismatch or Mistake when the loop does something else."""

    def watch(self, seen, train, test):
        self.seen = seen
        self.labels = {photo.tobytes(): int(label) for photo, label in zip(*train, strict=True)}
        self.photos = Counter(photo.tobytes() for photo in train[0])
        self.test = {photo.tobytes() for photo in test[0]} - self.labels.keys()
        self.tests = len(test[0])
        self.shown = []                     # the photos of this epoch, in order
        self.orders = []                    # those of the epochs before
        self.expected = None                # the parameters after the step that is due
        self.batch = None                   # the labels of the batch on its way forward and backward
        return self

    def forward(self, x, training=False):
        self.check_step()
        photos = [photo.tobytes() for photo in x.numpy()]
        if not training:
            if len(photos) == self.tests and self.shown:
                self.check_epoch()
            return super().forward(x)
        if self.test & set(photos):
            raise Mistake("The loop trains on a test photo. What is measured on photos that the network was "
                          "trained on says nothing about new ones.")
        if not self.labels.keys() >= set(photos):
            raise Mistake("The network was given something other than training photos. It takes them as they "
                          "are, pixels[…] of uint8: its first layer normalises them.")
        self.shown += photos
        self.batch = torch.tensor([self.labels[photo] for photo in photos])
        self.z = super().forward(x, training)
        return self.z

    def backward(self, dy):
        if self.batch is None:
            raise Mistake("network.backward is called without network.forward(…, training=True) before it.")
        self.seen.note(labels=self.batch, z=self.z)
        p_minus_t = self.z.softmax(1) - F.one_hot(self.batch, self.z.shape[1])
        assert_close("dz, which network.backward is given,", dy, p_minus_t / len(dy))
        super().backward(dy)
        self.seen.clear()
        self.seen.note(params=self.params, grads=self.grads)
        self.expected = self.params - RATE * self.grads
        self.batch = None

    def check_step(self):
        """Called where the next batch or the test comes: by now the step must have been taken."""
        if self.batch is not None:
            raise Mistake("A batch went forward with training=True, and the next one or the test came before "
                          "network.backward was called.")
        if self.expected is not None:
            assert_close("network.params after a step", self.params, self.expected)
            self.seen.clear()

    def check_epoch(self):
        """Called at each test, after an epoch."""
        shown = Counter(self.shown)
        never = (self.photos - shown).total()
        again = (shown - self.photos).total()
        if never or again:
            raise Mistake(f"In epoch {len(self.orders) + 1}, {never} of {self.photos.total()} photos were "
                          f"not shown, and {again} were shown once too often. Every epoch shows every photo "
                          "once.")
        if self.shown in self.orders:
            raise Mistake(f"Epoch {len(self.orders) + 1} shows the photos in the order of an earlier one. "
                          "Draw a new order in each epoch.")
        self.orders.append(self.shown)
        self.shown = []


def watch_loop(theirs, seen, train_folder, test_folder):
    """Runs the learner's loop on these folders with a watched network."""
    if not hasattr(theirs, "folder") or not hasattr(theirs, "FCNN"):
        raise Mistake("The file no longer imports FCNN and folder as its skeleton did: restore these lines.")
    networks = []
    load = theirs.folder.load
    data = []

    def loaded(*arguments):
        result = load(*arguments)
        data.extend((part.pixels[:], part.labels) for part in result[0])
        return result

    def make(*arguments, **options):
        networks.append(WatchedFCNN(*arguments, **options).watch(seen, *data))
        return networks[-1]

    theirs.FCNN = make
    theirs.folder = SimpleNamespace(**vars(theirs.folder) | {"load": loaded})
    theirs.run(train_folder, test_folder)
    network = networks[-1]
    network.check_step()
    if network.shown:
        raise Mistake("After an epoch the network was not tested: forward of all test photos at once, "
                      "without training=True.")
    if len(network.orders) != EPOCHS:
        raise Mistake(f"The loop trained for {len(network.orders)} epochs, each with a test after it, not "
                      f"for {EPOCHS}.")
    pixels, labels = data[1]
    answers = network.forward(torch.from_numpy(pixels)).argmax(1)
    accuracy = (answers == torch.from_numpy(labels)).float().mean().item()
    if accuracy < ACCURACY:
        raise Mistake(f"After the last epoch, {accuracy:.1%} of the test photos are classified correctly, "
                      f"where Scene's loop reaches more than {ACCURACY:.0%}.")
