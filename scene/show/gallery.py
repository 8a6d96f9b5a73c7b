"""The report's sections of photos. Each is a function of the Material, and returns markup, or None if empty.

Next: report.py
"""

from __future__ import annotations

import os

import numpy as np

from scene.answer.features import nearest, principal_components
from scene.show import charts, matrix
from scene.show.charts import percent, photos
from scene.show.markup import Markup, join, lead, note, scrolled, section, strong, tag, text, unfold
from scene.show.material import Material, Suspect
from scene.show.pictures import LARGE, MEDIUM, TILE, short, thumbnail

CARDS = 12              # photos of a section; of mistakes as many again can be unfolded
ALIKE = 6               # mistakes beside training photos, and training photos beside each
LISTED = 500            # lines of a list
TILES = 260             # photos on the map
NAMED = 30              # classes whose names fit on the map
FEWEST = 8              # photos that make a map


def panel(m: Material, i: int, j: int, thumbs: list[tuple[int, Markup]], first: bool) -> Markup:
    """The photos of a cell of the confusion matrix, as many as there is room for: (number, data URL)."""
    count = m.confusion[i, j]
    how = "recognised" if i == j else f"taken for {m.classes[j]}"
    figures = [tag("figure", tag("img", src=url, alt=f"Photo {short(m.paths[n])}"),
                   tag("figcaption", os.path.basename(m.paths[n]), tag("span", percent(m.sure[n]))),
                   title=m.paths[n]) for n, url in thumbs]
    left = count - len(thumbs)
    are = "is" if left == 1 else "are"
    return tag("article", tag("h3", f"{m.classes[i]}, {how}", tag("span", photos(count))),
               tag("div", figures, class_="thumbs"),
               note(f"{photos(left)} more {are} left out, to keep this file small.") if left else None,
               id=matrix.key(i, j), class_="panel first-panel" if first else "panel", tabindex="-1")


def card(m: Material, i: int, classes: list[int]) -> Markup:
    """A photo with its maps, and its probabilities for two classes."""
    def role(k):
        if k == m.answers[i]:
            return "right" if k == m.labels[i] else "its answer"
        return "its folder" if k == m.labels[i] else None

    p = m.probabilities[i].tolist()
    rows = [tag("li", tag("span", m.classes[k], class_="name"),
                charts.bar(p[k], "good" if k == m.labels[i] else "bad"),
                tag("span", percent(p[k])), tag("small", role(k))) for k in classes]
    views = tag("div", m.pictures.picture(i, LARGE), m.pictures.mapped(i, classes), class_="views")
    name = tag("span", short(m.paths[i]), class_="file", title=m.paths[i])
    return tag("figure", views, tag("figcaption", name, tag("ul", rows, class_="odds")), class_="card")


def legend(m: Material) -> Markup:
    """What the colours over the photos mean."""
    orange, blue = tag("span", "orange", class_="for"), tag("span", "blue", class_="against")
    if m.pictures.exact:
        return join("Beside each photo, ", orange, " marks what speaks for a class and ", blue, " what "
                    "speaks against it. This is exact: the places' shares add up to the network's score.")
    return join("Beside each photo, ", orange, " marks the pixels to which the score of its answer is "
                "most sensitive.")


def mistakes(m: Material) -> Markup | None:
    if not m.mistakes:
        return None
    cards = [card(m, i, [int(m.answers[i]), int(m.labels[i])]) for i in m.mistakes[:2 * CARDS]]
    more = tag("div", cards[CARDS:], class_="cards")
    return section(
        "mistakes", "Its surest mistakes",
        lead("These answers are wrong although the network was sure. They are worth a look: some photos are "
             "hard, and some are in the wrong folder. ", legend(m)),
        tag("div", cards[:CARDS], class_="cards"),
        unfold(f"{len(cards) - CARDS} more", more) if len(cards) > CARDS else None)


def unsure(m: Material) -> Markup | None:
    right = np.flatnonzero(m.right)
    if not len(right) or len(m.classes) < 2:
        return None
    least = right[np.argsort(m.sure[right], kind="stable")][:CARDS]
    cards = [card(m, i, np.argsort(-m.probabilities[i], kind="stable")[:2].tolist()) for i in least.tolist()]
    return section(
        "unsure", "Right, but only just",
        lead("Here the network found the right class, but was least sure of it. More training photos like "
             "these would help. ", None if m.mistakes else legend(m)), tag("div", cards, class_="cards"))


