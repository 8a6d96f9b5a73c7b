"""A photo under the class map of its likeliest class, for `python -m scene.predict PHOTO --map OUT.png`.

Next: material.py
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from scene import files
from scene.answer.class_map import ClassMap, class_maps
from scene.answer.classifier import Classifier
from scene.photos import decode
from scene.show.pictures import overlay

SIDE = 640              # of the picture: the longer one, in pixels


def write(path: str, classifier: Classifier, photo: bytes) -> ClassMap:
    """Writes the picture of a photo, and returns its map. Raises PhotoError, NeedsTorch or OSError."""
    pixels = decode.decode(photo, classifier.image_size)
    k = int(classifier.probabilities(pixels[None])[0].argmax())
    found, = class_maps(classifier, pixels, [k])
    picture = overlay(decode.decode(photo, SIDE), found, abs(found.places).max())
    file = BytesIO()
    picture.resize(upright_size(photo), Image.Resampling.LANCZOS).save(file, "PNG")
    files.write(path, file.getvalue())
    return found


def upright_size(photo: bytes) -> tuple[int, int]:
    """The size of the picture: SIDE for the longer side, and the photo's proportions, after any turn."""
    image = decode.open_image(BytesIO(photo), decode.find_format(photo, decode.LOCAL.formats))
    size = np.array(image.size)
    turn = decode.find_turn(image)
    if turn is not None and Image.new("L", (1, 2)).transpose(turn).size == (2, 1):
        size = size[::-1]
    width, height = np.maximum(1, (size * SIDE / size.max()).round()).astype(int)
    return int(width), int(height)
