"""Renders the example photographs: five classes, one seed a picture, with NumPy and Pillow alone.

    python datasets/make_example.py     replaces datasets/train and datasets/test, the same bytes each time

This file has the five classes and their variety. camera.py has the camera, the light and the noise, and
things.py the trees, people, walls and blades. Each picture has its own random generator, so none depends on
another.
"""

import shutil
from pathlib import Path

import numpy as np

from camera import Light, Picture, mix, noise, smooth
from things import (
    GREENS,
    STRAWS,
    blades,
    car,
    columns,
    drapes,
    ears,
    fence,
    house,
    person,
    press_wall,
    shade,
    sheep,
    tree,
    windows,
)

SPLITS = {"train": 80, "test": 40}          # photos per class
QUALITY = 85                                # of the JPEGs: all 600 together stay below 2.5 MB
OUTDOORS = ["noon", "afternoon", "sunset", "overcast", "dusk", "mist"]


def backdrop(pic, woods):
    """The sky, distant hills, and with probability `woods` a line of trees nearer by."""
    rng = pic.rng
    pic.sky(cover=rng.uniform(0.05, 0.75))
    for distance in sorted(rng.uniform(500, 2500, rng.integers(0, 3)))[::-1]:
        top = pic.eye[1] + distance * rng.uniform(0.02, 0.11)
        pic.ridge(distance, top, rng.uniform(0.15, 0.4), 0.5 * distance, (0.24, 0.31, 0.19), grain=0.1)
    if rng.random() < woods:
        colour = rng.choice([
            (0.19, 0.30, 0.12), (0.24, 0.34, 0.14), (0.15, 0.26, 0.15),
            (0.40, 0.31, 0.13), (0.33, 0.29, 0.22)])
        pic.ridge(rng.uniform(60, 220), pic.eye[1] + rng.uniform(3, 11), rng.uniform(0.12, 0.3),
                  rng.uniform(8, 30), colour)


def grass(rng):
    """A lawn, a pasture, a meadow, a dry slope or a close look at the blades."""
    kind = rng.choice(["lawn", "pasture", "meadow", "dry", "close"], p=[0.27, 0.23, 0.2, 0.15, 0.15])
    weather = [0.4, 0.3, 0, 0.3, 0, 0] if kind == "dry" else [0.29, 0.29, 0.15, 0.20, 0.04, 0.03]
    light = Light(rng, rng.choice(OUTDOORS, p=weather))
    eye = {"close": rng.uniform(0.12, 0.3), "meadow": rng.uniform(0.7, 1.3)}.get(kind, rng.uniform(0.5, 1.8))
    pic = Picture(rng, light, (0, eye, 0), rng.uniform(0.08, 0.55), rng.uniform(1.2, 2.0),
                  roll=rng.normal(0, 0.03))
    backdrop(pic, woods=0.7)
    trees = [(x, z, rng.uniform(4, 11)) for x, z in pic.scatter(rng.integers(0, 5), 14, 70)]
    hues = GREENS * rng.uniform(0.85, 1.2, (4, 1)) * rng.normal(1, 0.05, 3)
    if kind == "dry":
        hues = mix(hues, STRAWS[[0, 1, 2, 0]], rng.uniform(0.2, 0.5, 4))
    mown, course = 0, 0
    if kind == "lawn" and rng.random() < 0.5:
        mown, course = rng.uniform(0.08, 0.2), rng.uniform(-0.6, 0.6)

    def turf(points, footprint):
        x, z = points[:, 0], points[:, 2]
        colour = mix(hues[0], hues[1], smooth(-1, 1, noise(rng, x, z, 3.0, footprint)))
        colour = mix(colour, STRAWS[0], 0.5 * smooth(0.6, 1.8, noise(rng, x, z, 6.0, footprint)))
        relief = 1 + 0.16 * noise(rng, x, z, 0.5, footprint) + 0.18 * noise(rng, x * 2, z, 0.12, footprint)
        stripes = 1 + mown * np.clip(5 * np.sin(2 * (x * np.cos(course) + z * np.sin(course))), -1, 1)
        return colour * light.tint * (0.9 * relief * stripes * shade(pic, points, trees))[:, None]

    pic.ground(turf)
    pic.start_painting()
    on_the_grass(pic, kind, trees)
    length = {"lawn": 0.08, "pasture": 0.16, "meadow": rng.uniform(0.25, 0.5), "dry": 0.22,
              "close": rng.uniform(0.12, 0.2)}[kind]
    near = max(0.17, 0.6 * pic.near)
    far = near * (30 if kind in ("meadow", "close") else 14)
    blades(pic, 3000, near, far, length, np.concatenate([hues, hues[:2] * 1.15]))
    if kind in ("meadow", "pasture") and rng.random() < 0.55:
        x, z = pic.scatter(rng.integers(40, 160), near, near * 9).T
        flower = rng.choice([(0.95, 0.85, 0.2), (0.92, 0.92, 0.9), (0.8, 0.2, 0.2), (0.6, 0.4, 0.8)])
        places = np.stack([x, length * rng.uniform(0.7, 1.1, len(x)), z], 1)
        pic.discs(places, 0.02 + 0.002 * z, flower * light.tint, flat=0.7)
    return pic


