"""The page that scene.serve serves at "/": its files, and the headers that browsers get with them.

The page loads nothing from elsewhere and keeps nothing. Its Content-Security-Policy allows its own files
only. So nothing that is in a photo, the name of a class or an error message can become a script.

Next: ../serve.py
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from scene.answer import openapi
from scene.answer.classifier import Classifier
from scene.answer.endpoint import Terms
from scene.version import VERSION

HERE = os.path.dirname(__file__)
FILES = {"/": "page.html", **{f"/{name}": name for name in (
    "style.css", "page.css", "elements.js", "photo.js", "page.js", "stages.js",
    "inside.js")}}
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
          "require-trusted-types-for 'script'")
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Document(NamedTuple):
    """What the server answers to a GET of one address."""

    data: bytes
    headers: dict[str, str]


def documents(models: dict[str, Classifier], terms: Terms) -> dict[str, Document]:
    """{path: Document} of everything that can be read without a photo."""
    found = {path: Document(read(name), HEADERS | {"Content-Type": f"{kind_of(name)}; charset=utf-8"})
             for path, name in FILES.items()}
    for path, content in ("/openapi.json", openapi.of_the_server(terms)), ("/health", health(models, terms)):
        found[path] = Document(json.dumps(content).encode(), {"Content-Type": "application/json"})
    return found


def health(models: dict[str, Classifier], terms: Terms) -> dict:
    """What GET /health says: the models, the one first that answers if none is named, and the limits."""
    order = sorted(models, key=lambda mode: mode != terms.mode)
    return {
        "status": "ok", "version": VERSION,
        "models": {mode: {"model": models[mode].name, "classes": models[mode].classes} for mode in order},
        "limits": {"formats": [f"image/{name.lower()}" for name in terms.limits.formats],
                   "bytes": terms.limits.max_bytes, "pixels": terms.limits.max_pixels},
    }


def read(name: str) -> bytes:
    """A file of this folder."""
    with open(os.path.join(HERE, name), "rb") as file:
        return file.read()


def kind_of(name: str) -> str:
    return KINDS[name.rpartition(".")[2]]
