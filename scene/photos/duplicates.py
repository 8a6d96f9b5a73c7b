"""Copies of a photo: exact ones, and near ones, which are smaller, brighter, mirrored, cropped a little, ….

Comparing every photo with every other would take hours for 90 000 of them. So a hash of 64 bits first brings
together those that might be copies, in a time that grows like the number of photos. Then pixels decide.

    small grey pictures -> cosine transform -> signs: the hash -> photos that share a part of it: candidates
    candidates -> one aligned to the other -> fine detail correlated -> copies, or not

Nothing is decoded for this: the pictures, 24 pixels a side, come from the pixels that training uses.

Next: pixels.py
"""

from itertools import pairwise, product

import numpy as np

SIDE = 24                   # of the small pictures, in pixels
LUMA = np.float32([0.299, 0.587, 0.114])        # ITU-R, BT.601 (2011), §2.5.1
# Grey levels, the standard deviation of a small picture's fine detail. Plain colours and gradients have at
# most 0.5, from rounding, and one photo in a thousand has less than 1.7. Without detail, all look alike.
LEAST_DETAIL = 1.0

# The hash. The figures are for photos cropped by 5 % at all four sides, which are the hardest to find.
WAVES = 8                   # frequencies of the cosine transform, in each direction
MOST_FLIPPED = 20           # of 64 bits: crops flip 9, and 98 of 100 at most 17; other photos flip 31 ± 4
ROUGHLY = 0.8               # correlation of the waves: 99 of 100 crops reach it, 7 of 100 other candidates
LOWEST = 7                  # keys are made of waves with i + j ≤ 7, which flip least
KEYS = 16                   # for each photo. With 16 bits and 3 doubtful ones, 95 of 100 crops share a key
DOUBTFUL = 3                # bits of a key, those with the smallest waves, that are tried both ways
MOST_TOGETHER = 64          # photos that share a key: the others are compared with these, so time is bounded

# The pixels. Of copies, 99 in 100 reach this. Among the 4 billion pairs of 90 000 photos, few others do.
ALIKE = 0.75
STEPS = 3                   # of the alignment
MOST_MOVED = 0.15           # of the side, by which the alignment may move or stretch
PAIRS = 1000                # compared at once
QUERIES = 1 << 16           # photos whose keys are looked up at once

BURST = 10                  # seconds from one photo of a burst to the next, at most


def shrink(pixels: np.ndarray) -> np.ndarray:
    """The small grey picture of a photo: (S, S, 3) -> (SIDE, SIDE), both uint8."""
    rows = resampling(np.zeros(1), np.ones(1), len(pixels))[0]                  # (SIDE, S)
    grey = pixels.astype(np.float32) @ LUMA                                     # (S, S, 3) -> (S, S)
    return np.round(rows @ grey @ rows.T).astype(np.uint8)


def find_groups(digests: list, pictures: np.ndarray) -> np.ndarray:
    """Groups of copies: (N,) int64, for each photo the index of the first photo of its group.

    digests: one for each photo, equal for exact copies, or None for a photo to leave alone.
    pictures: uint8 (N, SIDE, SIDE), from `shrink`.
    """
    groups = Groups(len(digests))
    first = {}
    for i, digest in enumerate(digests):
        if digest is not None:
            groups.join(i, first.setdefault(digest, i))
    chosen = np.array(sorted(first.values()), np.int64)         # one of each, since exact copies are found
    find_near(pictures, chosen[has_detail(pictures, chosen)], groups)
    return groups.labels()


def has_detail(pictures, chosen):
    """Which of the chosen pictures have enough detail to be told apart: C indices -> (C,) bool."""
    spread = [fine(few).std((1, 2)) for few in by_few(pictures, chosen)]
    return np.concatenate([*spread, np.empty(0)]) >= LEAST_DETAIL


def by_few(pictures, chosen):
    """Yields the chosen pictures as float32, PAIRS at a time: there may be a million."""
    return (pictures[chosen[i:i + PAIRS]].astype(np.float32) for i in range(0, len(chosen), PAIRS))


def find_near(pictures, chosen, groups):
    """Joins the groups of the chosen photos, given by their indices, that are near-copies."""
    for i, j, mirrored in candidates(transform(pictures, chosen)):
        i, j = chosen[i], chosen[j]
        for start in range(0, len(i), PAIRS):
            few = range(start, min(start + PAIRS, len(i)))
            k = np.array([k for k in few if groups.find(i[k]) != groups.find(j[k])], np.int64)
            if not len(k):
                continue
            a, b = pictures[i[k]].astype(np.float32), pictures[j[k]].astype(np.float32)
            b = np.where(mirrored[k, None, None], b[:, :, ::-1], b)
            for pair in k[are_alike(a, b)]:
                groups.join(i[pair], j[pair])


