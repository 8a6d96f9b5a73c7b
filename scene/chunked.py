"""The body of an HTTP request that is sent in chunks, without saying first how long it is.

A chunk is its size in hex, perhaps extensions after a semicolon, CRLF, as many bytes, CRLF. The last one has
size 0. Then come trailers, lines like those of a header, and an empty line.   Source: RFC 9112, 7.1.

Next: browsers.py
"""

import re
from typing import BinaryIO

SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(;[^\r\n]*)?\r\n")
LONGEST_LINE = 1000         # bytes
MOST_CHUNKS = 20_000        # each takes time, however short it is: clients send some kilobytes at a time
MOST_TRAILERS = 100


class Malformed(ValueError):
    """The bytes are not whole chunks."""


class TooLarge(ValueError):
    """The body is over the limit."""


def read_chunked(stream: BinaryIO, most: int) -> bytes:
    """The body, of at most so many bytes. Leaves the stream behind it. Raises Malformed or TooLarge."""
    body = bytearray()
    for _ in range(MOST_CHUNKS):
        found = SIZE.fullmatch(stream.readline(LONGEST_LINE))
        if not found:
            raise Malformed("a chunk has no size")
        size = int(found[1], 16)
        if len(body) + size > most:
            raise TooLarge(f"the body is over {most} bytes")
        if not size:
            skip_trailers(stream)
            return bytes(body)
        body += stream.read(size)
        if stream.read(2) != b"\r\n":
            raise Malformed("a chunk does not end where it should")
    raise Malformed("there are too many chunks")


def skip_trailers(stream):
    """Reads on to the empty line behind the last chunk."""
    for _ in range(MOST_TRAILERS):
        line = stream.readline(LONGEST_LINE)
        if line == b"\r\n":
            return
        if not line.endswith(b"\r\n"):
            break
    raise Malformed("the trailers have no end")
