"""Charts as SVG. Colours come from classes of report.css, so they follow light and dark.

Every chart has a label that says its numbers, for screen readers.

Next: matrix.py
"""

from __future__ import annotations

import numpy as np

from scene.answer.metrics import wilson_interval
from scene.show.markup import NO_BREAK, Markup, join, tag

LETTER = 6.6            # the width of a letter of 12 units, on average
MAP = 1000, 620         # the size of the map of photos
TILE = 34               # the side of a photo on it


def drawing(width: float, height: float, label: str, *children, **attributes) -> Markup:
    """An <svg> of this size, which is one picture for a screen reader."""
    return tag("svg", *children, viewBox=f"0 0 {width:g} {height:g}", width=f"{width:g}",
               height=f"{height:g}", aria_label=label, **({"role": "img"} | attributes))


def line(x1, y1, x2, y2, class_):
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def rect(x, y, width, height, class_, **more):
    box = {"x": float(x), "y": float(y), "width": float(width), "height": float(height)}
    return tag("rect", **box, class_=class_, **more)


def dot(x, y, class_):
    return tag("circle", cx=float(x), cy=float(y), r="4.5", class_=class_)


def words(x, y, content, class_="tick", anchor="start", **more):
    return tag("text", content, x=float(x), y=float(y), class_=class_, text_anchor=anchor, **more)


def path(points, class_):
    """A line through points (x, y)."""
    steps = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    return tag("path", d=steps, class_=class_)


def percent(share: float, digits: int = 0) -> str:
    """0.804 -> "80 %". What is neither all nor nothing never reads 100 % or 0 %."""
    unit = 10 ** -digits
    value = 100 * share
    if 0 < value < unit / 2:
        shown = f"<{unit:.{digits}f}"
    elif 100 - unit / 2 <= value < 100:
        shown = f">{100 - unit:.{digits}f}"
    else:
        shown = f"{value:.{digits}f}"
    return f"{shown}{NO_BREAK}%"


def photos(count) -> str:
    """The number of photos in words: "1 photo", "2 photos"."""
    return "1 photo" if count == 1 else f"{count} photos"


def shortened(name: str, most: int) -> str:
    """A name of at most so many letters."""
    return name if len(name) <= most else name[:most - 1] + "…"


def quarters(x, y) -> list[Markup]:
    """0, 25, … 100 % below an axis from left to right, x(share), at height y."""
    return [words(x(t / 4), y, percent(t / 4), anchor=("start", "middle", "end")[(t > 0) + (t > 3)])
            for t in range(5)]


def interval(accuracy: float, low: float, high: float, baseline: float) -> Markup:
    """The accuracy on a scale from 0 to 100 %, with its interval and the baseline."""
    width, left, top = 520, 3, 36

    def x(share):
        return left + share * (width - 2 * left)

    side = "end" if accuracy > 0.8 else "start" if accuracy < 0.2 else "middle"
    guess = words(x(baseline) + 5, top - 14, "guessing") if baseline < accuracy - 0.3 else None
    said = (f"Accuracy {percent(accuracy, 1)}, 95 % interval {percent(low, 1)} to {percent(high, 1)}, "
            f"always guessing the most common class {percent(baseline, 1)}")
    return drawing(
        width, 76, said,
        rect(x(0), top, x(1) - x(0), 12, "track", rx=6),
        rect(x(0), top, x(accuracy) - x(0), 12, "good", rx=6),
        rect(x(low), top - 4, max(2.0, x(high) - x(low)), 20, "band", rx=4),
        line(x(accuracy), top - 7, x(accuracy), top + 19, "mark"),
        words(x(accuracy), top - 14, percent(accuracy, 1), "value", side),
        line(x(baseline), top - 6, x(baseline), top + 18, "guess"), guess,
        quarters(x, top + 36), class_="interval")


