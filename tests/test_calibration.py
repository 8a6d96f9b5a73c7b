"""scene/answer/calibration.py and strangeness.py: the formulas, the promise, and what is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scene.answer import calibration, modelfile, strangeness
from scene.answer.classifier import Classifier
from scene.answer.modelfile import ModelFileError
from scene.learn.calibrate import Measured, calibrate, draw, hold_out, measure, reference
from scene.models import FCNN
from scene.nn.loss import softmax
from scene.photos.folder import Photos
from tests import strange
from tests.asking import CLASSES, calibrated, small_network
from tests.jobs import main_job, make_photos
from tests.strategies import seeds

# Temperature


def labelled(photos, classes, temperature, seed=0):
    """Scores, and labels drawn from softmax(scores / temperature): the true temperature is known."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 3, (photos, classes)).astype(np.float32)
    chances = softmax(scores / temperature).cumsum(1)
    labels = (random.random((photos, 1)) > chances / chances[:, -1:]).sum(1)
    return scores, labels


@pytest.mark.parametrize("true", [0.3, 0.8, 1, 3])
def test_the_temperature_is_found(true):
    scores, labels = labelled(20_000, 5, true)
    found = calibration.temperature(scores, labels)
    assert found == pytest.approx(true, rel=0.05)
    assert calibration.temperature(scores * 10, labels) == pytest.approx(found * 10, rel=1e-4)
    assert calibration.temperature(scores + 100, labels) == pytest.approx(found, rel=1e-3)


@given(st.integers(2, 60), st.integers(2, 5), seeds)
def test_the_temperature_is_a_minimum_of_the_cross_entropy(photos, classes, seed):
    scores, labels = labelled(photos, classes, 1, seed)

    def loss(temperature):
        p = softmax(scores.astype(np.float64) / temperature)
        return -np.log(p[np.arange(photos), labels] + 1e-300).mean()

    found = calibration.temperature(scores, labels)
    assert 0.0099 <= found <= 100.1
    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01)) + 1e-9 or found < 0.011 or found > 99


@pytest.mark.parametrize("scale", [0, 1e4, -1])
def test_scores_that_no_temperature_suits_still_get_one(scale):
    """All the same, all right by far, and all wrong."""
    labels = np.array([0, 1, 2, 0, 1])
    scores = np.eye(3, dtype=np.float32)[labels] * scale
    assert 0.0099 < calibration.temperature(scores, labels) < 100.1


# Reliability


def test_reliability_by_hand():
    """Two bins of 15 are filled: 0.7 twice, one of them right, and 0.95 once, right."""
    p = np.array([[0.7, 0.3], [0.7, 0.3], [0.05, 0.95]])
    table = calibration.reliability(np.array([0, 1, 1]), p)
    assert [(row["photos"], row["accuracy"]) for row in table] == [(2, 0.5), (1, 1.0)]
    assert [row["confidence"] for row in table] == pytest.approx([0.7, 0.95])
    assert table[0]["from"] <= 0.7 < table[0]["to"] and table[1]["to"] == 1
    assert calibration.expected_calibration_error(table) == pytest.approx((2 * 0.2 + 0.05) / 3)


@given(st.integers(2, 5), st.integers(1, 60), seeds)
def test_the_reliability_table_is_its_definition(classes, photos, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=photos)
    p = random.dirichlet(np.full(classes, 0.3), photos)
    p[0] = np.eye(classes)[0]                               # as sure as can be: in the last bin
    expected = []
    for b in range(15):
        inside = [n for n in range(photos) if b <= p[n].max() * 15 < b + 1 or b == 14 and p[n].max() == 1]
        if inside:
            expected.append({"from": b / 15, "to": (b + 1) / 15, "photos": len(inside),
                             "confidence": pytest.approx(np.mean([p[n].max() for n in inside])),
                             "accuracy": pytest.approx((p[inside].argmax(1) == labels[inside]).mean())})
    assert calibration.reliability(labels, p) == expected


def test_calibrated_probabilities_are_reliable_and_others_are_not():
    scores, labels = labelled(20_000, 5, 2)
    ece = [calibration.expected_calibration_error(calibration.reliability(labels, softmax(scores / t)))
           for t in (calibration.temperature(scores, labels), 1)]
    assert ece[0] < 0.02 < 0.1 < ece[1]


