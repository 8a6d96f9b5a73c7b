"""The things in the example pictures: trees, people, houses, cars, walls, blades of grass and ears of wheat.

Each function takes the picture, a place and a size in metres, and draws colours from the picture's generator.
Next: make_example.py
"""

import numpy as np

from camera import mix, noise, smooth

GREENS = np.array([(0.33, 0.46, 0.14), (0.25, 0.41, 0.13), (0.40, 0.49, 0.19), (0.30, 0.44, 0.22)])
STRAWS = np.array([(0.66, 0.58, 0.34), (0.58, 0.50, 0.27), (0.70, 0.60, 0.40)])
WOODS = np.array([
    (0.19, 0.31, 0.12), (0.24, 0.35, 0.13), (0.15, 0.27, 0.14),
    (0.28, 0.37, 0.15), (0.46, 0.34, 0.12), (0.48, 0.26, 0.11)])
SUITS = np.array([(0.10, 0.10, 0.13), (0.16, 0.16, 0.20)])
CLOTHES = np.array([
    *SUITS, (0.55, 0.12, 0.15), (0.20, 0.30, 0.55),
    (0.85, 0.83, 0.78), (0.15, 0.40, 0.35), (0.75, 0.60, 0.20)])
SKINS = np.array([(0.85, 0.66, 0.54), (0.62, 0.43, 0.32), (0.40, 0.27, 0.20)])


def leafy_tree(pic, x, z, height):
    """A crown of many small clumps of leaves, the bright ones towards the sun painted last, on a trunk."""
    rng = pic.rng
    light = pic.light
    colour = rng.choice(WOODS)
    slim = rng.choice([0.3, rng.uniform(0.55, 0.9)], p=[0.2, 0.8])
    pic.line([(x, 0, z), (x, 0.6 * height, z)], np.array((0.25, 0.2, 0.15)) * light.facing, 0.04 * height)
    count = int(np.clip(4 * pic.focal * height / max(z, 1), 60, 1200))      # more for a larger tree
    clumps = rng.normal(0, 0.5, (count, 3))
    clumps /= np.maximum(1, np.linalg.norm(clumps, axis=1, keepdims=True))
    clumps *= rng.uniform(0.75, 1.1, (1, 3))
    clumps = clumps[np.argsort(clumps @ (light.sun + (0, 0.4, -0.6)))]
    bright = (0.95 + 0.5 * (clumps @ light.sun) * (1 if light.clear else 0.3)
              + 0.25 * clumps[:, 1] + rng.normal(0, 0.12, count))
    places = np.array((x, 0.62 * height, z)) + clumps * height * (0.5 * slim, 0.36, 0)
    sizes = height * rng.uniform(0.012, 0.042, count)
    pic.discs(places, sizes, colour * light.facing * bright[:, None], flat=0.8)


def fir(pic, x, z, height):
    """Tiers of drooping branches, narrower towards the top."""
    rng = pic.rng
    colour = pic.rng.choice(WOODS[:3]) * pic.light.facing
    bark = np.array((0.20, 0.15, 0.11)) * pic.light.facing
    pic.line([(x, 0, z), (x, 0.9 * height, z)], bark, 0.03 * height)
    for y in np.arange(0.1, 0.98, 0.04):
        reach = height * 0.2 * (1 - y) * rng.uniform(0.75, 1.2) + 0.01 * height
        for side in (-1, 1):
            bright = 0.95 + 0.35 * side * pic.light.sun[0] + rng.normal(0, 0.12)
            tip = (x + side * reach, height * (y - 0.03), z)
            pic.polygon([(x, height * (y + 0.09), z), tip, (x, height * y, z)], colour * bright)


def tree(pic, x, z, height):
    (fir if pic.rng.random() < 0.25 else leafy_tree)(pic, x, z, height)


def shade(pic, points, trees):
    """The share of light that reaches points on the ground between trees (x, z, height): 1 in the open."""
    lit = np.ones(len(points))
    sun = pic.light.sun
    for x, z, height in trees if pic.light.clear else []:
        reach = min(0.62 * height / max(sun[1], 0.1), 2.5 * height)
        across, along = points[:, 0] - x + reach * sun[0], points[:, 2] - z + reach * sun[2]
        lit -= 0.45 * smooth(1.3, 0.7, np.hypot(across, along) / (0.42 * height))
    return np.clip(lit, 0.5, 1)


