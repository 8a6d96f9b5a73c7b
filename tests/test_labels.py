"""answer/labels.py and answer/features.py: label errors that were planted, and closed forms."""

import numpy as np
import pytest

from scene.answer.features import nearest, principal_components
from scene.answer.labels import confident_joint, count_errors, suspects, thresholds

P = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9], [0.95, 0.05]])
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_the_confident_joint_by_hand():
    """t = (0.6, 31/60): photo 2 has the wrong label 0, photo 5 the wrong label 1."""
    assert thresholds(LABELS, P) == pytest.approx([0.6, (0.6 + 0.9 + 0.05) / 3])
    assert confident_joint(LABELS, P).among([0, 1]).tolist() == [[2, 1], [1, 2]]
    assert count_errors(LABELS, P).tolist() == [1, 1]
    assert [(i, k) for _, i, k in suspects(LABELS, P)] == [(5, 0), (2, 1)]
    assert suspects(LABELS, P)[0][0] == pytest.approx(0.05 / ((0.6 + 0.9 + 0.05) / 3) * (1 / 3) ** 0.5)


def test_a_photo_below_every_threshold_belongs_to_no_class():
    """t = (0.8, 0.9), by three photos and by one: photo 2 reaches neither."""
    p = np.array([[0.95, 0.05], [0.9, 0.1], [0.55, 0.45], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1])
    assert thresholds(labels, p) == pytest.approx([0.8, 0.9])
    joint = confident_joint(labels, p)
    assert joint.among([0, 1]).tolist() == [[2, 0], [0, 1]] and joint.there.tolist() == [2, 1]
    assert suspects(labels, p) == []


def test_a_class_of_one_photo_that_belongs_elsewhere_has_one_error():
    p = np.array([[0.5, 0.5], [0.5, 0.5], [0.7, 0.3]])
    assert count_errors(np.array([0, 0, 1]), p).tolist() == [0, 1]


def test_a_usual_confusion_accuses_less_than_a_rare_one():
    """Of ten photos of class 0 four are taken for 1, and one for 2, all with the same probabilities."""
    labels = np.repeat([0, 1, 2], 10)
    answers = np.array([0] * 5 + [1] * 4 + [2] + [1] * 10 + [2] * 10)
    p = np.full((30, 3), 0.1) + 0.7 * np.eye(3)[answers]
    found = suspects(labels, p)
    assert found[0][1:] == (9, 2) and {i for _, i, _ in found[1:]} <= {5, 6, 7, 8}
    assert found[1][0] / found[0][0] == pytest.approx(2)


def answers(labels, classes, random):
    """Probabilities of a network that is right for most photos, and often takes a class for the next one."""
    z = random.normal(size=(len(labels), classes))
    z[np.arange(len(labels)), labels] += random.uniform(1.5, 6, len(labels))
    z[np.arange(len(labels)), (labels + 1) % classes] += 1
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_planted_label_errors_come_first(seed):
    random = np.random.default_rng(seed)
    true = random.integers(10, size=3000)
    p = answers(true, 10, random)
    assert 0.75 < (p.argmax(1) == true).mean() < 0.95
    planted = random.choice(3000, 60, replace=False)
    labels = true.copy()
    labels[planted] = (labels[planted] + random.integers(1, 10, 60)) % 10
    found = suspects(labels, p)
    first = {i for _, i, _ in found[:60]}
    assert len(first & set(planted.tolist())) > 0.6 * 60                # by chance: 0.02 * 60
    seems = {i: k for _, i, k in found}
    hits = [i for i in planted if i in seems]
    assert len(hits) > 35 and np.mean([seems[i] == true[i] for i in hits]) > 0.8


def test_right_labels_of_a_sure_network_are_no_suspects():
    labels = np.arange(30) % 3
    assert suspects(labels, np.eye(3)[labels] * 0.8 + 0.1 * (1 - np.eye(3)[labels])) == []


def test_classes_without_photos_and_sets_of_one_photo_do_no_harm():
    p = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    assert suspects(np.array([0, 0]), p) == []
    assert suspects(np.array([2]), p[:1]) == []
    assert thresholds(np.array([0, 0]), p)[1:].tolist() == [np.inf, np.inf]
    assert np.isfinite([belief for belief, _, _ in suspects(np.array([1, 2]), p)]).all()


# Features


def test_principal_components_are_those_of_the_singular_values():
    x = np.random.default_rng(0).normal(size=(50, 6)) @ np.diag([5, 3, 1, 1, 1, 0.1]) + 7
    places, share = principal_components(x)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    assert share == pytest.approx(s[:2] ** 2 / (s ** 2).sum())
    for k in range(2):
        expected = u[:, k] * s[k]
        assert np.allclose(places[:, k], expected) or np.allclose(places[:, k], -expected)
    assert (principal_components(x[::-1])[0][::-1] == pytest.approx(places))


@pytest.mark.parametrize("seed", range(12))
def test_every_component_points_to_where_its_largest_feature_grows(seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(20, 6)) @ random.normal(size=(6, 6))
    places, _ = principal_components(x, 6)
    loadings = places.T @ (x - x.mean(0))                   # (6, F), each along its direction
    assert (np.take_along_axis(loadings, abs(loadings).argmax(1)[:, None], 1) > 0).all()
    assert principal_components(x)[0].shape == (20, 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_component_points_to_where_its_largest_feature_grows(sign):
    t = np.array([-2.0, -1, 0, 3])
    x = np.stack([0.1 * t, sign * 4 * t, np.full(4, 7.0)], 1)
    places, share = principal_components(x)
    assert places.shape == (4, 2) and share == pytest.approx([1, 0])
    assert places[:, 0] == pytest.approx(sign * t * 4.00125, rel=1e-3)


@pytest.mark.parametrize("x", [np.ones((5, 3)), np.zeros((5, 2)), np.ones((1, 4))])
def test_photos_that_are_all_the_same_have_one_place(x):
    places, share = principal_components(x.astype(np.float32))
    assert np.allclose(places, 0) and np.isfinite(share).all()


def test_the_nearest_are_those_of_the_smallest_angle():
    features = np.array([[1, 0], [0, 2], [3, 3], [0, 0]], np.float32)
    assert nearest(features, np.array([[0, 5], [10, 1]], np.float32), 2).tolist() == [[1, 2], [0, 2]]


def test_neither_the_length_of_features_nor_of_a_query_counts():
    """The second is at a smaller angle, though the first has the larger product with the query."""
    features = np.array([[0.9, 0.4], [0.05, 0.0], [0.2, 0.9]], np.float32)
    assert nearest(features, np.array([[0.5, 0], [0.01, 0.02]], np.float32), 3).tolist() == [
        [1, 0, 2], [2, 0, 1]]