# The promise


@pytest.mark.parametrize("error", [0.05, 0.1, 0.2])
def test_on_average_the_promise_is_kept(error):
    """300 photos at a time fit it, and 20 000 others test it."""
    scores, labels = labelled(20_000, 8, 1.4, seed=1)
    wrong = []
    for seed in range(40):
        mine, mine_labels = labelled(300, 8, 1.4, seed=seed + 2)
        found = calibration.fit(mine, mine_labels, None, error)
        p = softmax(scores / found["temperature"])
        reasons = calibration.reasons(p, None, found)
        report = calibration.evaluate(labels, p, reasons, found)
        assert set(reasons) == {None, "close_call"}
        wrong.append(report["error"])
    assert np.mean(wrong) == pytest.approx(error, abs=0.015)
    assert np.std(wrong) < 0.03


@given(st.integers(2, 300), st.floats(-2, 2), st.floats(0.3, 3), seeds)
def test_the_curve_is_the_likeliest_with_its_prior(photos, a, b, seed):
    """Where likelihood times prior is largest: Σ x (right - p) = (w - (0, 0.9)) / 0.05²."""
    random = np.random.default_rng(seed)
    c = random.uniform(0.1, 0.999, photos)
    x = np.stack([np.ones(photos), np.log(c / (1 - c))])
    right = random.random(photos) < 1 / (1 + np.exp(-(a + b * x[1])))
    p = calibration.chances(c, right)
    w = np.linalg.lstsq(x.T, np.log(p / (1 - p)), rcond=None)[0]
    np.testing.assert_allclose(x @ (right - p), (w - [0, 0.9]) / 0.05 ** 2, rtol=1e-6, atol=1e-4)


def test_an_answer_at_the_limit_is_sure_and_not_strange():
    logs = np.random.default_rng(0).normal(size=(400, 2))
    found = calibration.fit(*labelled(400, 3, 1), logs, 0.2)
    np.testing.assert_allclose(found["usual"], [logs.mean(0), logs.std(0)], rtol=1e-4)
    strange = strangeness.strangeness(logs, found["usual"])
    at = {**found, "sure": np.float64(0.75), "strange": strange[7]}
    assert calibration.reasons(np.array([[0.75, 0.25]]), logs[7:8], at) == [None]
    less = {**at, "strange": np.nextafter(strange[7], 0)}
    assert calibration.reasons(np.array([[0.75, 0.25]]), logs[7:8], less) == ["unlike_training"]


def test_held_out_photos_that_are_all_alike_leave_room_for_no_others():
    found = calibration.fit(*labelled(50, 3, 1), np.ones((50, 2)), 0.2)
    reasons = calibration.reasons(np.array([[1.0, 0, 0]] * 2), np.array([[1.0, 1.0], [2.0, 1.0]]), found)
    assert reasons == [None, "unlike_training"]


def test_the_threshold_at_its_limits():
    confidence = np.linspace(0.3, 0.99, 200)
    assert calibration.threshold(confidence, confidence > 0, 0.5) == pytest.approx(0.3)     # all are right
    assert calibration.threshold(confidence, confidence < 0, 0.01) == calibration.NEVER     # none is
    assert calibration.threshold(np.ones(3), np.ones(3, bool), 0.1) == 1
    report = calibration.evaluate(np.array([1]), np.array([[0.6, 0.4]]), ["close_call"],
                                  {"temperature": 1.0, "error": 0.01})
    assert report["answered"] == 0 and report["error"] is None
    assert calibration.describe(report).startswith("Sure about none of the test photos (1 % promised): ")


def test_before_the_calibration_p_was_softmax_of_the_scores():
    scores, labels = labelled(500, 4, 2)
    found = calibration.fit(scores, labels, None, 0.1)
    report = calibration.evaluate(labels, softmax(scores / found["temperature"]), [None] * 500, found)
    before = calibration.expected_calibration_error(calibration.reliability(labels, softmax(scores)))
    assert report["ece_before"] == pytest.approx(before, abs=1e-6)
    assert report["reasons"] == {"close_call": 0, "unlike_training": 0} and report["answered"] == 1


