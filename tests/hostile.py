"""Hostile requests: each of KINDS takes a random.Random and returns a damaged, absurd or false event.

The events are for lambda/get_scene.py. tests/test_hostile.py sends a few hundred of them, and
`python -m tests.bench.soak requests` any number. WORD is in every place where a client can put text, and no
answer may repeat it.
"""

import base64
import functools
import gzip
import io
import json
import struct
import zlib
from pathlib import Path

from PIL import Image

from scene.answer.classifier import PRETRAINED
from tests import fuzz

WORD = "Rumpelstiltskin"
FULL = 4_300_000            # bytes of a photo, just below the limit
MODES = list(PRETRAINED)    # those that trap.Endpoint has models of
OCEAN = (Path(__file__).parent.parent / "datasets/test/ocean/ocean_000.jpg").read_bytes()


def post(body, random):
    """An event of API Gateway with this body: as text if it is UTF-8, else in base64."""
    event = {"httpMethod": "POST", "requestContext": {"requestId": f"{random.getrandbits(128):032x}"}}
    try:
        return event | {"body": body.decode(), "isBase64Encoded": False}
    except UnicodeDecodeError:
        return event | {"body": encoded(body), "isBase64Encoded": True}


def send(request, random):
    """An event with this object: through API Gateway or as a direct invocation."""
    return post(json.dumps(request).encode(), random) if random.random() < 0.5 else request


def ask(photo, random):
    """An event that asks about a photo, in JSON or as the body itself."""
    if random.random() < 0.25:
        return raw(photo, random)
    start = random.choice(["", "", "data:image/jpeg;base64,", f"data:{WORD};charset=x;base64,", " \n"])
    return send({"mode": random.choice(MODES), "imageBase64": start + encoded(photo)}, random)


def raw(photo, random):
    """An event whose body is the photo, mostly with a Content-Type and a mode that fit."""
    kind = random.choice(["image/jpeg", "image/png", "IMAGE/JPEG", f"image/{WORD}", "image/", WORD])
    fits = {"mode": random.choice(MODES)}
    query = random.choice([fits, fits, fits, {"mode": WORD}, None, {WORD: WORD}, {"mode": None}, [WORD]])
    return post(b"\xff", random) | {"headers": {random.choice(["Content-Type", "content-type", WORD]): kind},
                                    "queryStringParameters": query, "body": encoded(photo)}


def encoded(data):
    return base64.b64encode(data).decode()


def sound():
    """A good request."""
    return {"mode": "FCNN", "imageBase64": encoded(OCEAN)}


def many(random, most):
    """A number up to `most`, on a logarithmic scale."""
    return most if random.random() < 0.1 else int(most ** random.random())


# Events and objects


LEAVES = [None, True, False, 0, -1, 0.5, 1e308, 2**64, 10**400, "", "CNN", "FCNN", "\0", "\ud800", "é", "𝄞",
          WORD, WORD * 999, f"/{WORD}.py", "../" * 99, "true"]


def value(random, depth=3):
    """Any JSON value."""
    if depth == 0 or random.random() < 0.5:
        return random.choice(LEAVES)
    values = [value(random, depth - 1) for _ in range(random.randrange(4))]
    if random.random() < 0.5:
        return values
    names = [*LEAVES, "mode", "imageBase64", "body", "requestContext"]
    return {str(random.choice(names)): each for each in values}


def absurd_event(random):
    """Not an event of API Gateway."""
    event = post(json.dumps(sound()).encode(), random)
    names = ["httpMethod", "requestContext", "isBase64Encoded", "body", "headers", WORD]
    for name in random.sample(names, random.randint(1, 4)):
        event[name] = value(random)
        if random.random() < 0.3:
            del event[name]
    return random.choice([value(random), event, {**event, "requestContext": {"requestId": value(random)}}])


def wrong_fields(random):
    """Fields are missing, unknown or renamed, and values have any type."""
    request = sound()
    for _ in range(random.randint(1, 3)):
        name = random.choice([*request, "mode", WORD])
        old = request.pop(name, value(random))
        others = [name.upper(), f" {name}", f"{name}\0", "__class__", "", "\ud800", WORD]
        name = random.choice([name, name, *others])
        if random.random() < 0.8:
            request[name] = random.choice([old, value(random), [old], {name: old}])
    return send(request, random)


# The text of the body


