"""Probabilities that mean what they say, and when to answer "not sure".

All of it is fitted on held-out photos, which the network was not trained on.

**Temperature.** A network tends to be too sure of all its answers alike, or not sure enough. One number mends
it:

    p = softmax(β z),  β = 1 / T,  where β minimises the cross-entropy  L(β) = -1/N Σₙ log pₙ,label
    L'(β) = 1/N Σₙ (Eₙ[z] - zₙ,label)       L''(β) = 1/N Σₙ Varₙ[z]       mean and variance under pₙ

L is convex, so Newton's method finds its minimum.

**Reliability.** Of the photos whose answer has a confidence c = max p of 70 %, 70 % should be right. With the
photos in B bins of equal width by their confidence, the expected calibration error is

    ECE = Σ_b N_b / N · |share of right answers in b - mean confidence in b|

**A promise.** An answer is sure if c ≥ t. Among the held-out photos, ordered by c, t is the lowest confidence
down to which on average `error` of the answers are wrong, so that as many photos as possible are answered.
Counting the wrong answers among a few hundred photos would be noisy: a smooth curve estimates their number.

    P(right | c) = σ(a + b logit c),   σ(x) = 1 / (1 + e⁻ˣ),   logit c = log c - log(1 - c)

The temperature has already brought a near 0 and b near 1. It suits all answers together, and the surest ones
are wrong a little more often than it says. So the fit maximises the likelihood times a Gaussian prior,
a = 0 ± 0.05 and b = 0.9 ± 0.05, which a few hundred photos can correct. (tests/bench/README.md compares.)

**Strangeness.** A photo that is stranger (strangeness.py) than 97.5 % of the held-out photos is unlike those
of the training. Then p says nothing, and its answer is not sure, whatever c is.

Source: Guo et al., On Calibration of Modern Neural Networks (2017), §2 to §4; Platt, Probabilistic Outputs
for Support Vector Machines (1999), for the curve; Geifman, El-Yaniv, Selective Classification for Deep Neural
Networks (2017), for promises.
Next: modelfile.py
"""

from __future__ import annotations

import numpy as np

from scene.answer import strangeness
from scene.answer.metrics import by_parts, wilson_interval
from scene.nn.loss import softmax

PROMISE = 0.1               # the share of wrong answers among the sure ones, by default
BINS = 15
USUAL = 0.975               # of the known photos are less strange than the limit
NEVER = 2.0                 # a confidence that no answer has
PRIOR = np.array([0.0, 0.9])     # of a and b
SPREAD = 0.05               # the standard deviation of both
CLOSE_CALL = "close_call"
UNLIKE_TRAINING = "unlike_training"
REASONS = CLOSE_CALL, UNLIKE_TRAINING


def fit(scores: np.ndarray, labels: np.ndarray, logs: np.ndarray | None,
        error: float) -> dict[str, np.ndarray]:
    """The calibration from held-out photos' scores (N, K) and labels (N,), {name: float32 array}.

    logs: the photos' `strangeness.distances`, (N, 2), or None to leave strangeness out.
    error: the share of wrong answers to promise, 0…1.
    """
    found = {"temperature": temperature(scores, labels), "error": error}
    p = softmax(scores / found["temperature"])
    known = np.ones(len(labels), bool)
    if logs is not None:
        found["usual"] = np.stack([logs.mean(0), logs.std(0) + 1e-6])
        strange = strangeness.strangeness(logs, found["usual"])
        found["strange"] = np.quantile(strange, USUAL)
        known = strange <= found["strange"]
    found["sure"] = threshold(p[known].max(1), p[known].argmax(1) == labels[known], error)
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """T, from scores (N, K) and labels (N,). It stays from 0.01 to 100."""
    z = scores - scores.mean(1, keepdims=True, dtype=np.float64)
    own = z[np.arange(len(z)), labels]
    beta = 1.0
    for _ in range(100):
        p = softmax(beta * z)
        mean = (p * z).sum(1)
        slope = (mean - own).mean()
        curvature = ((p * z * z).sum(1) - mean * mean).mean()
        # A step at most halves or doubles β: far from the minimum L is no parabola.
        after = np.clip(beta - slope / max(curvature, 1e-12), max(beta / 2, 0.01), min(beta * 2, 100))
        if abs(after - beta) < 1e-6 * beta:
            break
        beta = after
    return float(1 / beta)


def threshold(confidence: np.ndarray, right: np.ndarray, error: float) -> float:
    """The least confidence of a sure answer, from those of photos, (N,), and whether they are right, (N,).

    NEVER if not even the most confident answers are good enough.
    """
    order = np.argsort(-confidence, kind="stable")
    c = confidence[order]
    wrong = 1 - chances(c, right[order])
    shares = np.cumsum(wrong) / np.arange(1, len(c) + 1)
    enough = np.flatnonzero(shares <= error)
    return float(c[enough[-1]]) if len(enough) else NEVER


