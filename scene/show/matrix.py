"""The confusion matrix: which classes are taken for which, as a drawing whose cells lead to their photos.

Next: pictures.py
"""

from __future__ import annotations

import numpy as np

from scene.answer.metrics import Confusion
from scene.show.charts import LETTER, drawing, line, photos, rect, shortened, words
from scene.show.markup import Markup, join, tag

MOST = 48               # classes in the drawing. Of more classes,
SOME = 40               # it shows so many: those with the most mistakes
SIDES = ((8, 38), (16, 30), (30, 22), (MOST, 18))       # the side of a cell, for up to so many classes
FITS = 12               # classes that fit on a phone
COUNTED = 22            # cells of this side or larger have room for their count


def key(i: int, j: int) -> str:
    """The address of a cell's photos on the page."""
    return f"cell-{i}-{j}"


def chosen(confusion: Confusion) -> list[int]:
    """The classes that the drawing shows, in its order: all, or those with the most mistakes."""
    shown = np.arange(confusion.classes)
    if confusion.classes > MOST:
        wrong = confusion.there + confusion.given - 2 * confusion.right
        shown = np.sort(np.argsort(-wrong, kind="stable")[:SOME])
    return [int(shown[i]) for i in side_by_side(confusion.among(shown))]


def side_by_side(matrix: np.ndarray) -> list[int]:
    """An order of the classes in which those that are confused stand side by side: (K, K) -> K indices.

    The order of the Fiedler vector: the numbers f with Σ f = 0 and Σ f² = 1 that make Σ_ij S_ij (f_i - f_j)²
    smallest, where S_ij counts the confusions of i and j. It is the second eigenvector of diag(Σ_j S_ij) - S.
    Source: Atkins, Boman, Hendrickson, A Spectral Algorithm for Seriation (1998).
    """
    mistakes = matrix - np.diag(np.diag(matrix))
    if len(matrix) < 4 or not mistakes.any():
        return list(range(len(matrix)))
    similar = (mistakes + mistakes.T).astype(float)
    similar += 0.05 * similar.mean()                # so that no group of classes stands apart from the others
    fiedler = np.linalg.eigh(np.diag(similar.sum(1)) - similar)[1][:, 1].round(9)
    if fiedler.argmax() < fiedler.argmin():         # its sign is arbitrary
        fiedler = -fiedler
    return np.argsort(fiedler, kind="stable").tolist()


def chart(confusion: Confusion, names: list[str], shown: list[int]) -> Markup:
    """The matrix: a row for each class's photos, a column for each answer.   shown: the classes, in order."""
    side = next(side for most, side in SIDES if len(shown) <= most)
    font = 12 if side >= COUNTED else 9
    letters = min(26, max(len(names[k]) for k in shown))
    room = letters * LETTER * font / 12             # for a name
    left, top, size = 34 + room, 34 + 0.75 * room, len(shown) * side
    counts = confusion.among(shown)
    heads, cells = [], []
    for a, i in enumerate(shown):
        y = top + a * side
        name = shortened(names[i], letters)
        at = f"translate({left + (a + 0.5) * side + font / 3:.1f} {top - 8:.1f}) rotate(-52)"
        heads += [words(left - 8, y + side / 2 + font / 3, name, "head", "end", font_size=font),
                  words(0, 0, name, "head", font_size=font, transform=at)]
        cells += [cell(counts[a, b], confusion.there[i], names, i, j, left + b * side, y, side)
                  for b, j in enumerate(shown) if counts[a, b]]
    grid = [join(line(left, top + k * side, left + size, top + k * side, "grid"),
                 line(left + k * side, top, left + k * side, top + size, "grid"))
            for k in range(len(shown) + 1)] if side >= COUNTED else []
    return drawing(left + size + 0.62 * room + 16, top + size + 4, "Confusion matrix",
                   rect(left, top, size, size, "field"), grid, heads, cells,
                   words(left, 12, "columns: the network's answer", "axis-name"),
                   words(0, 0, "rows: the photos' class", "axis-name",
                         transform=f"translate(11 {top + size:.1f}) rotate(-90)"),
                   class_="matrix fits" if len(shown) <= FITS else "matrix", role="group")


def cell(count, row, names, i, j, x, y, side):
    """A cell, as a link to its photos: the darker, the larger its share of the row."""
    strength = float(count / row) ** 0.5
    how = "recognised" if i == j else f"taken for {names[j]}"
    label = f"{names[i]}, {how}: {photos(count)} of {row}"
    class_ = "count strong" if strength > 0.62 else "count"
    number = words(x + side / 2, y + side / 2 + 4, count, class_, "middle")
    return tag("a", tag("title", label),
               rect(x + 0.5, y + 0.5, side - 1, side - 1, "right" if i == j else "wrong",
                    fill_opacity=0.1 + 0.9 * strength, rx=2 if side >= COUNTED else None),
               number if side >= COUNTED else None, href=f"#{key(i, j)}", aria_label=label)
