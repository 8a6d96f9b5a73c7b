"""A profile in AWS's credentials file: the key of the endpoint's user, and the endpoint's address.

Next: deployment.py
"""

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from scene import files
from scene.errors import UserError, printable


def check(path: Path, name: str) -> None:
    """Raises UserError if a profile of this name cannot be added to the file."""
    found = configparser.RawConfigParser(strict=False)
    try:
        found.read_string(read(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UserError(f"{printable(path)} cannot be read as a credentials file, and was left as it is: "
                        f"{str(error).splitlines()[0]}.") from error
    if found.has_section(name):
        raise UserError(f"{printable(path)} already has a profile [{name}], which was left as it is: "
                        "rename that section, or print the new key with --show.")


def read(path: Path) -> str:
    """The file's text, with its own line ends."""
    return path.read_bytes().decode() if path.exists() else ""


def lines(name: str, values: Mapping[str, str]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def add(path: Path, name: str, values: Mapping[str, str]) -> None:
    """Appends a profile to the file, which only its owner can read afterwards. Raises UserError or OSError.

    The rest of the file stays byte for byte. The file is replaced atomically: a reader never sees half of it.
    """
    check(path, name)
    before = read(path)
    text = (f"{before}\n" if before else "") + lines(name, values)         # its last line may lack its end
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mask = os.umask(0o077)                                      # not even the temporary file is readable
    try:
        files.write(path, text.encode(), mode=0o600)
    finally:
        os.umask(mask)
