"""HTML and SVG from Python, escaped by construction: text becomes markup only through `tag`.

    tag("a", "<b> & co", href="#top")       -> <a href="#top">&lt;b&gt; &amp; co</a>

A file name, a class name or an error message is a plain str, so it is escaped wherever it is put. A style or
a script cannot be put into an element: the page's Content-Security-Policy would refuse it anyway.

Next: charts.py
"""

from __future__ import annotations

from html import escape

from scene.errors import printable

NO_BREAK = "\xa0"       # a space at which no line ends, as before "%"
VOID = {"meta", "img", "br"}


class Markup(str):
    """A string that is markup already, so it is not escaped again."""

    __slots__ = ()


def text(value) -> Markup:
    """A value as markup: a plain string is escaped, and what cannot be printed is spelled out."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(NO_BREAK.join(map(shown, str(value).split(NO_BREAK)))))


def shown(words):
    """Words as `printable` shows them, but with the spaces around them, as in the middle of a sentence."""
    core = words.strip(" ")
    start = len(words) - len(words.lstrip(" "))
    return words[:start] + printable(core) + words[start + len(core):]


def join(*parts) -> Markup:
    """Parts after one another: text, markup, or sequences of them. None is left out."""
    return Markup("".join(join(*part) if isinstance(part, (list, tuple)) else text(part)
                          for part in parts if part is not None))


def tag(name: str, /, *children, **attributes) -> Markup:
    """An element. `class_` is the attribute class, `aria_label` is aria-label. None and False are left out.

    >>> tag("p", "1 < 2", class_="note", hidden=True, id=None)
    '<p class="note" hidden>1 &lt; 2</p>'
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if key == "style" or key.startswith("on"):
            raise ValueError(f"{key} is not for elements: give it a class, and put the rule into report.css")
        if value is not None and value is not False:
            words.append(key if value is True else f'{key}="{text(shortest(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{join(*children)}</{name}>")


def shortest(value):
    """A fractional number with two decimals at most, for a drawing. Anything else as it is."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


# What pages are made of


def section(key: str, title: str, *parts) -> Markup:
    """A section with its heading. Its address is #key."""
    return tag("section", tag("h2", title, id=f"{key}-title"), *parts, id=key, aria_labelledby=f"{key}-title")


def lead(*parts) -> Markup:
    """The sentences under a heading."""
    return tag("p", *parts, class_="lead")


def note(*parts) -> Markup:
    """A remark in small print."""
    return tag("p", *parts, class_="note")


def strong(*parts) -> Markup:
    return tag("strong", *parts)


def unfold(title: str, *parts) -> Markup:
    """Something that is shown when its title is chosen."""
    return tag("details", tag("summary", title), *parts)


def scrolled(content: Markup, label: str, class_: str = "scroll") -> Markup:
    """Something wide in a frame that scrolls sideways, by the keyboard too."""
    return tag("div", content, class_=class_, tabindex="0", role="region", aria_label=label)


def series(parts: list) -> list:
    """Parts with commas between them, and "and" before the last."""
    between = [", "] * (len(parts) - 2) + [" and "] if len(parts) > 1 else []
    return [piece for pair in zip(parts, [*between, ""], strict=True) for piece in pair]
