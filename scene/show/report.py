"""The report: one HTML file that shows what a network has learned, and which photos to look at.

It opens from the disk and fetches nothing: pictures are inside, charts are drawings, and a Content-Security-
Policy allows exactly the style and the script that are in the file, by their hashes.

Next: ../main.py
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import defaultdict

import numpy as np

from scene import files, processes
from scene.answer.classifier import Classifier
from scene.photos.folder import Photos
from scene.photos.pixels import Rows
from scene.show import gallery, sections
from scene.show.markup import Markup, join, tag
from scene.show.material import Answers, Material, Neighbours
from scene.show.pictures import Pictures

HERE = os.path.dirname(__file__)
MOST_BYTES = 4_900_000      # of the file
TRAIN_SHARE = 1             # training photos to compare mistakes with, for each photo of TEST
CELL_PHOTOS = 60            # of a cell of the confusion matrix: mistakes
CELL_RIGHT = 24             # and photos that were recognised
CELL_BYTES = 450            # of a cell without photos
PHOTO_BYTES = 260           # of a photo in a cell, without its pixels and its path

NAMES = {"result": "Result", "learning": "Learning", "confusions": "Confusions", "mistakes": "Mistakes",
         "unsure": "Unsure", "classes": "Classes", "trust": "Trust", "labels": "Labels",
         "duplicates": "Duplicates", "atlas": "Map", "neighbours": "Neighbours", "made": "Settings"}


def write(path: str, metrics: dict, classifier: Classifier, features: np.ndarray, test: Photos,
          probabilities: np.ndarray, train: Photos | None = None,
          out_of_fold: np.ndarray | None = None) -> None:
    """Writes the report of a Classifier, with its features (N, F) of the photos of TEST. Raises OSError.

    metrics: the content of the file of metrics. probabilities (N, K) of the photos of TEST, and out_of_fold,
    (M, K) of the M photos of TRAIN, are by networks that were not trained on these photos.
    """
    pictures = Pictures(test.pixels, test.paths, classifier)
    answers = Answers(test.labels, probabilities, test.paths, pictures)
    m = Material(metrics, classifier.classes, answers, features)
    if train is not None and out_of_fold is not None:
        m.folds = Answers(train.labels, out_of_fold, train.paths, Pictures(train.pixels, train.paths))
    if train is not None and m.mistakes:
        m.train = sample(classifier, train, TRAIN_SHARE * len(test.labels))
    files.write(path, page(m).encode())


def sample(classifier: Classifier, train: Photos, most: int) -> Neighbours:
    """Training photos to compare mistakes with: at most so many, drawn evenly, as views of the others."""
    step = -(-len(train.labels) // most)
    pixels, paths = Rows(train.pixels, slice(None, None, step)), train.paths[::step]
    features = classifier.features(pixels, processes.parallel_map)
    return Neighbours(features, train.labels[::step], paths, Pictures(pixels, paths), len(train.labels))


def page(m: Material) -> Markup:
    """The whole file. The photos of the confusion matrix take the room that the other sections leave."""
    before = join(sections.result(m), sections.learning(m))
    after = join(gallery.mistakes(m), gallery.unsure(m), sections.classes(m), sections.trust(m),
                 gallery.labels(m), gallery.duplicates(m), gallery.atlas(m), gallery.neighbours(m),
                 sections.made(m))
    room = MOST_BYTES - len(skeleton(m, join(before, sections.confusions(m, Markup()), after)).encode())
    return skeleton(m, join(before, sections.confusions(m, panels(m, room)), after))


def panels(m: Material, room: int) -> Markup:
    """The photos of each cell of the confusion matrix, as many as fit into so many bytes.

    Mistakes come before what is right, and each cell gets its first photo before any gets its second.
    """
    cells = defaultdict(list)
    for i in np.argsort(-m.sure, kind="stable").tolist():
        cell = int(m.labels[i]), int(m.answers[i])
        most = CELL_RIGHT if m.right[i] else CELL_PHOTOS
        if cell in m.cells and len(cells[cell]) < most:
            cells[cell].append(i)
    queue = sorted((bool(m.right[i]), rank, cell, i) for cell, photos in cells.items()
                   for rank, i in enumerate(photos))
    room -= CELL_BYTES * len(cells)
    thumbs = defaultdict(list)
    for _, _, cell, i in queue:
        url = m.pictures.thumb(i)
        room -= len(url) + PHOTO_BYTES + 4 * len(m.paths[i].encode(errors="replace"))
        if room < 0:
            break
        thumbs[cell].append((i, url))
    first = m.confusions[0][1:] if m.confusions else min(cells)
    in_order = sorted(cells, key=lambda cell: (cell == first, cell))        # it stands last: see report.css
    return join([gallery.panel(m, *cell, thumbs[cell], cell == first) for cell in in_order])


def skeleton(m: Material, content: Markup) -> Markup:
    """The page around the sections, with its style, its script, and the policy that allows these two."""
    style, script = join(read("style.css"), read("report.css")), read("report.js")
    policy = (f"default-src 'none'; img-src data:; style-src {hash_of(style)}; script-src {hash_of(script)}; "
              "base-uri 'none'; form-action 'none'")
    head = tag(
        "head", tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"Scene: {m.metrics['mode']}, {m.metrics['accuracy']:.1%}"), tag("style", style))
    links = [tag("a", name, href=f"#{key}") for key, name in NAMES.items() if f' id="{key}"' in content]
    version = m.metrics.get("versions", {}).get("scene", "")
    body = tag(
        "body", tag("a", "Skip to the report", href="#main", class_="skip"),
        tag("nav", links, aria_label="Sections"), tag("main", content, id="main"),
        tag("footer", f"Scene {version}. Photos are shown as the network sees them, as squares."),
        tag("script", script))
    return join(Markup("<!DOCTYPE html>\n"), tag("html", head, body, lang="en"), Markup("\n"))


def read(name: str) -> Markup:
    """A file of this folder, as it stands."""
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return Markup(file.read())


def hash_of(content: str) -> str:
    """A style or script as a source in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
