"""Renders the example pictures: noise for texture, light, and a camera.

A pinhole camera stands in a small world: x to the right, y up, z ahead, in metres. A ray through each pixel
meets the sky, a ridge of hills or a flat surface, whose texture is noise in perspective. Things are then
painted over it from far to near. Finally the camera adds blur, exposure, a colour cast and grain. Colours are
(r, g, b) in 0…1.

Source: Perlin, An Image Synthesizer (SIGGRAPH 1985), for noise as texture.
Next: things.py
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 128, 96
SUPER = 3               # drawn three times larger and then reduced, which smooths edges

# For each kind of light: the range of the sun's height in degrees, the colours of the sunlight and of the sky
# overhead and at the horizon, and the sight in metres, at which haze has replaced two thirds of a colour.
LIGHTS = {
    "noon": ((35, 65), (1.06, 1.02, 0.94), (0.22, 0.43, 0.78), (0.74, 0.84, 0.94), 900),
    "afternoon": ((15, 32), (1.08, 0.96, 0.78), (0.33, 0.52, 0.80), (0.86, 0.87, 0.86), 700),
    "sunset": ((2, 9), (1.02, 0.68, 0.46), (0.36, 0.40, 0.56), (0.99, 0.72, 0.46), 400),
    "overcast": ((40, 60), (0.78, 0.79, 0.80), (0.60, 0.64, 0.69), (0.80, 0.82, 0.84), 350),
    "dusk": ((1, 3), (0.52, 0.48, 0.54), (0.18, 0.25, 0.42), (0.68, 0.56, 0.54), 500),
    "mist": ((15, 30), (0.80, 0.80, 0.79), (0.72, 0.75, 0.78), (0.83, 0.84, 0.84), 60),
    "indoors": ((60, 80), (1.00, 0.93, 0.80), (0.72, 0.68, 0.62), (0.80, 0.74, 0.64), 400),
}


def smooth(low, high, x):
    """0 below `low`, 1 above `high`, an S-curve between. With low > high it falls from 1 to 0."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a, b, t):
    """Colour a where t is 0, colour b where it is 1."""
    t = np.asarray(t)[..., None]
    return np.asarray(a) * (1 - t) + np.asarray(b) * t


@cache
def noise_tile():
    """One octave of seamless noise: white noise, filtered to a ring of about 24 waves per tile."""
    waves = np.fft.fftfreq(256) * 256
    ring = np.exp(-(((np.hypot(waves[:, None], waves) - 24) / 8) ** 2))
    white = np.random.default_rng(1985).standard_normal((256, 256))
    tile = np.fft.ifft2(np.fft.fft2(white) * ring).real
    return (tile / tile.std()).astype(np.float32).ravel()


def octave(x, y):
    """The noise tile at (x, y), stretched to wavelength 1, by bilinear interpolation."""
    x, y = np.broadcast_arrays(x * (256 / 24), y * (256 / 24))
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, down = (x - column).astype(np.float32), (y - row).astype(np.float32)
    c0 = column & 255
    c1 = (column + 1) & 255
    r0 = (row & 255) * 256
    r1 = ((row + 1) & 255) * 256
    tile = noise_tile()
    above = tile[r0 + c0] * (1 - right) + tile[r0 + c1] * right
    below = tile[r1 + c0] * (1 - right) + tile[r1 + c1] * right
    return above * (1 - down) + below * down


def noise(rng, x, y, wavelength, footprint=0.0, octaves=4):
    """Fractal noise with a standard deviation near 1. Waves shorter than a pixel's `footprint` fade out."""
    total = 0.0
    for k in range(octaves):
        wave = wavelength / 2**k
        angle = 2.4 * k                     # turned, so that octaves do not line up
        shift = rng.uniform(0, 24, 2)
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        visible = np.clip(1.6 - 1.2 * footprint / wave, 0, 1)
        total = total + 0.75 * 0.62**k * visible * octave(u / wave + shift[0], v / wave + shift[1])
    return total


class Light:
    """Sun, sky and haze at one moment.

    sun: the unit vector towards it.   tint: the colour of a white surface on the ground.
    facing: the colour of an upright white surface that faces the camera.
    """

    def __init__(self, rng, kind, bearing=None):
        heights, *colours, sight = LIGHTS[kind]
        self.kind = kind
        self.clear = kind not in ("overcast", "mist", "indoors")
        bearing = rng.uniform(-np.pi, np.pi) if bearing is None else bearing
        up = np.radians(rng.uniform(*heights))
        self.sun = np.array([np.sin(bearing) * np.cos(up), np.sin(up), np.cos(bearing) * np.cos(up)])
        colours = np.array(colours) * rng.uniform(0.94, 1.06, (3, 1)) * rng.normal(1, 0.015, (3, 3))
        self.sunlight, self.zenith, self.horizon = colours
        self.sight = sight * rng.uniform(0.6, 1.8)
        self.tint = 0.25 * (self.zenith + self.horizon) + 0.6 * self.sunlight
        self.facing = self.tint * (0.8 - 0.3 * self.sun[2] * self.clear)

    def sky(self, rays):
        """The clear sky that each ray meets, deeper overhead and glowing around the sun."""
        colour = mix(self.horizon, self.zenith, 1 - np.exp(-3.5 * np.clip(rays[..., 1], 0, 1)))
        if self.clear:
            toward = np.clip(rays @ self.sun, 0, 1)
            glow = (0.22 * toward**8 + 0.3 * toward**70 + 0.4 * toward**600
                    + 2 * smooth(0.9994, 0.9998, toward))
            colour = colour + self.sunlight * glow[..., None]
        return colour


