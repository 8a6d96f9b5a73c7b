"""learn/head.py: the closed forms beside the same thing done step by step."""

import numpy as np
import pytest
import torch

from scene.learn import head
from scene.learn.head import Ridge, best_scale, solve_head
from scene.learn.loop import LOSSES


def features(n=60, width=20, classes=4, seed=0, spread=0.7):
    """Noise around a point for each class, (N, F) and (N,)."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    points = spread * random.normal(size=(classes, width))
    return (random.normal(size=(n, width)) + points[labels]).astype(np.float32), labels


def ridge_of(x, labels, classes, weights=None):
    x, labels = torch.from_numpy(x).double(), torch.from_numpy(labels)
    weights = x.new_ones(len(x)) if weights is None else torch.from_numpy(weights)
    return Ridge(x, labels, classes, weights)


def solve_by_hand(x, t, penalty, weights):
    """W and b of the least squares problem with rows √λ I below the centred features, each row times √a."""
    root = np.sqrt(weights)[:, None]
    mean_x, mean_t = (np.average(each, 0, weights) for each in (x, t))
    rows = np.concatenate([root * (x - mean_x), np.sqrt(penalty) * np.eye(x.shape[1])])
    targets = np.concatenate([root * (t - mean_t), np.zeros((x.shape[1], t.shape[1]))])
    w = np.linalg.lstsq(rows, targets, rcond=None)[0].T
    return w, mean_t - w @ mean_x


# More photos than features, fewer, and classes of one photo.
@pytest.mark.parametrize("n, width, classes", [(60, 20, 4), (12, 30, 3), (5, 8, 5), (3, 4, 2)])
@pytest.mark.parametrize("strength", [1e-3, 0.3, 30])
@pytest.mark.parametrize("uneven", [False, True])
def test_the_closed_forms_are_those_of_the_definition(n, width, classes, strength, uneven):
    x, labels = features(n, width, classes)
    weights = np.random.default_rng(1).uniform(0.2, 3, n) if uneven else np.ones(n)
    ridge = ridge_of(x, labels, classes, weights)
    t = np.eye(classes)[labels]
    penalty = strength * ridge.v.mean().item()
    w, b = ridge.solve(strength)
    expected = solve_by_hand(x.astype(float), t, penalty, weights)
    np.testing.assert_allclose(w, expected[0], atol=1e-9)
    np.testing.assert_allclose(b, expected[1], atol=1e-9)
    found = ridge.without_each(strength)
    for i in range(n):
        others = [np.delete(each, i, 0) for each in (x.astype(float), t)]
        w, b = solve_by_hand(*others, penalty, np.delete(weights, i))
        np.testing.assert_allclose(found[i], w @ x[i] + b, atol=1e-8)


def test_of_very_many_scores_some_photos_choose(monkeypatch):
    """Of 100 000 photos in 10 000 classes, 8 GB for each array would be needed."""
    x, labels = features()
    whole = solve_head(x, labels, 4)
    monkeypatch.setattr(head, "MOST_SCORES", 60)
    asked = []
    each = Ridge.without_each
    monkeypatch.setattr(Ridge, "without_each",
                        lambda ridge, strength, some: asked.append(some) or each(ridge, strength, some))
    few = solve_head(x, labels, 4)
    assert {len(some) for some in asked} == {15} and len({tuple(some.tolist()) for some in asked}) == 1
    right = [((x @ w.T + b).argmax(1) == labels).mean() for w, b in (whole, few)]
    assert right[1] > right[0] - 0.1
    np.testing.assert_allclose(each(ridge_of(x, labels, 4), 0.3, torch.tensor([7, 2])),
                               each(ridge_of(x, labels, 4), 0.3)[[7, 2]])


def test_the_scale_has_the_smallest_cross_entropy():
    x, labels = features()
    scores = ridge_of(x, labels, 4).without_each(0.3)
    labels = torch.from_numpy(labels)
    scale, least = best_scale(scores, labels)
    loss = LOSSES["cross-entropy"]()
    assert loss.forward(scale * scores, labels).item() == pytest.approx(least)
    assert 1 < scale < 100
    assert all(loss.forward(factor * scale * scores, labels) > least for factor in (0.9, 0.99, 1.01, 1.1))
    for unit in 0.1, 100:
        assert best_scale(unit * scores, labels) == pytest.approx((scale / unit, least)), "in any unit"


def test_the_scale_is_moderate_where_every_photo_is_right():
    """The loss of smoothed labels has a minimum even then. A head of huge scores would ruin fine-tuning."""
    labels = torch.arange(12) % 3
    scale, loss = best_scale(torch.eye(3).double()[labels], labels)
    assert 3 < scale < 5 and loss == pytest.approx(LOSSES["cross-entropy"]().least(3))


def test_noise_is_shrunk_and_signal_is_not(monkeypatch):
    """The strength that leave-one-out takes is the one that predicts other photos best."""
    def chosen(spread):
        x, labels = features(80, 60, 4, spread=spread)
        tried = []
        monkeypatch.setattr(Ridge, "solve", lambda ridge, each: tried.append(each) or solve(ridge, each))
        solve_head(x, labels, 4)
        return tried[-1]

    solve = Ridge.solve
    assert chosen(spread=3) < chosen(spread=0.3)


def test_a_head_predicts_photos_that_it_has_not_seen_and_is_no_more_certain_than_right():
    x, labels = features(1000, 20, 4)
    w, b = solve_head(x[:100], labels[:100], 4)
    scores = torch.from_numpy(x[100:] @ w.T + b)
    unseen = torch.from_numpy(labels[100:])
    right = (scores.argmax(1) == unseen).double().mean().item()
    confident = scores.softmax(1).amax(1).mean().item()
    assert right > 0.75 and right - 0.2 < confident < right + 0.02


def test_a_balanced_head_does_not_forget_the_rare_class():
    x, labels = features(2000, 20, 4, spread=0.35)
    rare = (labels == 0) & (np.arange(2000) % 20 != 0)
    few, of_few = x[~rare], labels[~rare]
    assert np.bincount(of_few).tolist() == [100, 500, 500, 500]

    def recall(balanced):
        w, b = solve_head(few, of_few, 4, balanced)
        return ((x[rare] @ w.T + b).argmax(1) == 0).mean()

    assert recall(balanced=True) > recall(balanced=False) + 0.2
    for one, other in zip(solve_head(few, of_few, 4), solve_head(few, of_few, 4, False), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("x", [np.zeros((6, 4), np.float32), np.ones((2, 3), np.float32)])
def test_photos_that_are_all_alike_get_a_head_of_finite_numbers(x):
    w, b = solve_head(x, np.arange(len(x)) % 2, 2)
    assert np.isfinite(w).all() and np.isfinite(b).all()
    scores = x @ w.T + b
    np.testing.assert_allclose(scores[:, 0], scores[:, 1])


def test_all_strengths_are_tried(monkeypatch):
    tried = []
    monkeypatch.setattr(Ridge, "without_each",
                        lambda ridge, strength, some: tried.append(strength) or ridge.z[:, :4])
    solve_head(*features(), 4)
    assert tried == head.STRENGTHS


@pytest.mark.parametrize("unit", [1e-3, 1e4])
def test_the_unit_of_the_features_changes_no_prediction(unit):
    x, labels = features()
    w, b = solve_head(x, labels, 4)
    scaled, same = solve_head((x * unit).astype(np.float32), labels, 4)
    np.testing.assert_allclose(scaled * unit, w, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(same, b, rtol=1e-3)