def broken_text(random):
    """A body with something inserted, damaged or not."""
    damage = random.choice([fuzz.flip, fuzz.truncate, fuzz.extend, fuzz.insert, lambda data, random: data])
    body = damage(json.dumps(sound()).encode(), random)
    place = random.choice([0, 1, 10, random.randrange(len(body) + 1), len(body)])
    stray = random.choice([
        b"", b"\0", b"\xff", b"\xed\xa0\x80", b"NaN", b"-Infinity", b"//", b"'", b"\\u12", b"\\ud800",
        b"\xe2\x80\xa8", b"mode=CNN&", b"<!--", b"}{", WORD.encode()])
    return post(body[:place] + stray + body[place:], random)


def repeated_names(random):
    """A duplicate field."""
    name = random.choice(["mode", "imageBase64", "\\u006dode", WORD])
    again = f'{{"{name}": {random.choice([json.dumps(value(random)), "NaN"])}, '
    return post(json.dumps(sound()).replace("{", again, 1).encode(), random)


def wrong_encoding(random):
    """JSON in another encoding, or compressed."""
    text = json.dumps({**sound(), "mode": random.choice(["CNN", "É", WORD])}, ensure_ascii=False)
    code = random.choice(["latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7",
                          "cp037", "gzip", "base64"])
    packed = {"gzip": gzip.compress, "base64": base64.b64encode}
    return post(packed[code](text.encode()) if code in packed else text.encode(code), random)


def deep(random):
    """A value nested so deeply that a recursive reader overflows its stack."""
    left, right = random.choice([("[", "]"), ('{"a":', "}"), ('{"mode":', "}"), ('[{"":', "}]")])
    depth = random.choice([100, *range(900, 1100), many(random, 500_000)])
    inner = left * depth + random.choice(["1", "", '"CNN"']) + right * random.choice([depth, 0])
    return post(random.choice([inner, f'{{"mode": {inner}, "imageBase64": ""}}']).encode(), random)


def vast(random):
    """So many small values that they take far more memory than their text."""
    piece = random.choice(["[],", "{},", '{"":0},', '"ā",', "9e9,", "99999,", '"𝄞",', "[[[]]],", "names"])
    if piece == "names":
        inner = "{" + ",".join(f'"{i:x}":0' for i in range(many(random, 500_000))) + "}"
    else:
        inner = f"[{piece * many(random, 5_900_000 // len(json.dumps(piece)))}0]"
    return post(random.choice([inner, f'{{"mode": {inner}, "imageBase64": ""}}']).encode(), random)


def large_number(random):
    """A number that no type can hold."""
    n = many(random, 5_900_000)
    number = random.choice([b"9" * n, b"-" + b"9" * n, b"0." + b"1" * n, b"0." + b"0" * n + b"1",
                            b"1e" + b"9" * n, b"1" * n + b"e-%d" % n])
    return post(random.choice([number, b'{"mode": %b, "imageBase64": ""}' % number]), random)