def person(pic, x, z, height=1.72, gown=False):
    """A standing person: legs or a gown, a trunk, arms and a head, with one side in shade."""
    rng = pic.rng
    light = pic.light.facing
    cloth, legs, skin = [rng.choice(c) * light for c in (CLOTHES, SUITS, SKINS)]
    hair = rng.choice([(0.1, 0.07, 0.05), (0.4, 0.28, 0.15)]) * light

    def shape(outline, colour):
        pic.polygon([(x + height * dx, height * dy, z) for dx, dy in outline], colour)

    if gown:
        shape([(-0.06, 0.6), (0.06, 0.6), (0.15, 0), (-0.15, 0)], cloth)
        shape([(0, 0.6), (0.06, 0.6), (0.15, 0), (0.03, 0)], cloth * 0.75)
    else:
        shape([(-0.08, 0.52), (0.08, 0.52), (0.085, 0), (0.02, 0), (0, 0.4), (-0.02, 0), (-0.085, 0)], legs)
    shape([(-0.11, 0.82), (0.11, 0.82), (0.09, 0.48), (-0.09, 0.48)], cloth)
    shape([(0.02, 0.83), (0.11, 0.82), (0.09, 0.48), (0.03, 0.48)], cloth * 0.8)
    for side in (-1, 1):
        arm = [(side * 0.09, 0.82), (side * 0.125, 0.8), (side * 0.15, 0.46), (side * 0.115, 0.46)]
        shape(arm, (skin if gown else cloth) * 0.88)
    pic.disc((x, 0.925 * height, z), 0.062 * height, hair, flat=1.2)
    pic.disc((x, 0.91 * height, z), 0.05 * height, skin, flat=1.2)


def sheep(pic, x, z):
    wool = np.array((0.88, 0.85, 0.78)) * pic.light.facing
    side = pic.rng.choice([-1, 1])
    for dx in (-0.3, -0.18, 0.2, 0.32):
        pic.line([(x + dx, 0, z), (x + dx, 0.35, z)], (0.1, 0.09, 0.08), 0.07)
    pic.disc((x, 0.52, z), 0.5, wool * 0.72, flat=0.55)
    pic.disc((x, 0.58, z), 0.45, wool, flat=0.5)
    pic.disc((x + side * 0.52, 0.64, z), 0.15, (0.12, 0.1, 0.09), flat=1.2)


def house(pic, x, z):
    """A front with a row of windows under a tiled roof."""
    rng = pic.rng
    light = pic.light.facing
    half = rng.uniform(4, 8)
    high = rng.uniform(3, 5)
    wall = rng.uniform(0.55, 0.9) * np.array((1, 0.95, 0.87))
    roof = rng.uniform(0.25, 0.5)

    def shape(outline, colour):
        pic.polygon([(x + half * dx, high * dy, z) for dx, dy in outline], np.array(colour) * light)

    shape([(-1, 0), (1, 0), (1, 1), (-1, 1)], wall)
    shape([(-1.12, 0.97), (1.12, 0.97), (0.85, 1.6), (-0.85, 1.6)], (roof, 0.6 * roof, 0.45 * roof))
    for at in np.linspace(-0.72, 0.72, 4):
        shape([(at - 0.1, 0.35), (at + 0.1, 0.35), (at + 0.1, 0.75), (at - 0.1, 0.75)], (0.2, 0.22, 0.26))


def fence(pic, start, end, high=1.1):
    """Posts and two rails from one place (x, z) to another."""
    wood = pic.rng.choice([0.32, 0.45, 0.75]) * np.array((1.0, 0.95, 0.88)) * pic.light.facing
    places = np.linspace(start, end, int(np.hypot(end[0] - start[0], end[1] - start[1]) / 2.5))
    for y in (0.5 * high, 0.9 * high):
        pic.line([(x, y, z) for x, z in places], wood * 0.9, 0.07)
    for x, z in places:
        pic.line([(x, 0, z), (x, high, z)], wood, 0.12)


def car(pic, x, z, oncoming):
    """A car seen from behind, or from the front with its lamps on."""
    light = pic.light.facing
    paint = pic.rng.choice([0.15, 0.4, 0.8]) * pic.rng.uniform(0.5, 1.1, 3)

    def shape(outline, colour, alpha=1.0):
        pic.polygon([(x + dx, y, z) for dx, y in outline], colour, alpha)

    shape([(-1.15, 0.0), (1.15, 0.0), (0.9, 0.12), (-0.9, 0.12)], (0, 0, 0), 0.5)
    for side in (-1, 1):
        wheel = [(side * 0.9, 0.0), (side * 0.62, 0.0), (side * 0.62, 0.4), (side * 0.9, 0.4)]
        shape(wheel, (0.04, 0.04, 0.05))
    body = [(-0.92, 0.22), (0.92, 0.22), (0.95, 0.8), (0.82, 0.95),
            (0.62, 1.42), (-0.62, 1.42), (-0.82, 0.95), (-0.95, 0.8)]
    shape(body, paint * light)
    shape([(-0.7, 0.95), (0.7, 0.95), (0.55, 1.34), (-0.55, 1.34)], light * (0.16, 0.2, 0.25))
    shape([(-0.92, 0.22), (0.92, 0.22), (0.93, 0.42), (-0.93, 0.42)], paint * light * 0.6)
    for side in (-1, 1):
        lamp = (1.1, 1.05, 0.85) if oncoming else (0.8, 0.08, 0.05)
        pic.disc((x + side * 0.72, 0.7, z), 0.15, lamp, flat=0.7)


