"""learn/watch.py: the curves of photos held out, which change nothing about the training."""

import pytest
import torch

from scene.learn import watch
from scene.learn.checkpoint import Checkpoint
from scene.learn.loop import train
from scene.learn.progress import Progress
from scene.models import CNN, FCNN
from scene.nn.loss import CrossEntropy
from tests.jobs import make_settings, photos
from tests.test_checkpoint import RUN


def held_out():
    pixels, labels = photos(n=300)
    return pixels[70:], labels[70:]


@pytest.mark.parametrize("kind", [FCNN, CNN])
def test_the_model_is_the_same_with_it_and_without(kind):
    pixels, labels = photos(n=40)
    settings = make_settings(epochs=4, learning_rate=0.05, batch_size=20, shard=20, small_start=kind is CNN)
    networks = kind(3, 16), kind(3, 16)
    plain = train(networks[0], pixels, labels, settings)
    watched = train(networks[1], pixels, labels, settings, held_out=held_out())
    assert (networks[0].params == networks[1].params).all() and (networks[0].state == networks[1].state).all()
    assert [epoch[:2] for epoch in watched] == plain and [len(epoch) for epoch in watched] == 4 * [4]
    assert watched[-1][2] < watched[0][2] and watched[-1][3] > 0.6


def test_right_answers_are_counted_on_photos_held_out_alone():
    """Labels that contradict those of the training: whatever is learned is wrong for them."""
    pixels, labels = photos(n=60)
    settings = make_settings(epochs=12, learning_rate=0.05, batch_size=20, shard=20)
    history = train(FCNN(3, 16), pixels, labels, settings, held_out=(pixels, (labels + 1) % 3))
    assert history[-1][1] > 0.8 and history[-1][3] < 0.2 and history[-1][2] > history[-1][0]


@pytest.mark.parametrize("count, most", [(99, 50), (100, 50), (50, 50), (49, 49)])
def test_no_more_photos_than_the_curve_needs_and_from_all_classes(monkeypatch, count, most):
    monkeypatch.setattr(watch, "MOST", 50)
    seen = []

    class Seen(CrossEntropy):
        def forward(self, scores, labels):
            seen.append(sorted(labels.tolist()))
            return super().forward(scores, labels)

    network = FCNN(100, 16).start(torch.Generator())
    pixels = torch.zeros(count, 16, 16, 3, dtype=torch.uint8)
    watch.make_watch(network, Seen(), (pixels, torch.arange(count)), make_settings(1, 0.05), 10)(1)
    assert seen == [[i * count // most for i in range(most)]]


def test_a_resumed_history_is_that_of_an_uninterrupted_run(tmp_path, monkeypatch):
    pixels, labels = photos(n=40)
    settings = make_settings(epochs=4, learning_rate=0.05, batch_size=20, shard=20)
    whole = train(FCNN(3, 16), pixels, labels, settings, held_out=held_out())
    monkeypatch.setattr("scene.learn.checkpoint.PAUSE", 0)

    def stop(self):
        if len(self.history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        end = Progress.end_epoch
        patch.setattr(Progress, "end_epoch", lambda self, more=(): (end(self, more), stop(self)))
        with pytest.raises(KeyboardInterrupt):
            train(FCNN(3, 16), pixels, labels, settings, checkpoint=Checkpoint(tmp_path / "c", RUN),
                  held_out=held_out())
    again = train(FCNN(3, 16), pixels, labels, settings, checkpoint=Checkpoint(tmp_path / "c", RUN),
                  held_out=held_out())
    assert again == whole
