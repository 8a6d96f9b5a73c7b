"""The zoo of defects: everything we have seen go wrong with folders of photos, built by code.

Each kind spoils the sound data set that `build` makes, and states the result: the lines of the table, which
begin with the verdict, the number of photos added, and the files passed over. No line means no finding.
"""

import os
import shutil
import struct
import unicodedata
import zlib
from collections import Counter
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from scene.photos import folder
from scene.photos.findings import DataError, table

SETS = "train", "test"
CLASSES = "ocean", "road"
COUNT = 3


class Kind(NamedTuple):
    """One defect: `spoil` takes the folder that holds train and test, made by `build`."""

    spoil: callable
    report: list
    used: int
    passed_over: Counter
    permissions: bool               # whether it needs a user other than root


ZOO = {}


def kind(*report, used=0, passed_over=(), permissions=False, name=None):
    """Adds a function to the zoo."""
    def put(spoil):
        ZOO[name or spoil.__name__] = Kind(spoil, list(report), used, Counter(passed_over), permissions)
        return spoil

    return put


def noise(seed, width=24, height=20, mode="RGB"):
    """A picture of noise, different for each seed."""
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encode(image, form="JPEG", **options):
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


SOUND = {f"{part}/{name}/{i}.jpg": encode(noise((7, p, n, i)))
         for p, part in enumerate(SETS) for n, name in enumerate(CLASSES) for i in range(COUNT)}


def build(root, *names):
    """Writes the sound data set to root and spoils it with the named kinds."""
    for path, data in SOUND.items():
        write(root, path, data)
    for name in names:
        ZOO[name].spoil(root)


def write(root, path, data=None):
    """Writes a file, by default a sound photo unlike any other, and makes its folders."""
    path = root / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(noise(zlib.crc32(os.fsencode(path.name)))) if data is None else data)


def look(skip_bad=False):
    """Loads ./train and ./test -> the table's lines, the number of photos used, train's `passed_over`."""
    train, test = listings = [folder.scan(name) for name in SETS]
    try:
        sets, findings = folder.load(listings, train.classes, 32, folder.check(train, test), skip_bad)
    except DataError as error:
        return table(error.findings).splitlines(), 0, train.passed_over
    return table(findings).splitlines(), sum(len(photos.labels) for photos in sets), train.passed_over


# Photos that cannot be used


