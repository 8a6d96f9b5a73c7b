"""Photos as small pictures, and the class map laid over them. As data URLs, without EXIF.

Next: map_picture.py
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from scene.answer.class_map import ClassMap, class_maps, is_exact
from scene.answer.classifier import Classifier
from scene.photos import decode
from scene.photos.decode import PhotoError
from scene.show.markup import Markup, tag

LARGE = 176             # sides of pictures, in pixels: about twice those on the page
MEDIUM = 104
SMALL = 72
TILE = 56

FOR = np.array([232, 89, 12], np.float32)           # orange: speaks for the class
AGAINST = np.array([38, 104, 196], np.float32)      # blue: speaks against it
STRENGTH = 0.78                                     # of the colour at the strongest place


def data_url(image: Image.Image, quality: int = 72) -> Markup:
    """An image as a WebP in a data URL. Only its pixels: no EXIF, no place, no date."""
    file = BytesIO()
    image.save(file, "WebP", quality=quality, method=2)
    return Markup(f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}")


def thumbnail(pixels: np.ndarray, side: int, quality: int = 72) -> Markup:
    """A decoded photo, uint8 (S, S, 3), as a data URL of at most `side` pixels a side."""
    image = Image.fromarray(pixels)
    if image.width > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return data_url(image, quality)


def overlay(pixels: np.ndarray, found: ClassMap, strongest: float) -> Image.Image:
    """A photo under a map: orange where a place speaks for the class, blue where it speaks against it.

    pixels: uint8 (S, S, 3). strongest: the value of the full colour, so that maps of the same photo can be
    compared. The photo itself is greyer, so that the colours stand out. A map of sensitivities is orange
    where they are above their mean.
    """
    places = found.places
    if found.bias is None:
        mean = places.mean()
        places, strongest = (places - mean).clip(min=0), strongest - mean
    size = pixels.shape[1], pixels.shape[0]
    values = Image.fromarray((places / (strongest or 1)).astype(np.float32))
    values = np.asarray(values.resize(size, Image.Resampling.BICUBIC))[:, :, None].clip(-1, 1)  # -> (S, S, 1)
    grey = (pixels @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]                   # (S, S, 1)
    base = 0.35 * pixels + 0.65 * (0.8 * grey + 25)
    weight = STRENGTH * abs(values) ** 0.8
    mixed = (1 - weight) * base + weight * np.where(values > 0, FOR, AGAINST)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


class Pictures:
    """Decoded photos as pictures, made when they are asked for. Their paths are for the larger ones."""

    def __init__(self, pixels: np.ndarray, paths: Sequence[str], classifier: Classifier | None = None):
        self.pixels = pixels
        self.paths = paths
        self.classifier = classifier        # for maps

    def at_least(self, i: int, side: int) -> np.ndarray:
        """Photo i with this many pixels a side or more: decoded again if those in memory are fewer."""
        if self.pixels.shape[1] < side:
            try:
                return decode.decode(decode.read(self.paths[i]), side)
            except (PhotoError, OSError):           # moved since: what the network saw will do
                pass
        return self.pixels[i]

    def picture(self, i: int, side: int) -> Markup:
        """Photo i as an <img>."""
        return tag("img", src=thumbnail(self.at_least(i, side), side), alt=f"Photo {short(self.paths[i])}")

    def thumb(self, i: int) -> Markup:
        """Photo i as a small data URL, from the pixels in memory unless they are far too few."""
        few = self.pixels.shape[1] < SMALL // 2
        return thumbnail(self.at_least(i, SMALL) if few else self.pixels[i], SMALL)

    @property
    def exact(self) -> bool:
        """Whether the maps add up to the scores."""
        return is_exact(self.classifier.network)

    def mapped(self, i: int, classes: Sequence[int]) -> list[Markup]:
        """Photo i under the maps of these classes, or of the first alone if the maps are gradients."""
        maps = class_maps(self.classifier, self.pixels[i], list(classes if self.exact else classes[:1]))
        strongest = max(abs(each.places).max() for each in maps)
        photo = self.at_least(i, LARGE)
        return [tag("div", tag("img", src=data_url(overlay(photo, each, strongest), 60),
                               alt=f"The same photo, coloured by what the network sees of {each.name}"),
                    tag("span", each.name), class_="map") for each in maps]


def short(path: str) -> str:
    """The folder and the file of a path: "coast/012.jpg"."""
    return "/".join(path.replace("\\", "/").split("/")[-2:])