class Picture:
    """An unfinished picture: the camera, the light and the pixels so far.

    eye: the camera's place.   horizon: its height in the picture, from 0 at the top to 1.
    focal: the focal length in half picture widths.   near: the distance where the ground enters the picture.
    distance: of the thing in each pixel.   pixels: an array, and an image after `start_painting`.
    """

    def __init__(self, rng, light, eye, horizon, focal=1.5, yaw=0.0, roll=0.0):
        wide = WIDTH * SUPER
        high = HEIGHT * SUPER
        self.rng = rng
        self.light = light
        self.eye = np.array(eye, float)
        self.yaw = yaw
        self.focal = focal * wide / 2
        self.near = self.eye[1] * self.focal / ((1 - horizon) * high)
        pitch = np.arctan((0.5 - horizon) * high / self.focal)
        (cy, sy), (cp, sp), (cr, sr) = [(np.cos(a), np.sin(a)) for a in (yaw, pitch, roll)]
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        self.rotation = turn @ nod @ tilt               # camera -> world
        rows, columns = np.mgrid[0:high, 0:wide] + 0.5
        rays = np.stack([
            (columns - wide / 2) / self.focal, (high / 2 - rows) / self.focal, np.ones((high, wide))], -1)
        self.rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True) @ self.rotation.T
        self.distance = np.full((high, wide), np.inf)
        self.pixels = np.zeros((high, wide, 3))

    def haze(self, colour, distance):
        """The colour seen from a distance, mixed with that of the horizon by the air in between."""
        return mix(colour, self.light.horizon, 1 - np.exp(-np.asarray(distance) / self.light.sight))

    def sky(self, cover):
        """Fills the picture with sky, about a share `cover` of it clouds that are bright towards the sun."""
        rays = self.rays
        sun = self.light.sun
        wave = self.rng.uniform(0.8, 3.5)
        seed = self.rng.integers(2**32)
        up = np.clip(rays[..., 1], 0, 1) + 0.06
        x, z = rays[..., 0] / up, rays[..., 2] / up         # where the ray meets the layer of clouds
        puffs, beyond = [noise(np.random.default_rng(seed), x + d * sun[0], z + d * sun[2], wave, 0.02 / up)
                         for d in (0, 0.25)]
        cloud = smooth(1.3 - 2.6 * cover, 2.3 - 2.6 * cover, puffs) * smooth(0, 0.1, rays[..., 1]) * 0.9
        bright = np.clip(0.88 + 0.16 * (puffs - beyond), 0.5, 1.1)[..., None]
        white = 0.35 * self.light.horizon + 0.62 * self.light.sunlight
        self.pixels = mix(self.light.sky(rays), bright * white, cloud)

    def ridge(self, distance, top, rough, wave, colour, grain=0.2):
        """Hills or woods along the horizon, `top` metres high and `distance` away.

        Noise of wavelength `wave` makes their outline `rough`.
        """
        along = np.arctan2(self.rays[..., 0], self.rays[..., 2]) * distance
        high = self.rays[..., 1] / np.hypot(self.rays[..., 0], self.rays[..., 2]) * distance + self.eye[1]
        outline = top * (1 + rough * noise(self.rng, along, 0.0, wave, octaves=5))
        below = smooth(0, 2.0 * distance / self.focal, outline - high)
        texture = (1 + grain * noise(self.rng, along, high, 0.4 * wave, distance / self.focal)
                   + 0.25 * smooth(0.3, 1, high / outline))
        lit = np.array(colour) * self.light.facing * texture[..., None]
        self.pixels = mix(self.pixels, self.haze(lit, distance), below)
        self.distance = np.where(below > 0.5, distance, self.distance)

    def surface(self, axis, at, low, high, material):
        """A flat rectangle across `axis` (0 x, 1 y, 2 z), between two corners on the other axes.

        It is drawn where it is the nearest thing so far.
        material(points (n, 3), footprint (n,)) -> colours (n, 3). A footprint is a pixel's width in metres.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (at - self.eye[axis]) / self.rays[..., axis]
            points = self.eye + t[..., None] * self.rays
            others = np.delete(points, axis, axis=-1)
            hit = (t > 0) & (t < self.distance) & (others >= low).all(-1) & (others <= high).all(-1)
        t = t[hit]
        slant = np.abs(self.rays[..., axis][hit])
        self.pixels[hit] = self.haze(material(points[hit], t / self.focal / np.sqrt(slant)), t)
        self.distance[hit] = t

    def ground(self, material, y=0.0):
        self.surface(1, y, (-1e4, -1e4), (1e4, 1e4), material)

    def start_painting(self):
        """From now on things are painted over the picture, the farthest first."""
        self.pixels = Image.fromarray((np.clip(self.pixels, 0, 1) * 255).astype(np.uint8))
        self.brush = ImageDraw.Draw(self.pixels, "RGBA")

    def project(self, points):
        """World -> picture: columns and rows (…, 2), and depth (…)."""
        p = (np.asarray(points, float) - self.eye) @ self.rotation
        depth = np.maximum(p[..., 2:], 1e-3)
        middle = np.array([WIDTH, HEIGHT]) * SUPER / 2
        return middle + self.focal * p[..., :2] / depth * (1, -1), p[..., 2]

    def inks(self, colours, depth, alpha):
        """Lit colours, seen through the haze, as the brush takes them: (r, g, b, alpha) in 0…255."""
        rgb = np.clip(self.haze(np.broadcast_to(colours, (len(depth), 3)), depth), 0, 1) * 255
        return [(*c, round(255 * alpha)) for c in rgb.astype(int).tolist()]

    def polygons(self, corners, colours, alpha=1.0):
        """Filled polygons, painted in order.

        corners: (n, k, 3) in the world.   colours: (n, 3), or one for all.
        """
        spots, depth = self.project(corners)
        inks = self.inks(colours, depth.mean(1), alpha)
        for shape, near, ink in zip(spots.reshape(len(spots), -1).tolist(), depth.min(1), inks, strict=True):
            if near > 0.15:
                self.brush.polygon(shape, fill=ink)

    def polygon(self, corners, colour, alpha=1.0):
        self.polygons(np.array(corners, float)[None], colour, alpha)

    def discs(self, centres, radii, colours, flat=1.0, alpha=1.0):
        """Discs that face the camera. flat < 1 squeezes them.

        centres: (n, 3).   radii: (n,) in metres.   colours: (n, 3).
        """
        spots, depth = self.project(centres)
        sizes = np.maximum(0.5, self.focal * np.asarray(radii) / np.maximum(depth, 0.15))
        inks = self.inks(colours, depth, alpha)
        for (x, y), r, d, ink in zip(spots.tolist(), sizes.tolist(), depth, inks, strict=True):
            if d > 0.15:
                self.brush.ellipse([x - r, y - r * flat, x + r, y + r * flat], fill=ink)

    def disc(self, centre, radius, colour, flat=1.0, alpha=1.0):
        self.discs(np.array(centre, float)[None], [radius], colour, flat, alpha)

    def line(self, points, colour, thick, alpha=1.0):
        """A line through points in the world, `thick` metres wide."""
        spots, depth = self.project(points)
        depth = np.minimum(depth[:-1], depth[1:])
        for a, b, d, ink in zip(spots[:-1], spots[1:], depth, self.inks(colour, depth, alpha), strict=True):
            if d > 0.15:
                self.brush.line([*a, *b], fill=ink, width=max(1, round(self.focal * thick / d)))

    def scatter(self, count, near, far):
        """Random places on the ground in view, (count, 2): x and z, the farthest first."""
        z = np.sort(near * (far / near) ** self.rng.uniform(0, 1, count))[::-1]
        x = self.rng.uniform(-1.15, 1.15, count) * (z * WIDTH * SUPER / 2 / self.focal + 0.2)
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([self.eye[0] + x * cos + z * sin, self.eye[2] + z * cos - x * sin], -1)

    def develop(self):
        """Adds a camera's blur, exposure, colour cast, saturation, contrast, vignette and grain.

        Returns the finished image.
        """
        rng = self.rng
        small = self.pixels.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
        small = small.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 0.3, 0.5], p=[0.6, 0.25, 0.15]))))
        x = np.asarray(small) / 255
        exposure = np.clip((0.44 / x.mean()) ** 0.6, 0.8, 1.7) * rng.uniform(0.87, 1.12)
        x = x * exposure * rng.normal(1, 0.02, 3)
        grey = x.mean(-1, keepdims=True)
        x = grey + (x - grey) * rng.uniform(0.65, 1.02)
        x = 0.5 + (x - 0.5) * rng.uniform(0.9, 1.2)
        x = np.minimum(x, 0.75) + 0.25 * np.tanh(np.maximum(x - 0.75, 0) / 0.25)  # highlights fade to white
        rows, columns = np.linspace(-1, 1, HEIGHT)[:, None], np.linspace(-1, 1, WIDTH)
        x = x * (1 - rng.uniform(0, 0.14) * (rows**2 + columns**2))[..., None]
        x = x + rng.normal(0, rng.uniform(0.002, 0.014), x.shape[:2])[..., None]
        return Image.fromarray((np.clip(x, 0, 1) * 255).round().astype(np.uint8))