def chances(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """P(right | c) of photos, (N,), by the curve that fits them.   confidence, right: (N,)."""
    c = np.clip(confidence.astype(np.float64), 1e-6, 1 - 1e-6)
    x = np.stack([np.ones_like(c), np.log(c) - np.log1p(-c)], 1)                # (N, 2)
    w = PRIOR
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ w))
        slope = x.T @ (right - p) - (w - PRIOR) / SPREAD ** 2
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.eye(2) / SPREAD ** 2
        step = np.linalg.solve(curvature, slope)
        w = w + np.clip(step, -0.2, 0.2)
        if np.abs(step).max() < 1e-9:
            break
    return 1 / (1 + np.exp(-x @ w))


def reasons(p: np.ndarray, logs: np.ndarray | None, calibration: dict[str, np.ndarray]) -> list[str | None]:
    """Why the answer about each photo is not sure, or None if it is.

    p: their probabilities, (N, K). logs: their `strangeness.distances`, (N, 2), or None if the calibration
    has no strangeness.
    """
    found = np.where(p.max(1) >= calibration["sure"], None, CLOSE_CALL)
    if logs is not None:
        strange = strangeness.strangeness(logs, calibration["usual"])
        found[~(strange <= calibration["strange"])] = UNLIKE_TRAINING           # also if it is NaN
    return list(found)


def is_valid(calibration: dict[str, np.ndarray], network) -> bool:
    """Whether the calibration in a model file fits its network. Names that are not known here are ignored."""
    shapes = {"temperature": (), "error": (), "sure": ()}
    if "strange" in calibration:
        shapes |= {"strange": (), "usual": (2, 2)}
        shapes |= strangeness.shapes(*network.layers[-1].w.shape, network.image_size)
    return (all(name in calibration and calibration[name].shape == shape for name, shape in shapes.items())
            and calibration["temperature"] > 0 and bool((calibration.get("usual", np.ones(2))[1] > 0).all()))


# How good it is


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS,
                power: float = 1) -> list[dict]:
    """For each bin with photos in it: its limits, mean confidence, share of right answers, and photos.

    power: that of the probabilities, which are then normalised again: softmax(z / T)ᵀ ∝ exp z.
    """
    def confidence(p):
        raised = p.astype(np.float64) ** power
        return raised.max(1) / raised.sum(1) if power != 1 else raised.max(1)

    c = np.concatenate(by_parts(confidence, probabilities.shape[1], probabilities))
    right = probabilities.argmax(1) == labels
    place = np.minimum((c * bins).astype(int), bins - 1)
    return [{"from": b / bins, "to": (b + 1) / bins, "confidence": float(c[place == b].mean()),
             "accuracy": float(right[place == b].mean()), "photos": int((place == b).sum())}
            for b in range(bins) if (place == b).any()]


def expected_calibration_error(table: list[dict]) -> float:
    """ECE from a table of `reliability`."""
    photos = sum(row["photos"] for row in table)
    return sum(row["photos"] * abs(row["accuracy"] - row["confidence"]) for row in table) / photos


def evaluate(labels, probabilities, reasons, calibration) -> dict:
    """How well a calibration does on test photos, ready for JSON. The arguments are arrays as above."""
    temperature = float(calibration["temperature"])
    table = reliability(labels, probabilities)
    sure = np.array([reason is None for reason in reasons])
    wrong = int((probabilities.argmax(1) != labels)[sure].sum())
    return {
        "temperature": temperature,
        "ece_before": expected_calibration_error(reliability(labels, probabilities, power=temperature)),
        "ece": expected_calibration_error(table),
        "reliability": table,
        "promised_error": round(float(calibration["error"]), 6),
        "answered": float(sure.mean()),
        "error": wrong / int(sure.sum()) if sure.any() else None,
        "error_interval": wilson_interval(wrong, int(sure.sum())) if sure.any() else None,
        "reasons": {name: reasons.count(name) for name in REASONS},
    }


def describe(report: dict) -> str:
    """A report of `evaluate` in two lines, for a terminal."""
    promised = f"{100 * report['promised_error']:g} % promised"
    if report["error"] is None:
        first = f"Sure about none of the test photos ({promised}): a larger --error promises less."
    else:
        low, high = report["error_interval"]
        first = (f"Sure about {report['answered']:.1%} of the test photos; of these, {report['error']:.1%} "
                 f"are wrong (95 % interval {low:.1%} to {high:.1%}; {promised}).")
    return (f"{first}\nExpected calibration error {report['ece']:.1%} "
            f"({report['ece_before']:.1%} before calibration)")