def test_the_words_state_both_shares():
    report = {"promised_error": 0.1, "error": 0.0981, "error_interval": (0.07, 0.13), "answered": 0.642,
              "ece": 0.021, "ece_before": 0.088}
    assert calibration.describe(report) == (
        "Sure about 64.2% of the test photos; of these, 9.8% are wrong (95 % interval 7.0% to 13.0%; "
        "10 % promised).\nExpected calibration error 2.1% (8.8% before calibration)")


# Strangeness


@pytest.mark.parametrize("size", [8, 13, 24, 37])
def test_texture_is_its_definition(size):
    photo = np.random.default_rng(size).integers(256, size=(2, size, size, 3), dtype=np.uint8)
    found = strangeness.texture(photo)
    assert found.dtype == np.float32
    for n, picture in enumerate(photo):
        red, green, blue = np.moveaxis(picture / 255, 2, 0)
        channels = [(red + green + blue) / 3, red - blue, green - (red + blue) / 2]
        expected = [channel.mean() for channel in channels]
        while len(channels[0]) >= 4:
            for axis in 1, 0:
                expected += [np.log(np.abs(np.diff(x, axis=axis)).mean() + 1 / 255) for x in channels]
            half = len(channels[0]) // 2
            channels = [x[:2 * half, :2 * half].reshape(half, 2, half, 2).mean((1, 3)) for x in channels]
        np.testing.assert_allclose(found[n], expected, atol=1e-4)
    assert strangeness.shapes(2, 5, size)["texture_centre"] == (1, found.shape[1])


@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 4), seeds)
def test_distances_are_those_of_mahalanobis(photos, features, classes, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(photos, features)).astype(np.float32)
    labels = random.integers(classes, size=photos)
    centres, whitener = strangeness.gaussian(x, labels, classes)
    rest = x.astype(np.float64) - [x[labels == k].mean(0, dtype=np.float64) for k in labels]
    covariance = rest.T @ rest / photos
    variances = covariance.diagonal()
    covariance += np.diag(0.01 * np.maximum(variances, variances.mean() / 100) + 1e-14)
    y = random.normal(size=(3, features)).astype(np.float32)
    d = y[:, None] - centres[None].astype(np.float64)                           # (3, K, F)
    expected = np.einsum("nkf,fg,nkg->nk", d, np.linalg.inv(covariance), d).min(1)
    if variances.mean() > 1e-6:
        np.testing.assert_allclose(strangeness.nearest(y, centres, whitener), expected, rtol=0.02, atol=1e-4)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=9))
def test_strangeness_is_fishers_sum_over_logistic_distributions(rows):
    """-Σ log p, where p is the chance of a logistic distribution with deviation 1 to be larger than z."""
    usual = np.array([[1.0, -2.0], [0.5, 2.0]])
    logs = np.array(rows)
    larger = 1 / (1 + np.exp((logs - usual[0]) / usual[1] * np.pi / 3 ** 0.5))
    np.testing.assert_allclose(strangeness.strangeness(logs, usual), -np.log(larger).sum(1), rtol=1e-6)


def test_a_class_without_photos_has_the_mean_of_all_as_its_centre():
    x = np.random.default_rng(0).normal(size=(20, 3))
    centres, _ = strangeness.gaussian(x, np.zeros(20, int), 2)
    np.testing.assert_allclose(centres[1], x.mean(0), rtol=1e-5)


