"""Pictures that are no photos: noise of many kinds, black, white, one colour, text and drawings."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 128


def noise(random):
    """Of pixels, squares or smooth spots, coloured, grey or faint, or salt or pepper on a colour."""
    kind = random.integers(4)
    if kind == 0:
        side = int(random.choice([4, 16, 64, SIDE]))
        picture = random.integers(256, size=(side, side, 3))
        return enlarged(picture, random.choice([Image.Resampling.NEAREST, Image.Resampling.BILINEAR]))
    if kind == 1:
        return np.clip(random.normal(128, random.uniform(10, 80), (SIDE, SIDE, 3)), 0, 255)
    if kind == 2:
        return random.integers(256, size=(SIDE, SIDE, 1)).repeat(3, 2)
    picture = np.broadcast_to(random.integers(256, size=3), (SIDE, SIDE, 3)).copy()
    picture[random.random((SIDE, SIDE)) < random.uniform(0.05, 0.5)] = 255 * random.integers(2)
    return picture


def enlarged(picture, how):
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling(how)))


def black(random):
    """As a camera sees it: 0 to 8 of 255."""
    return random.integers(1, 5) + random.integers(0, random.integers(1, 5), (SIDE, SIDE, 3))


def white(random):
    return 255 - black(random)


def one_colour(random):
    return np.broadcast_to(random.integers(256, size=3), (SIDE, SIDE, 3))


def text(random):
    """A page of words in one size, dark on light or the other way round."""
    ground, ink = random.integers(200, 256, 3), random.integers(90, size=3)
    if random.random() < 0.2:
        ground, ink = 255 - ground, 255 - ink
    image = Image.new("RGB", (400, 400), tuple(ground))
    size = int(random.choice([12, 18, 24, 40]))
    font = ImageFont.load_default(size)
    for y in range(random.integers(30), 400 - size, size * 5 // 4):
        words = bytes(random.choice([*b"abcdefghijklmnopqrstuvwxyz    "], random.integers(5, 90)).tolist())
        ImageDraw.Draw(image).text((10, y), words.decode(), tuple(ink), font)
    return shrunk(image)


def drawing(random):
    """Lines, ellipses, rectangles and polygons, outlined or filled, most on white."""
    ground = (255, 255, 255) if random.random() < 0.6 else tuple(random.integers(256, size=3))
    image = Image.new("RGB", (400, 400), ground)
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(3, 20)):
        colour, width = tuple(random.integers(256, size=3)), int(random.integers(2, 9))
        fill = colour if random.random() < 0.4 else None
        corners = np.sort(random.integers(0, 400, (2, 2)), 0)
        kind = random.integers(4)
        if kind == 0:
            draw.line([tuple(map(int, point)) for point in random.integers(0, 400, (2, 2))], colour, width)
        elif kind == 1:
            draw.ellipse(corners.flatten().tolist(), fill, colour, width)
        elif kind == 2:
            draw.rectangle(corners.flatten().tolist(), fill, colour, width)
        else:
            points = random.integers(0, 400, (random.integers(3, 7), 2))
            draw.polygon([tuple(map(int, point)) for point in points], fill, colour, width)
    return shrunk(image)


def shrunk(image):
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


KINDS = {"noise": noise, "black": black, "white": white, "one colour": one_colour, "text": text,
         "drawings": drawing}


def pictures(kind, number, size):
    """Pictures of a kind, the same every time: uint8 (number, size, size, 3)."""
    random = np.random.default_rng(list(KINDS).index(kind))
    images = [Image.fromarray(np.asarray(KINDS[kind](random), np.uint8)) for _ in range(number)]
    return np.stack([np.asarray(image.resize((size, size), Image.Resampling.BOX)) for image in images])