def slivers(start, end, half, taper):
    """Thin quadrilaterals from `start` to `end`: (n, 3) -> (n, 4, 3).

    Each extends `half` to both sides at the start, and a share `taper` of that at the end.
    """
    side = np.asarray(half).reshape(-1, 1) * (1, 0, 0)
    return np.stack([start - side, start + side, end + taper * side, end - taper * side], 1)


def blades(pic, count, near, far, length, colours):
    """Blades of grass, each bent, dark at its foot and bright at its tip."""
    rng = pic.rng
    (x, z) = pic.scatter(count, near, far).T
    wind = rng.normal(0, 0.3)
    tall = length * rng.uniform(0.5, 1.2, count)
    bend = wind + rng.normal(0, 0.35, count)
    foot = np.stack([x, 0 * x, z], 1)
    mid = np.stack([x + 0.3 * bend * tall, 0.6 * tall, z], 1)
    tip = np.stack([x + bend * tall, tall * (1 - 0.25 * np.minimum(bend**2, 2)), z], 1)
    half = 0.010 * length**0.5 * rng.uniform(0.6, 1.4, count) + 0.0012 * z
    hue = rng.choice(colours, count) * pic.light.tint * rng.uniform(0.7, 1.3, (count, 1))
    corners = np.stack([slivers(foot, mid, half, 0.8), slivers(mid, tip, 0.8 * half, 0)], 1)
    pic.polygons(corners.reshape(-1, 4, 3), np.stack([0.65 * hue, 1.15 * hue], 1).reshape(-1, 3))


def ears(pic, count, near, far, top, colours, nod):
    """Stalks of wheat, `top` metres tall, each with an ear of two rows of grains with awns.

    nod: how far the ears lean, in radians.
    """
    rng = pic.rng
    sun = np.sign(pic.light.sun[0])
    (x, z) = pic.scatter(count, near, far).T
    lean = nod + rng.normal(0, 0.25, count)
    size = rng.uniform(0.085, 0.125, (count, 1))            # of the ear
    along = np.stack([np.sin(lean), np.cos(lean), 0 * lean], 1) * size
    across = np.stack([np.cos(lean), -np.sin(lean), 0 * lean], 1) * size
    above = rng.normal(0, 0.06, count)      # ears that stick out catch more light
    neck = np.stack([x, top + above - 0.1, z], 1)
    hue = rng.choice(colours, count) * pic.light.tint
    hue = hue * np.clip(1 + 3.5 * above + rng.normal(0, 0.1, count), 0.55, 1.35)[:, None]
    foot = neck - np.stack([0.25 * np.sin(lean), 0.6 + 0 * x, 0 * x], 1)
    corners = [slivers(foot, neck, 0.003 + 0 * x, 0.8), slivers(neck, neck + along, 0.0045 + 0 * x, 0.5)]
    tones = [0.55, 0.5]
    for step in np.arange(0, 1, 0.16):
        for side in (-1, 1):                # grains grow in pairs, each with an awn
            root = neck + along * step
            belly = root + along * 0.1 + side * across * 0.1
            point = root + along * 0.24 + side * across * 0.07
            corners.append(np.stack([root, belly, point, root + along * 0.16], 1))
            awn = root + along * 1.0 + side * across * 0.32
            corners.append(slivers(root + along * 0.2, awn, 0.0007 + 0 * x, 0.3))
            tones += [1.3 if side == sun else 0.95, 1.0]
    colours = hue[:, None] * np.array(tones)[:, None]
    pic.polygons(np.stack(corners, 1).reshape(-1, 4, 3), colours.reshape(-1, 3))