def scenery(random):
    """A picture with a photo's regularities: rough at every scale, brighter above than below."""
    size = 32
    waves = np.fft.rfft2(random.normal(size=(size, size)))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) + 1 / size
    picture = np.fft.irfft2(waves / frequency ** 1.2, (size, size))
    picture = 110 + 40 * picture / picture.std() + np.linspace(40, -40, size)[:, None]
    colours = picture[..., None] * random.uniform(0.8, 1.2, 3) + random.normal(0, 2, (size, size, 3))
    return np.clip(colours, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def judged():
    """A Classifier with a calibration, and photos that it does not know: (classifier, pixels)."""
    random = np.random.default_rng(0)
    pixels = np.stack([scenery(random) for _ in range(900)])
    labels = np.arange(900) % 3
    network = FCNN(3, 32).start(torch.Generator().manual_seed(0))
    card = modelfile.make_card(network, "FCNN", CLASSES)
    plain = Classifier(network, card)
    parts = [Photos(pixels[i:j], labels[i:j], [""] * (j - i), CLASSES) for i, j in ((0, 500), (500, 700))]
    found = calibrate(plain, *parts, 0.4)
    return Classifier.load(modelfile.encode(network, card | {"calibration": found})), pixels[700:]


def strangeness_of(classifier, pixels):
    fitted = classifier.calibration
    logs = strangeness.distances(classifier.features(pixels), classifier.textures(pixels), fitted)
    return strangeness.strangeness(logs, fitted["usual"])


@pytest.mark.parametrize("kind", strange.KINDS)
def test_what_is_no_photo_is_refused(kind, judged):
    """At a limit that keeps 90 % of the photos, 99 % is refused, by texture: the network is untrained."""
    classifier, known = judged
    pixels = strange.pictures(kind, 100, 32)
    limit = np.quantile(strangeness_of(classifier, known), 0.9)
    assert (strangeness_of(classifier, pixels) > limit).mean() >= 0.99
    _, reasons = classifier.judge(pixels)
    assert reasons.count("unlike_training") >= 90


def test_photos_are_not_strange(judged):
    classifier, known = judged
    assert (strangeness_of(classifier, known) <= classifier.calibration["strange"]).mean() > 0.92


def test_each_photo_is_judged_as_if_alone(judged):
    classifier, known = judged
    p, reasons = classifier.judge(known[:30])
    np.testing.assert_allclose(p, classifier.probabilities(known[:30]), atol=1e-6)
    for i in 0, 7, 29:
        answer = classifier.answer_pixels(known[i])
        expected = dict(zip(CLASSES, map(float, p[i]), strict=True))
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert answer["sure"] == (reasons[i] is None) and answer.get("reason") == reasons[i]
        assert ("reason" in answer) != answer["sure"]


def test_the_temperature_divides_the_scores(judged):
    classifier, known = judged
    scores = classifier.scores(classifier.features(known[:9]))
    expected = softmax(scores / classifier.temperature)
    np.testing.assert_allclose(classifier.probabilities(known[:9]), expected, atol=1e-6)


# In the model file


def test_names_that_are_not_known_are_ignored():
    assert Classifier.load(calibrated(later=np.ones(3))).calibration["later"].shape == (3,)


def test_without_strangeness_an_answer_is_a_close_call_or_sure():
    classifier = Classifier.load(calibrated(strange=None, sure=calibration.NEVER))
    assert classifier.judge(np.zeros((1, 16, 16, 3), np.uint8))[1] == ["close_call"]


@pytest.mark.parametrize("changes", [
    {"temperature": np.float32(0)}, {"temperature": np.float32(-1)}, {"temperature": np.ones(1)},
    {"temperature": None}, {"sure": None}, {"sure": np.ones(2)}, {"error": None}, {"usual": None},
    {"usual": np.zeros((2, 2))}, {"usual": np.ones((2, 3))}, {"centres": None},
    {"centres": np.ones((4, 256))},
    {"whitener": np.ones((256, 255))}, {"whitener": np.ones(256)}, {"texture_centre": np.ones((1, 4))},
    {"texture_whitener": None}, {"strange": np.ones(1)},
], ids=str)
def test_a_calibration_that_does_not_fit_is_refused(changes):
    with pytest.raises(ModelFileError, match="^its calibration is not that of its network$"):
        Classifier.load(calibrated(**changes))


def test_numbers_that_overflow_are_strange():
    """As large as a file may hold: no warning, no traceback, and no sure answer."""
    data = calibrated(whitener=np.full((256, 256), 3e38))
    photo = np.random.default_rng(0).integers(256, size=(1, 16, 16, 3), dtype=np.uint8)
    assert Classifier.load(data).judge(photo)[1] == ["unlike_training"]


def test_a_temperature_near_0_or_infinity_gives_finite_probabilities():
    for temperature in 1e-38, 3e38:
        data = calibrated(temperature=np.float32(temperature))
        try:
            p = Classifier.load(data).probabilities(np.ones((1, 16, 16, 3), np.uint8))
        except ModelFileError as error:
            assert str(error) == "its probabilities are NaN"
        else:
            assert p.sum() == pytest.approx(1, abs=1e-5)


# Holding out


@pytest.mark.parametrize("counts, number", [
    ([500, 500], 100), ([1000, 1000, 1000], 150), ([5000] * 4, 500), ([1600, 160, 16, 8], 100),
    ([2] * 500, 100), ([1] * 999 + [500], 100)])
def test_a_twentieth_of_each_class_is_held_out(counts, number):
    labels = np.repeat(np.arange(len(counts)), counts)
    held = draw(labels, 0)
    found = np.bincount(labels[held], minlength=len(counts))
    wanted = number * np.array(counts) / len(labels)
    assert (np.abs(found - wanted) < 1).all() or min(counts) == 1
    assert (found < counts).all()                           # never all of a class
    assert held.sum() == number or min(counts) == 1
    assert (draw(labels, 0) == held).all() and (draw(labels, 1) != held).any()


def test_photos_with_a_near_copy_are_not_held_out():
    labels = np.arange(2000) % 4
    groups = np.arange(2000) // 2 * np.where(np.arange(2000) < 1600, 1, -1)     # pairs, then pairs with signs
    groups[1900:] = np.arange(10_000, 10_100)                                   # and 100 alone
    held = draw(labels, 0, groups)
    assert np.flatnonzero(held).min() >= 1900 and held.sum() > 90


def test_the_rest_is_trained_on_and_no_pixel_is_lost():
    pixels = np.arange(1200, dtype=np.uint32)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint32)
    labels = np.arange(1200) // 300
    paths = [str(i) for i in range(1200)]
    groups = np.arange(1200)
    groups[:290] = 0
    rest, held = hold_out(Photos(pixels.copy(), labels, paths, CLASSES, groups), seed=3)
    assert min(map(int, held.paths)) >= 290 and sorted([*rest.groups, *held.groups]) == sorted(groups)
    assert len(held.labels) == 85 and len(rest.labels) == 1115
    for part in rest, held:
        numbers = part.pixels[:][:, 0, 0, 0]
        assert [paths[i] for i in numbers] == part.paths and (labels[numbers] == part.labels).all()
        assert (np.diff(numbers.astype(int)) > 0).all()
    assert sorted([*rest.paths, *held.paths], key=int) == paths