def join_bursts(groups: np.ndarray, classes: list[str], times: np.ndarray) -> np.ndarray:
    """The groups of photos, joined where photos of a class were taken within seconds: (N,) -> (N,).

    A burst shows one scene, so a network that has seen one of its photos knows the others. times: (N,), in
    seconds, NaN if unknown.
    """
    joined = Groups(len(groups))
    for i, group in enumerate(groups):
        joined.join(i, group)
    _, labels = np.unique(np.array(classes, object), return_inverse=True)
    order = np.lexsort((times, labels))
    for i, j in pairwise(order):
        if labels[i] == labels[j] and times[j] - times[i] <= BURST:
            joined.join(i, j)
    return joined.labels()


class Groups:
    """Disjoint sets of the numbers 0…count-1. Each set is known by its smallest number.

    Source: Galler, Fischer, An Improved Equivalence Algorithm (1964).
    """

    def __init__(self, count):
        self.parent = list(range(count))        # a number of the same set, not larger: itself if the smallest

    def find(self, i):
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]        # halves the way for the next time
            i = self.parent[i]
        return i

    def join(self, i, j):
        i, j = sorted((self.find(i), self.find(j)))
        self.parent[j] = i

    def labels(self):
        return np.array([self.find(i) for i in range(len(self.parent))], np.int64)


# Candidates, by their hash


def candidates(waves):
    """Yields pairs that might be copies, key by key: arrays i, j, and whether j is mirrored, (P,) each.

    waves: (N, 64), from `transform`.

    The hash of a picture is the signs of its slowest waves. A change of light leaves them alone, and a small
    crop flips few. Mirroring negates the odd waves across. Pictures are compared if they share a key, a few
    bits of the hash. There are about as many keys as pictures, so the pairs grow like the pictures. A longer
    key is flipped more easily, so above 65 000 pictures it grows more slowly, and not beyond 19 bits.
    Source: Indyk, Motwani, Approximate Nearest Neighbors (1998); Lv et al., Multi-Probe LSH (2007).
    """
    i, j = np.indices((WAVES, WAVES)).reshape(2, -1)
    odd = j % 2 == 1
    slow = np.flatnonzero((i + j <= LOWEST) & (i + j > 0))
    bits = waves > 0
    hashes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    mirror = np.packbits(odd).view(np.uint64)
    needed = len(waves).bit_length()
    length = max(8, min(16, needed), min(19, needed - 1))
    random = np.random.default_rng(0)
    tested = np.empty(0, np.int64)
    for _ in range(KEYS):
        chosen = random.permutation(slow)[:length]
        found = []
        for mirrored in (False, True):
            signs = bits[:, chosen] ^ (odd[chosen] & mirrored)
            for i, j in sharing(bits[:, chosen], signs, abs(waves[:, chosen])):
                near = np.bitwise_count(hashes[i] ^ hashes[j] ^ mirror * mirrored) <= MOST_FLIPPED
                i, j = i[near], j[near]
                near = np.einsum("pw,pw->p", waves[i] * np.where(odd & mirrored, -1, 1), waves[j]) >= ROUGHLY
                low, high = np.minimum(i, j)[near], np.maximum(i, j)[near]
                found.append((low * len(waves) + high)[low < high] * 2 + mirrored)
        new = np.setdiff1d(np.concatenate(found), tested)
        tested = np.concatenate([tested, new])
        yield new // 2 // len(waves), new // 2 % len(waves), new % 2 == 1


def sharing(bits, signs, size):
    """Yields the pairs i, j where bits[j] = signs[i], except for signs in doubt: indices, (P,) each.

    bits, signs: bool (N, length), size: how large the waves are whose signs these are.
    """
    powers = 1 << np.arange(bits.shape[1])
    keys, wanted = bits @ powers, signs @ powers                                # (N, length) -> (N,)
    doubtful = powers[np.argsort(size, 1, kind="stable")[:, :DOUBTFUL]]         # (N, DOUBTFUL)
    order = np.argsort(keys, kind="stable")
    ends = np.cumsum(np.bincount(keys, minlength=2 * powers[-1]))
    starts = np.concatenate([[0], ends[:-1]])
    for flips in product([0, 1], repeat=DOUBTFUL):
        every = wanted ^ doubtful @ np.array(flips)
        for first in range(0, max(1, len(every)), QUERIES):
            key = every[first:first + QUERIES]
            many = np.minimum(ends[key] - starts[key], MOST_TOGETHER)           # (Q,)
            i = np.repeat(np.arange(len(key)), many)
            rank = np.arange(len(i)) - np.repeat(np.cumsum(many) - many, many)  # 0, 1, … for each i
            yield first + i, order[starts[key[i]] + rank]