def windows(pic, wall, lamp=0.1):
    """A wall texture: storeys of framed windows, a share `lamp` of them lit.

    texture(u, v, footprint) -> colours, with u along the wall and v up.
    """
    rng = pic.rng
    light = pic.light
    width = rng.uniform(1.9, 3)
    height = rng.uniform(2.7, 3.5)
    shift = rng.uniform(0, 3)
    frame = rng.uniform(0.6, 1.3)

    def texture(u, v, footprint):
        column, row = (u + shift) / width, v / height
        x = np.abs(column % 1 - 0.5)
        y = np.abs(row % 1 - 0.52)
        soft = np.maximum(0.02, 0.7 * footprint / width)
        surround = smooth(soft, -soft, np.maximum(x - 0.27, y - 0.34))
        pane = smooth(soft, -soft, np.maximum(x - 0.21, y - 0.3)) * smooth(0.01, 0.02 + soft, x)
        mixed = np.sin(np.floor(column) * 12.9898 + np.floor(row) * 78.233)
        chance = np.modf(np.abs(mixed) * 43758.5453)[0]     # a pseudorandom number for each window
        sky = mix(np.array((0.10, 0.12, 0.15)), light.horizon * 0.6, 0.7 * chance * (row % 1))
        glass = mix(sky, (0.98, 0.82, 0.52), (chance < lamp) * (0.6 + 0.3 * (row % 1)))
        stone = wall * light.facing * (1 + 0.035 * noise(rng, u, v, 1.2, footprint))[:, None]
        stone = stone * (1 - 0.25 * smooth(0.04 + soft, 0.02, row % 1))[:, None]    # a ledge at each floor
        return mix(mix(stone, wall * light.facing * frame, surround), glass, pane)

    return texture


def columns(pic, wall, lamp):
    """A wall texture: round columns before a dim recess, under a beam."""
    rng = pic.rng
    light = pic.light
    gap = rng.uniform(2.2, 3.4)
    high = rng.uniform(4, 6)

    def texture(u, v, footprint):
        x = (u / gap) % 1 - 0.5
        roundness = np.sqrt(np.clip(1 - (np.abs(np.abs(x) - 0.5) / 0.17) ** 2, 0, 1))
        column = smooth(0.0, 0.25, roundness) * smooth(high + 0.05, high - 0.05, v)
        recess = mix(wall * 0.35 * light.facing, (0.75, 0.55, 0.32), 0.5 * smooth(4.5, 0.5, v))
        grain = 1 + 0.03 * noise(rng, u, v, 0.8, footprint) - 0.2 * smooth(0.12, 0.02, np.abs(v - high - 0.8))
        beam = wall * light.facing * (0.95 * grain)[:, None]
        colour = mix(recess, beam, smooth(high - 0.05, high + 0.05, v))
        return mix(colour, wall * light.facing * (0.45 + 0.65 * roundness)[:, None], column)

    return texture


def drapes(pic, wall, lamp):
    """A wall texture: heavy curtains in folds."""
    rng = pic.rng
    light = pic.light
    cloth = rng.choice([
        (0.16, 0.18, 0.34), (0.42, 0.34, 0.16), (0.30, 0.30, 0.32), (0.12, 0.24, 0.20), (0.62, 0.56, 0.44)])

    def texture(u, v, footprint):
        folds = (0.8 + 0.3 * np.sin(9 * u + 1.2 * noise(rng, u, 0.1 * v, 2.0))
                 + 0.08 * noise(rng, u, 0.1 * v, 0.5, footprint))
        return cloth * light.facing * (folds * (0.75 + 0.35 * smooth(0, 4, v)))[:, None]

    return texture


def press_wall(pic, wall, lamp):
    """A wall texture: a sponsors' panel, printed with rows of round and oblong marks."""
    rng = pic.rng
    light = pic.light
    pale = (0.93, 0.93, 0.93)
    gold = (0.85, 0.75, 0.45)
    blue = (0.15, 0.22, 0.48)
    black = (0.1, 0.1, 0.12)
    paper, ink = rng.choice([(pale, blue), (blue, pale), (black, gold)])

    def texture(u, v, footprint):
        column, row = u / 1.1, v / 0.62
        x, y = ((column + 0.5 * (np.floor(row) % 2)) % 1 - 0.5) * 1.1, (row % 1 - 0.5) * 0.62
        soft = np.maximum(0.02, footprint)
        ring = smooth(soft, -soft, np.abs(np.hypot(x, y) - 0.15) - 0.045)
        bar = smooth(soft, -soft, np.maximum(np.abs(x) - 0.32, np.abs(y) - 0.06))
        mark = np.where(np.floor(column + row) % 2 == 0, ring, bar) * smooth(4.4, 4.3, v)
        return mix(paper, ink, mark) * light.facing * (0.8 + 0.15 * smooth(0, 3, v))[:, None]

    return texture