def labels(m: Material) -> Markup:
    """Probable label errors."""
    title = "Photos that may be in the wrong folder"
    where = "test photos" if m.folds is None else "training and test photos"
    only_test = m.folds is None and "cross_validation" not in m.metrics
    rest = note("Only the test photos were checked: a network knows the labels of its own training photos. "
                "To check those, train with ", tag("code", "--folds 5"), ", which asks about each photo a "
                "network that was not trained on it.") if only_test else None
    count = len(m.suspects)
    if not count:
        return section("labels", title, lead(f"None of the {where} seems to be in the wrong folder."), rest)
    parts = []
    for name, among in ("training", m.folds), ("test", m.test):
        if group := [suspect for suspect in m.suspects if suspect.among is among]:
            parts += [tag("h3", f"Of the {name} photos") if m.folds else None, *suspects(m, group)]
    return section(
        "labels", title,
        lead(f"{count} of the {where} look like another class than the one whose folder they are in, to a "
             "network that was not trained on them. Look at each before you move it: the folder may be "
             "wrong, or the network may be. The likeliest label errors come first. Far down the list, most "
             "are mistakes of the network."), parts, rest)


def suspects(m: Material, group: list[Suspect]) -> tuple[Markup, Markup]:
    """Photos that may be in the wrong folder: the first as cards, and a list."""
    cards, lines = [], []
    for i, k, among in group[:LISTED]:
        own, path = among.labels[i], among.paths[i]
        lines.append(join(text(f"{path}: {m.classes[own]} -> {m.classes[k]}"), Markup("\n")))
        if len(cards) < CARDS:
            p = among.probabilities[i]
            cards.append(tag("figure", among.pictures.picture(i, LARGE), tag(
                "figcaption", tag("span", os.path.basename(path), class_="file", title=path),
                tag("span", "in ", strong(m.classes[own]), f" ({percent(p[own])})"),
                tag("span", "looks like ", strong(m.classes[k]), f" ({percent(p[k])})", class_="other")),
                class_="suspect"))
    count = len(group)
    listed = f"All {count} as a list" if count <= LISTED else f"The first {LISTED} of {count} as a list"
    return tag("div", cards, class_="suspects"), unfold(listed, tag("pre", lines, tabindex="0"))


def duplicates(m: Material) -> Markup | None:
    if not m.duplicates:
        return None
    rows = [tag("li", where) for where in m.duplicates[:LISTED]]
    left = len(m.duplicates) - len(rows)
    return section(
        "duplicates", "The same photo in two classes",
        lead(f"{len(m.duplicates)} photos are in two classes, themselves or nearly the same photo. Keep "
             "each in one class only: the network cannot learn both."),
        tag("ul", rows, class_="twins"), note(f"{left} more are left out.") if left else None)


def atlas(m: Material) -> Markup | None:
    """The map of the test photos."""
    if len(m.labels) < FEWEST or m.features.shape[1] < 2:
        return None
    components, share = principal_components(m.features)
    places = charts.on_map(components)
    order = np.random.default_rng(0).permutation(len(places))           # so that a fair sample is shown
    tiles = []
    for i in order[charts.apart(places[order], TILES)].tolist():
        wrong = "" if m.right[i] else ", wrong"
        label = f"{short(m.paths[i])}: {m.classes[m.answers[i]]}, {percent(m.sure[i])}{wrong}"
        url = thumbnail(m.pictures.pixels[i], TILE, 55)
        tiles.append(charts.tile(places[i], url, label, m.link(i), bool(m.right[i])))
    names = [(*np.median(places[m.labels == k], 0).tolist(), name) for k, name in enumerate(m.classes)
             if len(m.classes) <= NAMED and (m.labels == k).any()]
    return section(
        "atlas", "A map of the test photos",
        lead("Photos that look alike to the network lie close together. Each dot is a photo, some are shown, "
             "and ", tag("span", "wrong answers are marked", class_="bad-ink"), ". Where classes overlap, it "
             "confuses them."),
        scrolled(charts.scatter(places, m.right, tiles, names), "A map of the test photos", "scroll wide"),
        note(f"These are the two directions in which the photos' {m.features.shape[1]} features vary most, "
             f"their principal components, with {percent(float(share.sum()))} of the variance. Names stand "
             "at the middle of their classes."))


def neighbours(m: Material) -> Markup | None:
    """Training photos that look most like a mistake to the network."""
    wrong = m.mistakes[:ALIKE]
    if m.train is None or not wrong:
        return None
    own = m.train.labels
    rows = []
    for i, near in zip(wrong, nearest(m.train.features, m.features[wrong], ALIKE).tolist(), strict=True):
        color = {m.answers[i]: "bad-ink", m.labels[i]: "good-ink"}
        figures = [tag("figure", m.train.pictures.picture(n, MEDIUM),
                       tag("figcaption", m.classes[own[n]], class_=color.get(own[n])), title=m.train.paths[n])
                   for n in near]
        query = tag("figure", m.pictures.picture(i, MEDIUM),
                    tag("figcaption", strong(m.classes[m.labels[i]]), " taken for ",
                        strong(m.classes[m.answers[i]])), class_="query")
        rows.append(tag("div", query, figures, class_="row"))
    some = f", of {len(own)} drawn evenly from all {m.train.of}" if len(own) < m.train.of else ""
    return section(
        "neighbours", "Where its mistakes come from",
        lead("On the left is a mistake, beside it the training photos that look most like it to the "
             f"network{some}. Their classes explain its answer."), tag("div", rows))