def transform(pictures, chosen):
    """The slowest waves of each chosen picture, by the cosine transform: C indices -> (C, 64), of length 1.

    Wave i, j has i half-periods down and j across. The mean, 0, 0, is left out: it is 0.
    """
    wave = np.cos(np.pi / SIDE * np.outer(np.arange(WAVES), np.arange(SIDE) + 0.5)).astype(np.float32)
    found = [wave @ few @ wave.T for few in by_few(pictures, chosen)]
    waves = np.concatenate([*found, np.empty((0, WAVES, WAVES), np.float32)]).reshape(-1, WAVES * WAVES)
    waves[:, 0] = 0
    return waves / (1e-9 + np.linalg.norm(waves, axis=1, keepdims=True))


# Pixels


def are_alike(a, b):
    """Whether pictures are copies of each other: float32 (P, SIDE, SIDE) twice -> (P,) bool.

    Compares them as they are, and after one is aligned to the other: a crop shows a part of its original. A
    photo that is far too bright is clipped, which misleads the alignment, but it is not cropped.
    """
    alike = correlation(fine(a), fine(b)) >= ALIKE
    rest = np.flatnonzero(~alike)
    if len(rest):
        alike[rest] = correlation(fine(align(a[rest], b[rest])), fine(b[rest])) >= ALIKE
    return alike


def fine(x):
    """The fine detail of pictures: the difference from a blurred picture, its few largest values clipped.

    Coarse shapes are alike in many photos, such as a bright sky over dark land. Unclipped, a single line like
    the horizon would outweigh everything else.
    """
    detail = x - blur(blur(x))
    most = 1 + 2 * np.median(abs(detail), (1, 2), keepdims=True)
    return np.clip(detail, -most, most)[:, 1:-1, 1:-1]          # the border is guessed by alignment


def blur(x):
    """Means over 3x3 pixels, weighted 1 2 1 in each direction: (P, SIDE, SIDE) -> the same shape."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), "edge")
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4


def correlation(a, b):
    """Pearson's correlation of pictures, pair by pair: (P, …) twice -> (P,)."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return (a * b).sum(1) / (1e-6 + np.sqrt((a * a).sum(1) * (b * b).sum(1)))


def align(a, b):
    """Moves and stretches pictures a to match pictures b: (P, SIDE, SIDE) twice -> a, aligned.

    b is taken for the part of a that begins at y, x and is h high, w wide, in sides of a. A small change of
    these four changes the part p by their share of its slopes, so least squares find what explains b best:
        b ≈ brightness + contrast p + (Δy + v Δh) ∂p/∂v + (Δx + u Δw) ∂p/∂u,      u, v: 0…1 across and down
    Source: Lucas, Kanade, An Iterative Image Registration Technique (1981).
    """
    smooth, goal = blur(blur(a)), blur(blur(b))
    place = np.tile(np.float32([0, 1, 0, 1]), (len(a), 1))                      # y, h, x, w
    share = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    for _ in range(STEPS):
        part = cut(smooth, place)
        down, across = np.gradient(part, 1 / SIDE, axis=(1, 2))
        terms = [np.ones_like(part), part, down, down * share[:, None], across, across * share]
        m = np.stack(terms, 1).reshape(len(a), len(terms), -1)                  # (P, 6, SIDE²)
        squares = (m @ m.transpose(0, 2, 1)).astype(np.float64)                 # (P, 6, 6)
        squares += 1e-5 * np.trace(squares, axis1=1, axis2=2)[:, None, None] * np.eye(len(terms))
        found = np.linalg.solve(squares, m @ goal.reshape(len(b), -1, 1))[:, :, 0]
        contrast = np.maximum(found[:, 1:2], 0.2)
        place += np.clip(found[:, 2:] / contrast, -MOST_MOVED / 2, MOST_MOVED / 2)
        place = np.clip(place, [-MOST_MOVED, 1 - MOST_MOVED] * 2, [MOST_MOVED, 1 + MOST_MOVED] * 2)
        place = place.astype(np.float32)
    return cut(a, place)


def cut(x, place):
    """A part of each picture, enlarged to its size.   x: (P, SIDE, SIDE), place: (P, 4) of y, h, x, w."""
    rows = resampling(place[:, 0], place[:, 1], SIDE)
    columns = resampling(place[:, 2], place[:, 3], SIDE)
    return rows @ x @ columns.transpose(0, 2, 1)


def resampling(start, extent, source):
    """Matrices that resample `source` rows to SIDE: row i comes from start + (i + ½)/SIDE · extent, 0…1.

    start, extent: (P,) -> (P, SIDE, source). The same as in learn/augment.py, but at the edge it repeats it.
    """
    share = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    centre = (start[:, None] + share * extent[:, None]) * source - 0.5          # (P, SIDE)
    reach = np.maximum(1, abs(extent) * source / SIDE)[:, None, None]
    away = abs(np.clip(centre, 0, source - 1)[:, :, None] - np.arange(source))
    weights = np.maximum(0, 1 - away / reach)                                   # (P, SIDE, source)
    return (weights / weights.sum(2, keepdims=True)).astype(np.float32)