def png(*chunks):
    """A PNG of (kind, content) chunks."""
    parts = [struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
             for kind, content in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


PICTURE = noise(1000)
JPEG = encode(PICTURE)
PNG = encode(PICTURE, "PNG")
WEBP = encode(PICTURE, "WebP")
PROGRESSIVE = encode(PICTURE, progressive=True)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
PIXEL_BOMB = png(header(30_000, 30_000), (b"IDAT", b""), (b"IEND", b""))
TEXT = b"zTXt", b"note\0\0" + zlib.compress(bytes(5_000_000))
TEXT_BOMB = png(header(8, 8), TEXT, (b"IDAT", b""), (b"IEND", b""))

NO_PHOTO = "not a JPEG, PNG or WebP photo"
NO_JPEG_END = "truncated: the end of the JPEG is missing"
NO_PNG_END = "truncated: the end of the PNG is missing"
BAD_JPEG = "damaged: the JPEG cannot be decoded"
BAD_PNG = "damaged: the PNG cannot be decoded"

BAD = {
    "empty": ("jpg", b"", "the file is empty"),
    "zeros": ("jpg", bytes(1000), NO_PHOTO),
    "half_a_jpeg": ("jpg", JPEG[:len(JPEG) // 2], NO_JPEG_END),
    "jpeg_less_a_byte": ("jpg", JPEG[:-1], NO_JPEG_END),
    "half_a_progressive_jpeg": ("jpg", PROGRESSIVE[:len(PROGRESSIVE) // 2], NO_JPEG_END),
    "jpeg_padded_with_zeros": ("jpg", JPEG[:500] + bytes(len(JPEG) - 500), NO_JPEG_END),
    "half_a_png": ("png", PNG[:len(PNG) // 2], NO_PNG_END),
    "png_less_a_byte": ("png", PNG[:-1], NO_PNG_END),
    "half_a_webp": ("webp", WEBP[:len(WEBP) // 2], "truncated: the end of the WebP is missing"),
    "jpeg_with_a_broken_table": ("jpg", JPEG.replace(b"\xff\xc4\x00", b"\xff\xc4\xff", 1), BAD_JPEG),
    "jpeg_of_nothing": ("jpg", b"\xff\xd8\xff\xd9", BAD_JPEG),
    "png_with_a_wrong_bit": (
        "png", PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], "damaged: a checksum in the PNG is wrong"),
    "png_without_pixels": ("png", png(header(8, 8), (b"IEND", b"")), BAD_PNG),
    "pixel_bomb": (
        "png", PIXEL_BOMB, "30000x30000 pixels; at most 64 million are accepted: shrink it first"),
    "text_bomb": ("png", TEXT_BOMB, BAD_PNG),
    "web_page": ("jpg", b"<!DOCTYPE html><title>Not found</title>", f"{NO_PHOTO} but a web page"),
    "text": ("png", b"to do: take a photo", NO_PHOTO),
    "gif_named_jpg": ("jpg", encode(PICTURE, "GIF"), f"{NO_PHOTO} but GIF: export it as JPEG"),
    "tiff_named_png": ("png", encode(PICTURE, "TIFF"), f"{NO_PHOTO} but TIFF: export it as JPEG"),
    "pointer": ("jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                f"{NO_PHOTO} but a Git LFS pointer: run git lfs pull to get the photo itself"),
    "jpeg_with_a_hole": ("jpg", JPEG[:-300] + bytes(200) + JPEG[-100:],
                         "damaged: some of the JPEG's data are missing or wrong"),
    "heic_named_jpg": ("jpg", HEIC, f"{NO_PHOTO} but HEIC, AVIF or a video: export it as JPEG"),
}
for name, (suffix, data, words) in BAD.items():
    path = f"train/ocean/{name}.{suffix}"
    kind(f"error     {path}: {words}.", name=name)(partial(write, path=path, data=data))


@kind("error     test/road/huge.jpg: 100.0 MB; at most 100 MB are accepted: shrink it first.")
def huge(root):
    with open(root / "test/road/huge.jpg", "wb") as file:
        file.truncate(100_000_001)              # sparse: takes no space on the disk


@kind("error     test/road/link.jpg: cannot be read: No such file or directory.")
def link_to_nothing(root):
    (root / "test/road/link.jpg").symlink_to("nothing.jpg")


@kind("error     test/road/loop.jpg: cannot be read: Too many levels of symbolic links.")
def link_to_itself(root):
    (root / "test/road/loop.jpg").symlink_to("loop.jpg")


@kind("error     test/road/pipe.jpg: not a regular file.")
def pipe(root):
    os.mkfifo(root / "test/road/pipe.jpg")


@kind("error     train/road/secret.jpg: cannot be read: Permission denied.", permissions=True)
def photo_without_permission(root):
    write(root, "train/road/secret.jpg")
    (root / "train/road/secret.jpg").chmod(0)


@kind(r"error     train/ocean/\xff\n.jpg: the file is empty.")
def bad_photo_with_a_bad_name(root):
    write(root, os.fsdecode(b"train/ocean/\xff\n.jpg"), b"")


# Photos that are used


def ycck(seed):
    """Pillow cannot write YCCK, so this changes Adobe's marker in a CMYK photo, and thereby its colours."""
    data = encode(noise(seed, mode="CMYK"))
    place = data.index(b"Adobe") + 11
    return data[:place] + b"\x02" + data[place + 1:]


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(noise(orientation), exif=exif)


def in_mode(mode, seed, form="PNG", **options):
    return encode(noise(seed, mode=mode), form, **options)


def several(form, seed):
    """A file of two pictures."""
    return encode(noise(seed), form, save_all=True, append_images=[noise(seed + 1)])


GOOD = {
    **{f"turned_{n}.jpg": turned(n) for n in range(1, 9)},
    "grey.jpg": in_mode("L", 20, "JPEG"),
    "grey.png": in_mode("L", 21),
    "grey_and_alpha.png": in_mode("LA", 22),
    "black_and_white.png": in_mode("1", 23),
    "alpha.png": in_mode("RGBA", 24),
    "alpha.webp": in_mode("RGBA", 25, "WebP"),
    "palette.png": in_mode("P", 26),
    "palette_and_alpha.png": in_mode("P", 27, transparency=3),
    "16_bits.png": encode(Image.fromarray(np.asarray(noise(28, mode="L")).astype(np.uint16) * 257), "PNG"),
    "cmyk.jpg": in_mode("CMYK", 29, "JPEG"),
    "ycck.jpg": ycck(30),
    "progressive.jpg": encode(noise(31), progressive=True),
    "phone.jpg": several("MPO", 32),
    "phone.mpo": several("MPO", 34),
    "film_behind.jpg": encode(noise(36)) + b"a film \xff\xda of a second",
    "broken_exif.jpg": encode(noise(37), exif=turned(6)[6:40]),
    "CAPITALS.JPEG": None,
    "years.ago.jpe": None,
    "x" * 251 + ".jpg": None,
    "two\nlines.jpg": None,
    "red\x1b[31m.jpg": None,
    os.fsdecode(b"caf\xe9.jpg"): None,
    "海 Küste.jpg": None,
    "-rf.jpg": None,
}
for name, data in GOOD.items():
    kind(used=1, name=name)(partial(write, path=f"train/road/{name}", data=data))

ODD = {
    "png_named.jpg": (encode(noise(40), "PNG"), "a PNG, despite its name"),
    "jpeg_named.png": (encode(noise(41)), "a JPEG, despite its name"),
    "animated.png": (several("PNG", 42), "animated: only its first picture is used"),
    "animated.webp": (several("WebP", 44), "animated: only its first picture is used"),
    "dot.png": (encode(noise(46, 1, 1), "PNG"), "1x1 pixels, enlarged to 32x32"),
    "line.jpg": (encode(noise(47, 30_000, 10)), "30000x10 pixels, enlarged to 32x32"),
}
for name, (data, words) in ODD.items():
    path = f"train/road/{name}"
    kind(f"accepted  {path}: {words}.", used=1, name=name)(partial(write, path=path, data=data))


@kind(used=1)
def link_to_a_photo_elsewhere(root):
    write(root, "elsewhere/far.jpg")
    (root / "train/road/link.jpg").symlink_to("../../elsewhere/far.jpg")


@kind(used=2)
def link_to_a_class_elsewhere(root):
    write(root, "elsewhere/sky/cloud.jpg")
    write(root, "test/sky/blue.jpg")
    (root / "train/sky").symlink_to("../elsewhere/sky")


@kind("warning   test/sky: no such folder, so this class is not tested.", used=1)
def class_that_test_lacks(root):
    write(root, "train/sky/cirrus.jpg")


# Duplicates


IN_BOTH_SETS = "the same photo in the test and the training set"
IN_TWO_CLASSES = "the same photo in two classes: move it out of one of them"


def copy(root, source, target, comment=b""):
    """Copies a JPEG, and adds the comment if there is one."""
    data = (root / source).read_bytes()
    segment = b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment if comment else b""
    write(root, target, data[:2] + segment + data[2:])


@kind("warning   test: 1 of 7 photos also in train, so the accuracy will be too high.",
      f"warning   test/road/copy.jpg and train/road/1.jpg: {IN_BOTH_SETS}.", used=1)
def photo_in_train_and_test(root):
    copy(root, "train/road/1.jpg", "test/road/copy.jpg")


@kind("warning   test: 2 of 8 photos also in train, so the accuracy will be too high.",
      f"warning   test/ocean/again.jpg and train/road/1.jpg: {IN_BOTH_SETS}.",
      f"warning   test/road/again.jpg and train/road/1.jpg: {IN_BOTH_SETS}.", used=2)
def photo_in_train_and_test_with_another_comment(root):
    for name in CLASSES:
        copy(root, "train/road/1.jpg", f"test/{name}/again.jpg", b"taken by the sea")


@kind("warning   test: 6 of 6 photos also in train, so the accuracy will be too high.",
      *(f"warning   test/{name}/{i}.jpg and train/{name}/{i}.jpg: {IN_BOTH_SETS}."
        for name, i in [("ocean", 0), ("ocean", 1), ("ocean", 2), ("road", 0), ("road", 1)]),
      "warning   and 1 more like this.")
def test_is_a_copy_of_train(root):
    (root / "test").rename(root / "unused")
    shutil.copytree(root / "train", root / "test")


SAME = "test on photos that the network is not trained on"


@kind(f"error     test: the same folder as train: {SAME}.")
def train_and_test_are_one_folder(root):
    (root / "test").rename(root / "unused")
    (root / "test").symlink_to("train")


@kind(f"error     test/road: the same folder as train/road: {SAME}.",
      "warning   test: 3 of 6 photos also in train, so the accuracy will be too high.",
      *(f"warning   test/road/{i}.jpg and train/road/{i}.jpg: {IN_BOTH_SETS}." for i in range(3)))
def a_class_folder_of_test_is_that_of_train(root):
    (root / "test/road").rename(root / "unused")
    (root / "test/road").symlink_to(root / "train/road")


@kind(f"warning   train/road/mirage.jpg and train/ocean/0.jpg: {IN_TWO_CLASSES}.", used=1)
def photo_in_two_classes_of_train(root):
    copy(root, "train/ocean/0.jpg", "train/road/mirage.jpg")


@kind(f"warning   test/road/ford.jpg and test/ocean/0.jpg: {IN_TWO_CLASSES}.", used=1)
def photo_in_two_classes_of_test(root):
    copy(root, "test/ocean/0.jpg", "test/road/ford.jpg")


@kind(used=1)
def photo_twice_in_a_class(root):
    copy(root, "train/ocean/0.jpg", "train/ocean/favourite.jpg")


@kind(used=4)
def pictures_of_one_plain_colour(root):
    for path in "train/ocean/night.png", "train/road/night.png", "train/road/fog.jpg", "test/road/fog.jpg":
        write(root, path, encode(Image.new("RGB", (40, 30), (9, 9, 9)), "PNG" if "png" in path else "JPEG"))


# Files that are passed over


@kind("warning   train: passed over 1 GIF photo: export it as JPEG.",
      passed_over={"hidden": 4, ".db": 1, "no suffix": 1, ".txt": 1, ".gif": 1, ".xmp": 1})
def what_computers_leave_behind(root):
    for name in (".DS_Store", "._0.jpg", "Thumbs.db", "notes.txt", "funny.gif", "0.xmp", "README"):
        write(root, f"train/ocean/{name}", b"?")
    write(root, "train/.ipynb_checkpoints/0-checkpoint.jpg")
    write(root, "train/__MACOSX/._0.jpg", b"?")


@kind(passed_over={"no suffix": 1})
def folder_that_links_to_itself(root):
    (root / "train/self").symlink_to("self")


@kind("warning   train: passed over 2 HEIC photos: export them as JPEG "
      "(iPhones take JPEG if their camera is set to Most Compatible).", passed_over={".heic": 1, ".heif": 1})
def heic(root):
    write(root, "train/ocean/a.HEIC", b"?")
    write(root, "train/ocean/b.heif", b"?")


@kind("warning   train: passed over 1 photo beside the class folders: move them into their classes.")
def photo_beside_the_classes(root):
    write(root, "train/loose.jpg")


@kind("warning   train/ocean: passed over 2 folders inside the class: move their photos up into it.",
      passed_over={"folder": 2})
def folders_inside_a_class(root):
    write(root, "train/ocean/2019/a.jpg")
    (root / "train/ocean/album.jpg").mkdir()


@kind("warning   train/ocean: passed over 1 folder inside the class: move their photos up into it.",
      passed_over={"folder": 1})
def loop_of_links(root):
    (root / "train/ocean/loop").symlink_to("../../train")


NO_PHOTOS = "no JPEG, PNG or WebP photos in it: add some, or move the folder elsewhere"


@kind("error     train/again: no photos in it, but 3 folders: move their photos up into it.",
      "warning   test/again: no such folder, so this class is not tested.", passed_over={"folder": 3})
def loop_of_classes(root):
    (root / "train/again").symlink_to("../train")


# Folders that cannot be used


@kind("error     train: no such folder: check the path.")
def no_train(root):
    (root / "train").rename(root / "Train ")


@kind("error     test: not a folder: name one that has a subfolder of photos for each class.")
def test_is_a_file(root):
    (root / "test").rename(root / "unused")
    (root / "test").write_text("later")


@kind("error     train: it has 6 photos, but no class folders: make one for each class, or name the folder "
      "above it.")
def photos_without_classes(root):
    for name in CLASSES:
        for path in (root / "train" / name).iterdir():
            path.rename(root / "train" / f"{name} {path.name}")
        (root / "train" / name).rmdir()


@kind("error     train: only one class, ocean: add a folder of photos that are not ocean.",
      "error     test/road: train has no class of this name: rename the folder, or move it elsewhere.")
def one_class(root):
    (root / "train/road").rename(root / "road")


@kind("error     test/sky: train has no class of this name: rename the folder, or move it elsewhere.")
def class_that_train_lacks(root):
    write(root, "test/sky/a.jpg")


@kind(f"error     train/sky: {NO_PHOTOS}.",
      "warning   test/sky: no such folder, so this class is not tested.")
def class_without_photos(root):
    (root / "train/sky").mkdir()


@kind(f"error     train/sky: {NO_PHOTOS}.",
      "warning   test/sky: no such folder, so this class is not tested.", passed_over={"hidden": 1})
def class_of_hidden_files(root):
    write(root, "train/sky/.DS_Store", b"?")


NOT_PHOTOS = "no JPEG, PNG or WebP photos in it, but"


@kind(f"error     train/sky: {NOT_PHOTOS} 2 .tif files, 1 .bmp file: export them as JPEG.",
      "warning   train: passed over 2 TIFF photos: export them as JPEG.",
      "warning   train: passed over 1 BMP photo: export it as JPEG.",
      "warning   test/sky: no such folder, so this class is not tested.", passed_over={".tif": 2, ".bmp": 1})
def class_of_other_pictures(root):
    for name in "scan.tif", "scan2.TIF", "old.bmp":
        write(root, f"train/sky/{name}", b"?")


@kind(f"error     train/sky: {NOT_PHOTOS} 2 .txt files, 1 .pdf file: add some, or move the folder elsewhere.",
      "warning   test/sky: no such folder, so this class is not tested.", passed_over={".txt": 2, ".pdf": 1})
def class_of_texts(root):
    for name in "1.txt", "2.txt", "3.pdf":
        write(root, f"train/sky/{name}", b"?")


@kind("error     train: one level too high, since the class folders are in train/photos: name that.",
      passed_over={"folder": 2})
def folder_in_a_folder(root):
    (root / "train").rename(root / "photos")
    (root / "train").mkdir()
    (root / "photos").rename(root / "train/photos")


@kind("error     train: one level too high, since the class folders are in train/a, train/b: name that.",
      passed_over={"folder": 4, "no suffix": 1})
def train_and_test_in_a_folder(root):
    (root / "train").rename(root / "a")
    (root / "train").mkdir()
    (root / "a").rename(root / "train/a")
    shutil.copytree(root / "train/a", root / "train/b")
    write(root, "train/README", b"?")


@kind("error     test/Road: in train this class is spelt road: rename one of them.")
def class_spelt_in_two_ways(root):
    (root / "test/road").rename(root / "test/Road")


@kind("error     train/ocean: differs from Ocean only in case: move the photos of both into one.",
      "warning   test/Ocean: no such folder, so this class is not tested.")
def classes_that_differ_by_case(root):
    write(root, "train/Ocean/a.jpg")


@kind("error     train/Küste: two folders have this name in different Unicode forms: "
      "move the photos of both into one.",
      "warning   test/Küste: no such folder, so this class is not tested.")
def class_encoded_in_two_ways(root):
    for form in ("NFC", "NFD"):
        write(root, f"train/{unicodedata.normalize(form, 'Küste')}/{form}.jpg")


SPACES = ("beach ", "می\u200cخواهم", "👨\u200d👩\u200d👧", "a\xa0b", "海\u3000山", "\U0001fae9", "\U0010fffd",
          "\u200f1")


@kind(used=2 * len(SPACES))
def classes_with_joiners_and_spaces(root):
    for part in "train", "test":
        for name in SPACES:
            write(root, f"{part}/{name}/{part} {name}.jpg")


BAD_NAME = "a class name must be printable, without backslashes, and at most 255 bytes: rename the folder"


@kind(rf"error     train/a\b: {BAD_NAME}.",
      rf"error     train/caf\xe9: {BAD_NAME}.",
      rf"error     train/two\nlines: {BAD_NAME}.",
      r"warning   test/a\b: no such folder, so this class is not tested.",
      r"warning   test/caf\xe9: no such folder, so this class is not tested.",
      r"warning   test/two\nlines: no such folder, so this class is not tested.")
def classes_with_bad_names(root):
    write(root, "train/a\\b/c.jpg")
    write(root, os.fsdecode(b"train/caf\xe9/a.jpg"))
    write(root, "train/two\nlines/b.jpg")


@kind("error     train/road: cannot be read: Permission denied.", permissions=True)
def class_without_permission(root):
    (root / "train/road").chmod(0)


@kind("error     test: cannot be read: Permission denied.", permissions=True)
def test_without_permission(root):
    (root / "test").chmod(0)