def curves(title: str, lines: list[tuple], top: float, form, level: tuple | None = None) -> Markup:
    """A chart by epoch.   lines: (name, values, class) of each. level: (name, value), a line across it.

    form: writes a value as text.
    """
    width, height, left, right, above, below = 460, 250, 48, 14, 34, 30
    epochs = len(lines[0][1])

    def x(i):
        return left + (i / max(1, epochs - 1)) * (width - left - right)

    def y(value):
        return height - below - min(value / top, 1) * (height - above - below)

    grid = [join(line(left, y(top * t / 4), width - right, y(top * t / 4), "grid"),
                 words(left - 7, y(top * t / 4) + 4, form(top * t / 4), anchor="end")) for t in range(5)]
    ticks = [words(x(i), height - 10, "epoch 1" if i == 0 else i + 1,
                   anchor="start" if i == 0 else "end" if i == epochs - 1 else "middle")
             for i in sorted({0, epochs // 2, epochs - 1})]
    drawn = [path([(x(i), y(value)) for i, value in enumerate(values)], f"curve {class_}")
             for _, values, class_ in lines]
    keys = [(name, f"curve {class_}") for name, _, class_ in lines]
    said = [f"{name}: {form(values[0])} in the first epoch, {form(values[-1])} in the last"
            for name, values, _ in lines]
    if level:
        name, value = level
        drawn.append(line(left, y(value), width - right, y(value), "level"))
        keys.append((name, "level"))
        said.append(f"{name}: {form(value)}")
    starts = np.cumsum([left, *(LETTER * len(name) + 40 for name, _ in keys)])
    legend = [join(line(at, 14, at + 16, 14, class_), words(at + 22, 18, name))
              for at, (name, class_) in zip(starts, keys, strict=False)]
    return drawing(width, height, f"{title}. {'; '.join(said)}", grid, ticks, drawn, legend)


def bar(share: float | None, class_: str) -> Markup:
    """A share as a bar, without words: its number stands beside it."""
    return tag("svg", rect(0, 0, 100, 8, "track"), rect(0, 0, 100 * (share or 0), 8, class_),
               viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true", class_="bar")


def reliability_chart(bins: list[dict]) -> Markup:
    """How often answers are right, by how sure the network says it is, with the counts beneath."""
    width, left, top, size = 460, 48, 12, 300

    def x(share):
        return left + share * (width - left - 14)

    def y(share):
        return top + (1 - share) * size

    most = max(each["photos"] for each in bins)
    grid = [join(line(x(0), y(t / 4), x(1), y(t / 4), "grid"),
                 words(left - 7, y(t / 4) + 4, percent(t / 4), anchor="end")) for t in range(5)]
    parts = []
    for each in bins:
        start, end = x(each["from"]) + 3, x(each["to"]) - 3
        tall = 1 + 40 * each["photos"] / most
        low, high = wilson_interval(round(each["accuracy"] * each["photos"]), each["photos"])
        place, height = x(each["confidence"]), y(each["accuracy"])
        parts.append(tag("g", tag("title", describe_bin(each)),
                         rect(start, height, end - start, y(0) - height, "good faint", rx=2),
                         line(place, y(low), place, y(high), "whisker"), dot(place, height, "good"),
                         rect(start, top + size + 54 - tall, end - start, tall, "bin", rx=1)))
    return drawing(width, 396, f"Reliability. {'; '.join(map(describe_bin, bins))}", grid,
                   line(x(0), y(0), x(1), y(1), "level ideal"), parts,
                   words(x(0) + 4, top + size + 24, "photos"), quarters(x, top + size + 70),
                   words(x(0.5), top + size + 84, "how sure the network said it was", "axis-name", "middle"))


def describe_bin(each):
    return (f"said {each['from']:.0%} to {each['to']:.0%}: right for {percent(each['accuracy'])} "
            f"of {photos(each['photos'])}")


# The map of photos


def scatter(places: np.ndarray, right: np.ndarray, tiles: list[Markup], names: list[tuple]) -> Markup:
    """Photos as dots at their places (N, 2) of `on_map`, some of them as tiles, and names: (x, y, name)."""
    def dots(which, class_):
        return tag("path", d="".join(f"M{x:.0f} {y:.0f}h0" for x, y in places[which]), class_=class_)

    labels = [words(x, y, shortened(name, 24), "place", "middle") for x, y, name in names]
    return drawing(*MAP, "A map of the test photos", dots(right, "points"), dots(~right, "points bad"), tiles,
                   labels, role="group", class_="atlas")


def tile(place, url: str, label: str, link: str, right: bool) -> Markup:
    """A photo on the map, as a link."""
    x, y = (float(number) - TILE / 2 for number in place)
    return tag("a", tag("title", label), tag("image", href=url, x=x, y=y, width=TILE, height=TILE),
               rect(x, y, TILE, TILE, "edge" if right else "edge bad", rx=1), href=link, aria_label=label)


def on_map(components: np.ndarray) -> np.ndarray:
    """Principal components (N, 2) as places on the map, whose frame both directions fill."""
    low, high = np.percentile(components, [1, 99], axis=0)
    share = ((components - low) / np.where(high > low, high - low, 1)).clip(0, 1)
    margin = 0.8 * TILE
    return margin + np.stack([share[:, 0], 1 - share[:, 1]], 1) * (np.array(MAP) - 2 * margin)


def apart(places: np.ndarray, most: int) -> list[int]:
    """Indices of at most so many places, in order, whose tiles do not overlap."""
    kept = []
    for i, place in enumerate(places):
        if not kept or (abs(places[kept] - place).max(1) > TILE + 2).all():
            kept.append(i)
            if len(kept) == most:
                break
    return kept