def broken_base64(random):
    """A photo in something that is almost base64."""
    text = encoded(OCEAN[:random.choice([3, 4, 5, 5000])])
    place = random.randrange(len(text))
    stray = random.choice(["=", "==", "*", "-_", "\0", "é", "\ud800", " ", ",", "data:", ";base64,", WORD])
    crowd = stray * many(random, 5_000_000 // len(json.dumps(stray)))
    text = random.choice([
        text[:place] + stray + text[place:], text[:place], crowd, text * 2, encoded(text.encode()),
        OCEAN.hex(), base64.b32encode(OCEAN).decode(), f"data:image/png,{text}", f"data:{WORD}",
        f"file://{WORD}", f"https://{WORD}/photo.jpg"])
    return send({"mode": "FCNN", "imageBase64": text}, random)


# Photos


def encode(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


TEAL = encode(Image.new("RGB", (64, 64), "teal"), "PNG")
AFTER_HEADER = 33           # where the header of a PNG ends


@functools.cache
def photos():
    """Good photos of every kind that is accepted."""
    ocean = Image.open(io.BytesIO(OCEAN)).convert("RGB")
    grey = ocean.convert("L")
    exif = Image.Exif()
    exif.update({0x010F: WORD, 0x0112: 6})
    return [
        OCEAN,
        encode(ocean, exif=exif, comment=WORD, icc_profile=WORD.encode()),
        encode(ocean, progressive=True),
        encode(grey),
        encode(ocean.convert("CMYK")),
        encode(ocean, restart_marker_blocks=1),
        encode(ocean, subsampling=0, quality=100),
        encode(ocean, "MPO", save_all=True, append_images=[ocean]),
        interlaced(64, 48),
        *(encode(ocean.convert(mode), "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        encode(grey.convert("I;16"), "PNG"),
        encode(ocean.quantize(16), "PNG", transparency=3),
        encode(ocean, "PNG", save_all=True, append_images=[ocean.rotate(90)]),
        encode(ocean, "PNG", exif=exif),
    ]


def unusual_photo(random):
    """A good photo, of an unusual kind or shape."""
    shape = random.choice([(1, 1), (1, 9999), (60000, 1), (random.randint(1, 999), random.randint(1, 999))])
    noise = Image.frombytes("L", shape, random.randbytes(shape[0] * shape[1]))
    made = noise.convert(random.choice(["L", "RGB", "CMYK"]))
    return ask(random.choice([*photos(), encode(made), encode(made.convert("RGB"), "PNG")]), random)


def damaged_photo(random):
    """Bits are wrong, the end is missing, or blocks are overwritten or duplicated."""
    damage = random.choice([fuzz.flip, fuzz.truncate, fuzz.extend, fuzz.overwrite, fuzz.insert])
    return ask(damage(random.choice(photos()), random), random)


def spliced_photo(random):
    """The start of one photo and the end of another."""
    one, other = random.choice(photos()), random.choice(photos())
    return ask(one[:random.randrange(len(one))] + other[random.randrange(len(other)):], random)


def jpegs():
    """The JPEGs among the photos."""
    return [photo for photo in photos() if photo.startswith(b"\xff\xd8")]


FRAMES = {*range(0xc0, 0xd0)} - {0xc4, 0xc8, 0xcc}      # markers of a JPEG's frame header, which has its size
SIZES = [0, 1, 2, 8, 63, 64, 65, 3549, 3550, 9999, 32767, 65500, 65535]


# JPEG: segments, each of a marker (FF and a byte), a length (2 bytes, which counts itself) and the content


def segment(marker, content=b""):
    return b"\xff" + bytes([marker]) + struct.pack(">H", min(2 + len(content), 65535)) + content


def split_jpeg(data):
    """(segments, picture) of a JPEG: [marker, content] up to the first scan, and all bytes after them."""
    segments = []
    at = 2
    while True:
        length = int.from_bytes(data[at + 2:at + 4])
        segments.append([data[at + 1], data[at + 4:at + 2 + length]])
        at += 2 + length
        if segments[-1][0] == 0xda:
            return segments, data[at:]


def join_jpeg(segments, picture):
    return b"\xff\xd8" + b"".join(segment(*each) for each in segments) + picture


def lying_jpeg(random):
    """A JPEG with a false size, false tables, or wrong or unordered segments."""
    segments, picture = split_jpeg(random.choice(jpegs()))
    for _ in range(random.randint(1, 3)):
        lie_in_jpeg(segments, random)
    return ask(join_jpeg(segments, picture)[:FULL], random)


def lie_in_jpeg(segments, random):
    """Makes one of the segments false."""
    at = random.randrange(len(segments))
    frame = next((i for i, each in enumerate(segments) if each[0] in FRAMES), at)
    content = segments[frame][1]
    what = random.choice(["size", "size", "frame", "marker", "bytes", "twice", "gone", "order"])
    if what == "size":
        segments[frame][1] = content[:1] + struct.pack(">HH", *random.choices(SIZES, k=2)) + content[5:]
    elif what == "frame":
        depth = random.choice([8, 8, 8, 12, 16, 0])
        components = random.choice([0, 1, 2, 3, 4, 5, 255])
        tables = bytes(random.choices([*range(6), 17, 34, 68, 255], k=12))
        new = bytes([depth]) + content[1:5] + bytes([components]) + tables
        segments[frame] = [random.randrange(0xc0, 0xd0), new]
    elif what == "marker":
        segments[at][0] = random.randrange(256)
    else:
        damage_part(segments, at, what, random)


def damage_part(parts, at, what, random):
    """Damages, repeats or drops a segment or chunk, [marker or kind, content], or shuffles them all."""
    if what == "bytes" and parts[at][1]:
        parts[at][1] = random.choice([fuzz.flip, fuzz.truncate, fuzz.extend])(parts[at][1], random)
    elif what == "twice":
        parts[at:at] = [parts[at]] * many(random, 500)
    elif what == "gone" and len(parts) > 1:
        del parts[at]
    elif what == "order":
        random.shuffle(parts)


@functools.cache
def scans(width, height):
    """A plain progressive JPEG up to its last scan, and that scan, which can be repeated at will."""
    data = encode(Image.new("RGB", (width, height), "teal"), progressive=True, subsampling=0)
    last = data.rindex(b"\xff\xda")
    return data[:last], data[last:-2]


def crowded_jpeg(random):
    """A JPEG with up to millions of segments, scans or padding bytes."""
    frame = struct.pack(">BHHB", 8, 64, 64, 3) + bytes([1, 34, 0, 2, 17, 1, 3, 17, 1])
    resource = b"8BIM\1\1\0\0" + bytes(4)
    if random.random() < 0.3:
        start, scan = scans(*random.choice([(64, 64), (1000, 1000), (4000, 3000)]))
        return ask(start + scan * many(random, (FULL - len(start)) // len(scan)) + b"\xff\xd9", random)
    piece = random.choice([
        segment(0xe1),
        segment(0xfe),
        segment(0xfe, WORD.encode()),
        segment(0xe1, b"Exif\0\0" + bytes(random.choice([1, 30, 300, 3000]))),
        segment(0xe2, b"ICC_PROFILE\0\1\1" + bytes(20)),
        segment(0xed, b"Photoshop 3.0\0" + resource * many(random, 5000)),
        b"\0",
        b"\xff",
        b"\xff\0",
        b"\xff\xd0",
        b"\xff\1",
        segment(0xc0, frame),
        segment(0xc0, frame + bytes(random.choice([9, 999, 65000]))),
        segment(0xdb, (b"\0" + bytes(range(1, 65))) * random.choice([1, 99])),
        segment(0xc4, bytes(17) * random.choice([1, 999])),
        segment(0xdd, b"\0\1"),
        segment(0xe2, mpo_table(random)),
        segment(0xe1, b"Exif\0\0" + exif_bomb(random)),
    ])
    crowd = piece * many(random, (FULL - len(OCEAN)) // len(piece))
    return ask(OCEAN[:2] + segment(0xfe) + crowd + OCEAN[2:], random)


def mpo_table(random):
    """The table of a file with several pictures. It claims very many, in impossible places."""
    pictures = random.choice([0, 2, 2**31, 2**32 - 1])
    entries = [(0xb000, 7, 4, 0x30303130), (0xb001, 4, 1, pictures), (0xb002, 7, 16 * 2**20, 50)]
    return b"MPF\0" + tiff(3, entries) + bytes(99)


def exif_bomb(random):
    """EXIF in which each entry claims almost all bytes, or which refers to itself."""
    count = random.choice([10, 2500, 5000])
    size = random.choice([65000 - 12 * count, 2**32 - 1])
    entries = [(0x0100 + i, random.choice([1, 2, 7]), size, 8) for i in range(count)]
    tag = random.choice([0x8769, 0x8825, 0x0112, 0x014a])
    kind = random.choice([3, 4, 13])
    entries[random.randrange(count)] = tag, kind, 2**32 - 1, 8
    return tiff(random.choice([count, 65535]), entries) + struct.pack("<I", 8)


def tiff(count, entries):
    """A TIFF directory that claims `count` entries, each (tag, type, number of values, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *each) for each in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + packed


# PNG: chunks, each of a length, a kind, the content, and a checksum of the last two


MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def split_png(data):
    """The chunks of a PNG as [kind, content]."""
    chunks = []
    at = len(MAGIC)
    while at < len(data):
        length = int.from_bytes(data[at:at + 4])
        chunks.append([data[at + 4:at + 8], data[at + 8:at + 8 + length]])
        at += 12 + length
    return chunks


def join_png(chunks):
    return MAGIC + b"".join(chunk(*each) for each in chunks)


def header(width, height, depth=8, color=2, interlaced=0):
    return struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)


def interlaced(width, height):
    """A black PNG in Adam7's seven passes."""
    passes = (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    rows = b""
    for x, y, dx, dy in passes:
        rows += bytes(1 + 3 * -(-(width - x) // dx)) * -(-(height - y) // dy)
    return png(header(width, height, interlaced=1), zlib.compress(rows))


def png(head, rows):
    """A PNG of three chunks: its header, its compressed rows and its end."""
    return join_png([(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")])


def lying_png(random):
    """A PNG with valid checksums over false chunks: another size, wrong kinds, lengths beyond the file."""
    chunks = split_png(random.choice([photo for photo in photos() if photo.startswith(MAGIC)]))
    for _ in range(random.randint(1, 3)):
        lie_in_png(chunks, random)
    data = join_png(chunks)
    if random.random() < 0.2:
        at = random.choice([8, 33, len(data) - 12])
        data = data[:at] + struct.pack(">I", random.choice([2**31, 2**32 - 1, len(data), 0])) + data[at + 4:]
    return ask(data[:FULL], random)


def lie_in_png(chunks, random):
    """Makes one of the chunks false, or adds one."""
    at = random.randrange(len(chunks))
    what = random.choice(["header", "header", "kind", "bytes", "twice", "gone", "order", "rows", "new"])
    if what == "header":
        size = random.choices([*SIZES, 2**31 - 1, 2**31, 2**32 - 1], k=2)
        depth = random.choice([1, 2, 4, 8, 16, 0, 255])
        color = random.choice([0, 2, 3, 4, 6, 1, 255])
        chunks[0][1] = header(*random.choice([size, (64, 64)]), depth, color, random.choice([0, 0, 1, 2]))
    elif what == "kind":
        other = random.randbytes(4)
        chunks[at][0] = random.choice([
            b"IDAT", b"PLTE", b"tRNS", b"fdAT", b"acTL", b"fcTL", b"IEND", b"\0\0\0\0", b"call", other])
    elif what == "rows":
        rows = bytes([random.randrange(256)]) * many(random, 10_000_000)
        chunks.insert(at, [b"IDAT", zlib.compress(rows)])
    elif what == "new":
        kind = random.choice([b"tRNS", b"PLTE", b"acTL", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"eXIf"])
        chunks.insert(at, [kind, random.randbytes(random.choice([0, 1, 4, 8, 9, 768, 5000]))])
    else:
        damage_part(chunks, at, what, random)


def crowded_png(random):
    """A PNG with up to hundreds of thousands of chunks, some of which grow when they are decompressed."""
    zeros = packed(many(random, 10_000_000))
    text = WORD.encode()
    bomb = b"x\0\0"
    piece = random.choice([
        chunk(b"IDAT"),
        chunk(b"abCd"),
        chunk(b"tEXt", text + b"\0x"),
        chunk(b"fdAT", bytes(4)),
        chunk(b"pHYs", bytes(9)),
        chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        chunk(b"tIME", bytes(7)),
        chunk(b"PLTE", bytes(768)),
        chunk(b"tRNS", bytes(256)),
        chunk(b"zTXt", bomb + packed(1_000_000)),
        chunk(b"zTXt", bomb + zeros),
        chunk(b"iCCP", bomb + zeros),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros),
        chunk(b"eXIf", exif_bomb(random)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n\n\n" + b"00" * 400_000)),
    ])
    count = many(random, (FULL - 5000) // len(piece))
    at = random.choice([AFTER_HEADER, len(TEAL) - len(chunk(b"IEND"))])
    return ask(TEAL[:at] + piece * count + TEAL[at:], random)


@functools.cache
def packed(count):
    """This many zeros, compressed."""
    return zlib.compress(bytes(count))


# Pixels


@functools.cache
def large_photo(kind, width, height):
    """A plain photo of this size, of a kind that takes much memory to decode."""
    if kind == "16 bit":
        row = b"\0" + bytes(6 * width)
        return png(header(width, height, 16), zlib.compress(row * height))
    if kind == "interlaced":
        return interlaced(width, height)
    mode, form = kind.split()
    image = Image.new(mode, (width, height))
    if form == "PNG":
        return encode(image, "PNG")
    return encode(image, progressive=form == "progressive", subsampling=0)


LARGE = ["RGB JPEG", "CMYK JPEG", "RGB progressive", "CMYK progressive", "RGB PNG", "RGBA PNG", "LA PNG",
         "P PNG", "1 PNG", "I;16 PNG", "16 bit", "interlaced"]


def many_pixels(random):
    """The highest accepted number of pixels, or more, in few bytes."""
    kind = random.choice(LARGE)
    size = random.choice([(4096, 3072), (4096, 3072), (65500, 192), (4097, 3100)])
    return ask(large_photo(kind, *size), random)


def pixel_bomb(random):
    """A header that announces too many pixels for any memory, or none, before a picture that starts well."""
    width, height = random.choice([(65535, 65535), (20000, 20000), (65535, 193), (0, 0), (0, 9),
                                   (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)])
    if random.random() < 0.5:
        rows = packed(random.choice([0, 1000, 100_000_000]))
        depth, color = random.choice([(8, 2), (1, 0), (16, 6), (8, 3)])
        return ask(png(header(width, height, depth, color), rows), random)
    segments, picture = split_jpeg(random.choice(jpegs()))
    for each in segments:
        if each[0] in (0xc0, 0xc2):
            each[1] = each[1][:1] + struct.pack(">HH", height & 65535, width & 65535) + each[1][5:]
    return ask(join_jpeg(segments, picture), random)


# Other formats


@functools.cache
def other_formats():
    """{name: bytes} of a picture in every format that Pillow writes, except ours and the deprecated IM."""
    Image.init()
    picture = Image.open(io.BytesIO(OCEAN)).convert("RGB")
    formats = {}
    for form in sorted(Image.SAVE.keys() - {"JPEG", "MPO", "PNG", "IM"}):
        for mode in ("RGB", "L", "1", "P"):
            try:
                formats[form] = encode(picture.convert(mode), form)
            except (OSError, ValueError, KeyError):     # the format lacks this mode or cannot be written
                continue
            break
    return formats


MAGICS = [                  # the first bytes of other formats
    b"GIF89a", b"II*\0", b"MM\0*", b"BM", b"RIFF\0\0\1\0WEBPVP8 ", b"8BPS\0\1",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.7", b"\0\0\1\0\1\0", b"\0\0\2\0", b"icns",
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"\0\0\0\x20ftypavif", b"\0\0\0\x18ftypheic",
    b"qoif", b"DDS ",
    b"P6 9 9 255 ", b"P7\n", b"\x01\xda", b"SIMPLE  = ", b"\n\5\1\x08", b"gimp xcf", b"#define x_width 9",
    b"/* XPM */", b"\xd7\xcd\xc6\x9a", b"\x0e\x03\x13\x01", b"\x89HDF\r\n\x1a\n", b"GRIB", b"BUFR",
    b"\xc5\xd0\xd3\xc6", b"\x8aMNG\r\n\x1a\n", b"\xff\n", b"FLIF", b"\x59\xa6\x6a\x95", b"PK\3\4",
    b"MZ", b"\x7fELF", b"<svg>", b"<?php", b"#!/bin/sh\n", b"\x80\4\x95", b"VTF\0", b"BLP2", b"FTEX",
    b"Image type: RGB"]


def other_format(random):
    """A picture, or the start of one, in another format that Pillow could open."""
    whole = random.choice([*other_formats().values()])
    before_photo = random.choice(MAGICS) + OCEAN
    return ask(random.choice([whole, before_photo, random.choice(MAGICS)]), random)


def polyglot(random):
    """A photo that is something else as well, or something else that starts like a photo."""
    one = random.choice(photos())
    other = random.choice([*photos(), *other_formats().values(), *MAGICS])
    page = f"<html><script>alert('{WORD}')</script>".encode()
    return ask(random.choice([
        one + other, one + page, b"\xff\xd8\xff" + other, MAGIC + other, other + one,
        b"\xff\xd8" + segment(0xfe, page) + OCEAN[2:], b"\xff\xd8" + segment(0xfe, other[:60000]) + OCEAN[2:],
        MAGIC + chunk(b"tEXt", page) + TEAL[len(MAGIC):],
        TEAL[:AFTER_HEADER] + chunk(b"abCd", other) + TEAL[AFTER_HEADER:]]), random)


def noise(random):
    """Noise, zeros or ones, perhaps after the first bytes of a photo."""
    start = random.choice([b"", b"\xff\xd8\xff", MAGIC, MAGIC[:7], OCEAN[:20]])
    fill = random.choice([random.randbytes, bytes, lambda n: b"\xff" * n])
    return ask(start + fill(many(random, 4_450_000)), random)


KINDS = [absurd_event, wrong_fields, broken_text, repeated_names, wrong_encoding, deep, vast, large_number,
         broken_base64, unusual_photo, damaged_photo, spliced_photo, lying_jpeg, crowded_jpeg, lying_png,
         crowded_png, many_pixels, pixel_bomb, other_format, polyglot, noise]