def test_folds_calibrate_where_no_photo_is_spared(tmp_path):
    """The model has a calibration, made of the answers by networks that were not trained on the photos."""
    make_photos(tmp_path / "photos", ("dark", "light"), 20)
    result = main_job("photos", "FCNN", "--folds", 2, "--epochs", 2, "--error", 0.3, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\nSure about " in result.stdout and "30 % promised)" in result.stdout
    report = json.loads((tmp_path / "metrics_FCNN.json").read_text())
    found = Classifier.open(tmp_path / "model_FCNN").calibration
    assert found["temperature"] == np.float32(report["calibration"]["temperature"]) and "strange" in found


@pytest.mark.parametrize("labels, groups", [
    (np.arange(999) % 2, np.arange(999)), (np.arange(2000), np.arange(2000)),
    (np.arange(2000) % 2, np.arange(2000) // 2)], ids=["few photos", "one of each class", "all have copies"])
def test_where_no_photo_can_be_spared_none_is_held_out(labels, groups):
    pixels = np.zeros((len(labels), 2, 2, 3), np.uint8)
    photos = Photos(pixels, labels, [""] * len(labels), CLASSES, groups)
    assert hold_out(photos, 0) == (photos, None)


def test_reference_and_measure_are_what_calibrate_puts_together():
    network = small_network("CNN")
    classifier = Classifier(network, modelfile.make_card(network, "CNN", CLASSES))
    pixels = np.random.default_rng(0).integers(256, size=(60, 16, 16, 3), dtype=np.uint8)
    photos = Photos(pixels, np.arange(60) % 3, [""] * 60, CLASSES)
    fitted = reference(classifier, photos)
    measured = measure(classifier, fitted, photos)
    assert isinstance(measured, Measured)
    assert measured.scores.shape == (60, 3) and measured.logs.shape == (60, 2)
    both = fitted | calibration.fit(*measured, 0.1)
    found = calibrate(classifier, photos, photos, 0.1)
    assert both.keys() == found.keys()
    for name in both:
        np.testing.assert_array_equal(both[name], found[name])