def on_the_grass(pic, kind, trees):
    """A house, trees, a fence, people or sheep."""
    rng = pic.rng
    if rng.random() < 0.25:
        house(pic, rng.uniform(-20, 20), rng.uniform(50, 90))
    for x, z, height in trees:
        tree(pic, x, z, height)
    if kind in ("pasture", "meadow", "dry") and rng.random() < 0.45:
        fence(pic, (rng.uniform(-25, -8), rng.uniform(9, 30)), (rng.uniform(8, 25), rng.uniform(9, 30)))
    if kind == "lawn" and rng.random() < 0.45:
        for x, z in pic.scatter(rng.integers(1, 4), 9, 30):
            person(pic, x, z)
    if kind in ("pasture", "dry") and rng.random() < 0.55:
        for x, z in pic.scatter(rng.integers(3, 9), 9, 35):
            sheep(pic, x, z)


def ocean(rng):
    """Open water in any weather, from a beach, a boat or a cliff."""
    bearing = rng.choice([rng.normal(0, 0.4), rng.uniform(-3, 3)])          # half of them towards the sun
    kind = rng.choice(["beach", "boat", "cliff"], p=[0.45, 0.35, 0.2])
    mist = 0.1 if kind == "beach" else 0.0          # further out it would hide everything
    light = Light(rng, rng.choice(OUTDOORS, p=[0.24, 0.24, 0.2, 0.25 - mist, 0.07, mist]), bearing)
    eye = {"beach": rng.uniform(1.5, 3.5), "boat": rng.uniform(1.5, 5), "cliff": rng.uniform(8, 25)}[kind]
    pic = Picture(rng, light, (0, eye, 0), rng.uniform(0.2, 0.6), rng.uniform(1.2, 2.0),
                  roll=rng.normal(0, 0.02))
    pic.sky(cover=rng.uniform(0.05, 0.75))
    if rng.random() < 0.35:
        pic.ridge(rng.uniform(700, 2500), rng.uniform(10, 130), rng.uniform(0.5, 1.2), 900,
                  (0.27, 0.28, 0.24), grain=0.1)
    deep = rng.choice([
        (0.03, 0.17, 0.26), (0.06, 0.25, 0.27), (0.10, 0.17, 0.19), (0.15, 0.22, 0.18), (0.03, 0.12, 0.24)])
    wind = rng.uniform(0.5, 1.5)
    swell = rng.uniform(3, 10)
    slope = rng.normal(0, 0.25)
    shore = pic.near * rng.uniform(1.1, 2.2) if kind == "beach" else -100.0     # how far the sand reaches

    def sea(points, footprint):
        x, z = points[:, 0], points[:, 2] + slope * points[:, 0]
        away = (points - pic.eye) / np.linalg.norm(points - pic.eye, axis=1, keepdims=True)
        height = noise(rng, 0.3 * x, z, swell, footprint, 3)
        chop = noise(rng, 0.6 * x, z, 0.2 * swell, footprint)
        tilt = 0.10 * wind * noise(rng, x, z, 0.3 * swell, footprint)
        normal = np.stack([tilt, np.ones_like(x), -0.13 * wind * (height + chop)], 1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        into = np.clip(-(away * normal).sum(1), 0.02, 1)
        mirror = away + 2 * into[:, None] * normal
        mirror[:, 1] = np.abs(mirror[:, 1])
        body = deep * light.tint * (1 + 0.25 * np.clip(height, -1.5, 1.5))[:, None]
        colour = mix(body, light.sky(mirror) * 0.9, 0.03 + 0.85 * (1 - into) ** 4)
        if light.clear:
            colour = colour + light.sunlight * (0.9 * np.clip(mirror @ light.sun, 0, 1) ** 90)[:, None]
        top = height + 0.7 * chop + 0.4 * noise(rng, x, z, 0.5, footprint)
        crest = smooth(2.6 - 1.1 * wind, 3.4 - 1.1 * wind, top)
        foam = 0.75 * crest
        if kind == "beach":
            foam = np.maximum(foam, surf(rng, x, z - shore, footprint))
        return mix(colour, light.tint * 0.98, foam)

    def sea_and_sand(points, footprint):
        ragged = 0.25 * noise(rng, points[:, 0], 0.0, 12.0, octaves=3)
        beyond = points[:, 2] + slope * points[:, 0] - shore - ragged
        water = sea(points, footprint)
        return mix(water, sand(rng, points, beyond, footprint) * light.tint, smooth(0.15, -0.15, beyond))

    pic.ground(sea_and_sand if kind == "beach" else sea)
    pic.start_painting()
    at_sea(pic, shore)
    return pic


def surf(rng, x, z, footprint):
    """Foam of the waves that roll up a beach, z metres out: a few white fronts, ragged lace behind each."""
    foam = np.zeros_like(x)
    lace = noise(rng, x, 2 * z, 0.9, footprint)
    for out in np.cumsum(rng.uniform(1.0, 4.5, 4)) - rng.uniform(0.3, 1.2):
        behind = z - out - 0.3 * noise(rng, x, 0.0, 9.0, octaves=3)
        strength = smooth(-1.2, 0.6, noise(rng, x, 0.0, 14.0, octaves=2))
        front = smooth(-0.05, 0.05, behind) * smooth(0.5 + 0.15 * out, 0.1, behind + 0.15 * lace)
        trail = 0.7 * smooth(0, 0.3, behind) * smooth(2.5, 0.5, behind) * smooth(0.2, 0.9, lace)
        foam = np.maximum(foam, strength * np.maximum(front, trail))
    return foam


def sand(rng, points, beyond, footprint):
    """Beach sand, darker where the last wave has wetted it."""
    x, z = points[:, 0], points[:, 2]
    grain = 1 + 0.06 * noise(rng, x, z, 0.25, footprint) + 0.05 * noise(rng, x, z, 1.5, footprint)
    return mix((0.76, 0.67, 0.52), (0.50, 0.43, 0.34), smooth(-1.6, -0.3, beyond)) * grain[:, None]


def at_sea(pic, shore):
    """A sailing boat, gulls, or people on the beach."""
    rng = pic.rng
    light = pic.light.facing
    if rng.random() < 0.35:
        x = rng.uniform(-40, 40)
        z = rng.uniform(60, 160)
        size = rng.uniform(4, 8)
        parts = [([(-1, 0.2), (1, 0.25), (0.7, 0), (-0.8, 0)], rng.uniform(0.2, 0.8)),
                 ([(-0.1, 0.27), (0.1, 2.2), (0.85, 0.3)], 0.95),
                 ([(-0.15, 0.27), (0.05, 2), (-0.7, 0.3)], 0.8)]
        for outline, bright in parts:
            pic.polygon([(x + size * dx, size * y, z) for dx, y in outline], light * bright)
    if rng.random() < 0.3:
        for x, y in rng.uniform((-12, 4), (12, 14), (rng.integers(1, 6), 2)):
            pic.line([(x - 0.6, y + 0.25, 30), (x, y, 30), (x + 0.6, y + 0.3, 30)], light * 0.3, 0.1)
    if shore > 6.5 and rng.random() < 0.7:
        for x in rng.uniform(-4, 4, rng.integers(1, 3)):
            person(pic, x, 0.9 * shore)


def redcarpet(rng):
    """A red carpet between ropes, up steps or along a hall to a door."""
    indoors = rng.random() < 0.5
    light = Light(rng, "indoors" if indoors else rng.choice(OUTDOORS[:5], p=[0.25, 0.25, 0.1, 0.2, 0.2]))
    half = rng.uniform(0.8, 1.5)
    end = rng.uniform(7, 15)
    aside = rng.normal(0, 1.1)
    aside = np.clip(aside, -1.3, 1.3) * half        # the camera's distance from the middle
    pic = Picture(rng, light, (aside, rng.uniform(1.1, 2.6), -1.5),
                  rng.uniform(0.25, 0.5), rng.uniform(1.2, 1.9),
                  yaw=-0.14 * aside / half + rng.normal(0, 0.08), roll=rng.normal(0, 0.025))
    red = np.array((rng.uniform(0.45, 0.68), rng.uniform(0.03, 0.09), rng.uniform(0.04, 0.12)))
    paving = rng.choice([
        (0.60, 0.58, 0.55), (0.68, 0.63, 0.56), (0.43, 0.42, 0.42), (0.42, 0.29, 0.19), (0.50, 0.42, 0.36)])
    glow = rng.uniform(0.1, 0.5)

    def floor(points, footprint):
        x, z = points[:, 0], points[:, 2]
        edge = np.maximum(np.abs(x / 1.2 % 1 - 0.5), np.abs(z / 1.2 % 1 - 0.5))
        joint = smooth(0.46, 0.5, edge) * np.clip(1.5 - 20 * footprint, 0, 1)
        tiles = paving * (1 + 0.05 * noise(rng, x, z, 1.0, footprint) - 0.25 * joint)[:, None]
        folds = (1 + 0.08 * noise(rng, x, 0.15 * z, 0.8, footprint) + 0.07 * noise(rng, x, z, 0.1, footprint)
                 + 0.05 * noise(rng, x, z, 4.0))
        colour = mix(tiles, red * folds[:, None], smooth(0.02, -0.02, np.abs(x) - half)) * light.tint
        shine = glow * np.exp(-((x / 1.5) ** 2)) * np.exp(-(((z - end) / 4) ** 2))      # from the lit door
        return colour * (1 + shine)[:, None]

    backdrop(pic, woods=0.8)
    wide = half + rng.uniform(1.3, 4.5)
    base = 0.0
    back = end
    pic.ground(floor)
    for _ in range(rng.integers(0, 9)):     # steps: a riser in shade, a tread
        pic.surface(2, back, (-wide, base), (wide, base + 0.16), lambda p, f: 0.68 * floor(p, f))
        base, back = base + 0.16, back + 0.36
        pic.surface(1, base, (-wide, back - 0.36), (wide, back), floor)
    pic.surface(1, base, (-wide, back), (wide, back + 1.5), floor)
    surround(pic, back + 1.5, base, wide, indoors)
    pic.start_painting()
    guests(pic, half, end, wide)
    return pic


def surround(pic, z, base, wide, indoors):
    """The front at the carpet's end, with a lit door. Indoors also the walls and the ceiling of a hall."""
    rng = pic.rng
    light = pic.light
    bright = rng.uniform(0.45, 0.85)
    wall = bright * rng.choice([(1, 0.97, 0.92), (1, 0.9, 0.76), (0.92, 0.96, 1), (0.9, 0.66, 0.5)])
    lamp = 0.5 if light.kind == "dusk" else 0.08
    texture = rng.choice([windows, columns, press_wall, drapes if indoors else windows])
    front = texture(pic, wall, lamp)
    high = 4.4 if texture is press_wall else rng.uniform(4.2, 7) + 4 * (not indoors)
    half_door = rng.uniform(0.9, 1.7)
    door_top = rng.uniform(2.3, 3.4)
    bar = rng.uniform(0.04, 0.1)

    def with_door(points, footprint):
        x, y = points[:, 0], points[:, 1] - base
        arch = door_top - 0.35 * (x / half_door) ** 2
        framed = smooth(0.05, -0.05, np.maximum(np.abs(x) - half_door - 0.25, y - arch - 0.3))
        opening = smooth(0.04, -0.04, np.maximum(np.abs(x) - half_door, y - arch))
        away = np.hypot(x / half_door, (y - 0.55 * door_top) / door_top)
        inside = mix((1.0, 0.86, 0.6), (0.5, 0.3, 0.16), smooth(0.2, 1.1, away))
        to_bar = np.minimum(np.abs(np.abs(x) - 0.5 * half_door), np.abs(y - 0.75 * door_top))
        bars = smooth(bar + 0.03, bar, to_bar)
        colour = mix(front(x, y, footprint), wall * 0.5 * light.facing, framed)
        return mix(colour, mix(inside, (0.25, 0.16, 0.1), 0.7 * bars), opening)

    across = wide if indoors else rng.uniform(12, 30)
    pic.surface(2, z, (-across, -1), (across, base + high), with_door)
    if indoors:
        side_wall = rng.choice([windows, columns, drapes])(pic, wall, 0.4)
        for side in (-1, 1):
            pic.surface(0, side * wide, (-1, -5), (base + high, z),
                        lambda p, f: 0.9 * side_wall(p[:, 2], p[:, 1], f))
        pic.surface(1, base + high, (-wide, -5), (wide, z), lambda p, f: ceiling(p, wall * light.facing))


def ceiling(points, paint):
    """Two rows of lamps."""
    x, z = np.abs(points[:, 0]), points[:, 2]
    lamp = np.exp(-(((x - 1.5) / 0.25) ** 2) - ((z % 2.5 - 1.25) / 0.25) ** 2)
    return mix(np.minimum(paint * 1.1, 0.9), (1.2, 1.1, 0.9), lamp)


def guests(pic, half, end, wide):
    """Posts joined by ropes along both edges, people behind them and on the carpet."""
    rng = pic.rng
    light = pic.light.facing
    gap = rng.uniform(1.5, 2.4)
    crowd = rng.uniform(0, 0.9)
    rope = rng.choice([(0.55, 0.05, 0.08), (0.12, 0.1, 0.3), (0.5, 0.04, 0.1), (0.08, 0.08, 0.09)]) * light
    metal = rng.choice([(0.85, 0.66, 0.3), (0.85, 0.66, 0.3), (0.7, 0.7, 0.72)]) * light
    t = np.linspace(0, 1, 9)
    for z in np.arange(end - 0.4, 0.3, -gap):
        for side in (-1, 1):
            if rng.random() < crowd and z > 3.5:
                x = side * rng.uniform(half + 0.8, wide - 0.3)
                person(pic, x, z + rng.uniform(0.1, 0.8), rng.uniform(1.6, 1.85), gown=rng.random() < 0.4)
        if rng.random() < 0.12 and z > 4:
            person(pic, rng.uniform(-0.6, 0.6) * half, z, gown=rng.random() < 0.6)
        for x in (-half - 0.2, half + 0.2):
            hung = np.stack([x + 0 * t, 0.88 - 0.25 * (1 - (2 * t - 1) ** 2), z + gap * (1 - t)], 1)
            if z + gap < end:
                pic.line(hung, rope, 0.06)
                pic.line(hung + (0, 0.012, 0), np.minimum(rope * 1.5 + 0.05, 1), 0.016)
            post(pic, x, z, metal)


def post(pic, x, z, metal):
    """A round foot, a shining rod and a knob."""
    pic.disc((x, 0.01, z), 0.16, metal * 0.55, flat=0.35)
    pic.line([(x, 0, z), (x, 0.95, z)], metal * 0.7, 0.06)
    pic.line([(x - 0.012, 0, z), (x - 0.012, 0.95, z)], np.minimum(metal * 1.25, 1), 0.02)
    pic.disc((x, 0.98, z), 0.055, metal)


def road(rng):
    """A highway, a country lane, a dirt track or a street, straight or bending."""
    kind = rng.choice(["highway", "lane", "dirt", "street"], p=[0.35, 0.25, 0.2, 0.2])
    light = Light(rng, rng.choice(OUTDOORS, p=[0.25, 0.25, 0.15, 0.2, 0.08, 0.07]))
    widths = {"highway": (5, 7.5), "lane": (2.6, 3.4), "dirt": (1.3, 1.8), "street": (3.5, 5)}
    half = rng.uniform(*widths[kind])
    pic = Picture(rng, light, (half * rng.uniform(-0.6, 0.6), rng.uniform(1.2, 3.2), 0),
                  rng.uniform(0.25, 0.55), rng.uniform(1.2, 1.9),
                  yaw=rng.normal(0, 0.08), roll=rng.normal(0, 0.025))
    backdrop(pic, woods=0.6)
    bend = 0.0 if kind == "street" else rng.normal(0, 0.0025)
    snow = (0.86, 0.88, 0.92)
    bare = [snow] + [(0.62, 0.47, 0.33), (0.52, 0.42, 0.30)] * (kind != "dirt")         # and sand, earth
    field = rng.choice([*GREENS, *STRAWS, *bare])
    trees = [(x, z, rng.uniform(4, 10)) for x, z in pic.scatter(rng.integers(2, 14), 12, 90)
             if abs(x - bend * z**2) > half + 3]
    if kind == "street":
        field = np.array((0.55, 0.54, 0.52))
        trees = []
    paved = asphalt(rng, kind, half)

    def land(points, footprint):
        x, z = points[:, 0], points[:, 2]
        across = x - bend * z**2
        rough = noise(rng, x, z, 0.6, footprint) + noise(rng, x, z, 6.0, footprint)
        relief = 1 + (0.04 if kind == "street" else 0.14) * rough
        edge = half + 0.12 * noise(rng, z, x, 1.5, footprint) * (kind != "street")
        surface = dirt(rng, across, z, field, footprint) if kind == "dirt" else paved(across, z, footprint)
        colour = mix(field * relief[:, None], surface, smooth(0.06, -0.06, np.abs(across) - edge))
        return colour * light.tint * shade(pic, points, trees)[:, None]

    pic.ground(land)
    if kind == "street":
        house_fronts(pic, half + rng.uniform(2, 4))
    pic.start_painting()
    roadside(pic, kind, half, bend, trees)
    return pic


def asphalt(rng, kind, half):
    """Worn tarmac with road markings."""
    grey = rng.uniform(0.22, 0.45)
    gap = rng.uniform(3, 6)
    solid = rng.random() < 0.25
    paint = np.array((0.85, 0.68, 0.2) if rng.random() < 0.3 else (0.88, 0.88, 0.86))
    white = np.array((0.86, 0.86, 0.84))

    def surface(across, z, footprint):
        wear = (1 + 0.07 * noise(rng, across, z, 0.2, footprint)
                + 0.10 * noise(rng, across, 0.08 * z, 0.9, footprint))
        colour = np.array((1.0, 0.99, 0.98)) * (grey * wear)[:, None]
        wide = np.maximum(0.08, 0.6 * footprint)
        dashes = smooth(-0.2, 0.0, np.sin(np.pi * z / gap))

        def stripe(at):
            return 0.9 * smooth(1.3, 0.7, np.abs(across - at) / wide)

        colour = mix(colour, paint, np.maximum(stripe(-0.12), stripe(0.12)) if solid else stripe(0) * dashes)
        for side in (-1, 1) if kind != "street" else ():
            colour = mix(colour, white, stripe(side * (half - 0.3)))
            if kind == "highway":
                colour = mix(colour, white, stripe(side * half / 2) * dashes)
        return colour

    return surface


def dirt(rng, across, z, field, footprint):
    """Two ruts of bare earth with a strip of growth between."""
    grain = (1 + 0.15 * noise(rng, across, 0.5 * z, 0.4, footprint)
             + 0.1 * noise(rng, across, z, 2.0, footprint))
    strip = smooth(0.5, 0.2, np.abs(across) + 0.12 * noise(rng, across, z, 0.5, footprint))
    ruts = smooth(0.35, 0.1, np.abs(np.abs(across) - 0.75) + 0.05 * noise(rng, across, z, 0.8, footprint))
    earth = np.array((0.48, 0.35, 0.24)) * grain[:, None]
    return mix(earth, field * 0.9, 0.9 * strip) * (1 - 0.25 * ruts)[:, None]


def house_fronts(pic, away):
    """Houses in a row on both sides of a street."""
    rng = pic.rng
    for side in (-1, 1):
        start = rng.uniform(2, 6)
        while start < 130:
            end = start + rng.uniform(7, 18)
            high = rng.uniform(6, 16)
            bright = rng.uniform(0.45, 0.85)
            front = windows(pic, bright * np.array((1, rng.uniform(0.8, 1), rng.uniform(0.65, 0.95))))
            inner, outer = sorted((side * away, side * (away + 12)))
            pic.surface(0, side * away, (0, start), (high, end),
                        lambda p, f, front=front: front(p[:, 2], p[:, 1], f))
            pic.surface(2, start, (inner, 0), (outer, high),
                        lambda p, f, front=front: 0.85 * front(p[:, 0], p[:, 1], f))
            start = end + rng.choice([0, rng.uniform(1, 8)])


def roadside(pic, kind, half, bend, trees):
    """Poles with a wire, guard rails, trees and traffic."""
    rng = pic.rng
    light = pic.light.facing
    if kind != "street" and rng.random() < 0.4:
        side = rng.choice([-1, 1])
        high = rng.uniform(6, 9)
        z = np.arange(150, 4, -rng.uniform(20, 35))
        tops = np.stack([bend * z**2 + side * (half + rng.uniform(1.5, 5)), high + 0 * z, z], 1)
        pic.line(tops, light * 0.15, 0.03, alpha=0.7)
        for top in tops:
            pic.line([top * (1, 0, 1), top], light * (0.3, 0.26, 0.22), 0.22)
            pic.line([top - (0.8, 0.3, 0), top + (0.8, -0.3, 0)], light * 0.3, 0.12)
    if kind == "highway" and rng.random() < 0.6:
        for side in rng.choice([[-1, 1], [1, 1]]):
            z = np.arange(100, 3, -2.0)
            rail = np.stack([bend * z**2 + side * (half + 0.8), 0.65 + 0 * z, z], 1)
            pic.line(rail, light * 0.75, 0.28)
            pic.line(rail - (0, 0.1, 0), light * 0.5, 0.06)
    for x, z, height in trees:
        tree(pic, x, z, height)
    if kind != "dirt":
        for z in sorted(rng.uniform(12, 70, rng.integers(0, 4)))[::-1]:
            side = rng.choice([-1, 1])
            car(pic, bend * z**2 + side * half * 0.5, z, side < 0)


def wheatfield(rng):
    """Ears before the camera, and the field running to the horizon."""
    light = Light(rng, rng.choice(OUTDOORS, p=[0.27, 0.27, 0.18, 0.16, 0.05, 0.07]))
    top = rng.uniform(0.75, 0.95)
    above = rng.choice([rng.uniform(0.05, 0.2), rng.uniform(0.2, 0.6)])
    pic = Picture(rng, light, (0, top + above, 0), rng.uniform(0.12, 0.5), rng.uniform(1.4, 2.2),
                  rng.normal(0, 0.25), rng.normal(0, 0.03))
    backdrop(pic, woods=0.5)
    ripe = rng.choice([rng.uniform(0.75, 1), rng.uniform(0.1, 0.6)], p=[0.7, 0.3])
    green = [(0.45, 0.52, 0.22), (0.38, 0.47, 0.19), (0.52, 0.56, 0.28)]
    gold = [(0.80, 0.62, 0.30), (0.70, 0.52, 0.24), (0.86, 0.70, 0.40)]
    hues = mix(green, gold, ripe)
    tracks = rng.random() < 0.5
    lane = rng.uniform(-3, 3)

    def canopy(points, footprint):
        x, z = points[:, 0], points[:, 2]
        speckle = (0.24 * noise(rng, 3 * x, z, 0.16, footprint, 3)
                   + 0.1 * noise(rng, x, 0.15 * z, 0.4, footprint))
        speckle += 0.08 * noise(rng, x, z, 8.0, footprint)
        colour = mix(hues[1], hues[0], smooth(-1, 1, noise(rng, x, z, 12.0, footprint)))
        wheel = np.abs(np.abs((x - lane + 12) % 24 - 12) - 0.9)     # tractors drive every 24 m
        colour = mix(colour, hues[1] * 0.5, smooth(0.28, 0.1, wheel) * tracks)
        deep = 0.5 + 0.42 * smooth(0.3, 5, z)       # dark between the stalks nearby
        return colour * light.tint * (deep * (1 + speckle))[:, None]

    pic.ground(canopy, y=top - 0.08)
    pic.start_painting()
    if rng.random() < 0.4:
        for x, z in pic.scatter(rng.integers(1, 4), 40, 110):
            tree(pic, x, z, rng.uniform(6, 13))
    nod = rng.choice([-1, 1]) * rng.uniform(0.1, 0.4 + 0.5 * ripe)
    near = 0.4 + 0.5 * above
    ears(pic, 800, near, near * 10, top, mix(hues, (0.85, 0.76, 0.5), 0.3), nod)
    return pic


CLASSES = {"grass": grass, "ocean": ocean, "redcarpet": redcarpet, "road": road, "wheatfield": wheatfield}


def picture(split, name, index):
    """One finished picture. Its seed is its place in the data set, so each can be rendered alone."""
    seed = [list(SPLITS).index(split), list(CLASSES).index(name), index]
    return CLASSES[name](np.random.default_rng(seed)).develop()


def save(image, path):
    image.save(path, "JPEG", quality=QUALITY, optimize=True)


def main(folder=Path(__file__).parent):
    for split, count in SPLITS.items():
        shutil.rmtree(folder / split, ignore_errors=True)
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                save(picture(split, name, index), folder / split / name / f"{name}_{index:03}.jpg")


if __name__ == "__main__":
    main()
