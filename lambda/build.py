"""Builds everything that the endpoint in AWS Lambda consists of, in lambda/bucket/.

    python lambda/build.py [--arch arm64|x86_64] [--model PATH...] [--output FOLDER]

- get_scene.zip: the handler and the modules of scene/ that it needs.
- layer-<arch>.zip: the parts of NumPy, Pillow and safetensors that these need, about half.
- model_FCNN, model_CNN: your models, or the pretrained ones.

To find the modules that are needed, the endpoint answers photos of every kind with the whole packages, in
Python 3.13, the version that Lambda runs. The zips hold the modules that it loaded and the shared libraries
that these need. Modules are compiled in advance, because Lambda's file system is read-only and every start
would compile them again. The same sources and tools give the same bytes, in any folder, on any day.

Before anything is written, the unpacked zips must give the same answers. A layer for another architecture
than this machine's cannot run here: it gets the same modules, and each shared library is checked for its
architecture and its dependencies.

You have to trust the package index: pip fetches constraints.txt's versions and checks the index's hashes.

Next: trial.py
"""

import argparse
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from samples import samples
from scene import errors, files
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.endpoint import MAX_MODEL
from scene.errors import UserError, printable
from scene.models import MODES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGES = "numpy", "pillow", "safetensors"
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}         # AWS's names, and Linux's
SYSTEM = {                  # the libraries that a wheel may expect on every Linux (PEP 600)
    "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libgcc_s.so.1",
    "libstdc++.so.6", "libz.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
NULL = 0                    # types of an ELF file's segments
LOAD = 1
MAX_CODE = 150_000          # bytes of get_scene.zip
MAX_LAYER = 16_000_000      # bytes of a layer's zip
MAX_UNPACKED = 45 << 20     # bytes of an unpacked layer (Lambda's own limit is 250 MiB)


def run(options) -> None:
    """Builds everything in a temporary folder and tests it there. Only then writes to the output folder."""
    native = find_architecture()
    python = find_python()
    strips = {arch: find_strip(arch, native) for arch in (native, options.arch)}        # this machine's first
    models = choose_models(options.model)
    with tempfile.TemporaryDirectory(prefix="scene-") as folder:
        zips, answers = build_zips(Path(folder), python, native, strips, models)
    print(f"Tested: get_scene.zip and layer-{native}.zip give the whole packages' {answers} answers.")
    if options.arch != native:
        print(f"layer-{options.arch}.zip cannot run here. It has the same modules, and lacks no library.")
    zips = {name: zips[name] for name in ("get_scene.zip", f"layer-{options.arch}.zip")}
    check_sizes(zips)
    os.makedirs(options.output, exist_ok=True)
    for name, data in (zips | models).items():
        files.write(os.path.join(options.output, name), data)


def build_zips(work: Path, python: str, native: str, strips: dict[str, str], models: dict[str, bytes]):
    """({name: bytes of a zip}, number of answers tested), with a layer for each architecture of `strips`."""
    write_all(work / "models", models)
    write_all(work / "photos", samples())
    for arch in strips:
        install(arch, work / "whole" / arch)

    # The whole packages show which modules are needed and which answers are right.
    expected = try_out(python, work, ROOT, work / "whole" / native)
    ours = [name for name in expected["modules"] if name.partition(".")[0] == "scene"]
    theirs = [name for name in expected["modules"] if name not in ours]

    keep([HERE / "get_scene.py"], HERE, work / "code")
    keep(find_files(ROOT, ours), ROOT, work / "code")
    # Our docstrings are a fifth of the zip, and no code reads them. Some packages read theirs.
    zips = {"get_scene.zip": pack(python, work / "code", "/var/task", docstrings=False)}
    for arch, tool in strips.items():
        whole = work / "whole" / arch
        layer = work / "layer" / arch
        keep(with_libraries(find_files(whole, theirs), whole, arch), whole, layer / "python")
        keep(whole.glob("*.dist-info/licenses/**/*"), whole, layer / "python")
        for library in layer.rglob("*.so*"):
            strip(library, tool)
        zips[f"layer-{arch}.zip"] = pack(python, layer, "/opt")

    for name, data in zips.items():
        zipfile.ZipFile(BytesIO(data)).extractall(work / "unpacked" / name)
    unpacked = work / "unpacked/get_scene.zip", work / f"unpacked/layer-{native}.zip/python"
    compare(expected, try_out(python, work, *unpacked))
    return zips, len(expected["answers"])


def find_architecture() -> str:
    """AWS's name for this machine's architecture."""
    for arch, machine in MACHINES.items():
        if sys.platform == "linux" and platform.machine() == machine:
            return arch
    raise UserError("The zips are for Linux and have to be tested: run this on Linux, for example in a "
                    "container (docker run --rm -it -v \"$PWD\":/scene -w /scene python:3.13 bash).")


def find_python() -> str:
    """The path of a Python 3.13: this one, or python3.13 on the PATH."""
    python = sys.executable if sys.version_info[:2] == (3, 13) else "python3.13"
    script = "import sys; print(sys.executable)"
    try:
        result = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError("python3.13 is not on the PATH or does not run: install Python 3.13, which Lambda "
                        "runs.") from error
    return result.stdout.strip()


def find_strip(arch: str, native: str) -> str:
    """The program that removes debug symbols from shared libraries. With them, a layer is over the limits."""
    tool = "strip" if arch == native else f"{MACHINES[arch]}-linux-gnu-strip"
    package = "binutils" if arch == native else f"binutils-{MACHINES[arch].replace('_', '-')}-linux-gnu"
    for program in "readelf", tool:
        if shutil.which(program) is None:
            raise UserError(f"{program} is not on the PATH: install binutils for {arch} "
                            f"(Debian: apt-get install {package}).")
    return tool


def choose_models(paths: Iterable[str | os.PathLike]) -> dict[str, bytes]:
    """{"model_CNN": bytes, …}: the models at the paths, and the pretrained ones of other modes."""
    chosen = {}
    for path in paths:
        mode = Classifier.open(path).mode
        if mode in chosen:
            both = f"{printable(path)} and {printable(chosen[mode])}"
            raise UserError(f"{both} are models of the same mode: leave one out.")
        chosen[mode] = path
    for mode, path in PRETRAINED.items():
        if mode not in chosen:
            Classifier.open(path)               # the file may be damaged
            chosen[mode] = path
    for path in chosen.values():
        if (size := os.path.getsize(path)) > MAX_MODEL:
            raise UserError(f"{printable(path)} has {size / 1e6:.1f} MB, and the function accepts models of "
                            f"up to {MAX_MODEL / 1e6:g} MB: train one with fewer weights.")
    for mode in MODES:
        source = printable(chosen[mode]) if mode in chosen else "none, since Scene has no pretrained one"
        print(f"model_{mode}: {source}")
    return {f"model_{mode}": Path(path).read_bytes() for mode, path in chosen.items()}


def write_all(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes {name: bytes} into a new folder."""
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def install(arch: str, folder: Path) -> None:
    """Unpacks PACKAGES for Python 3.13, in constraints.txt's versions, into a folder. Runs no code."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    versions = re.findall(r"^(\w+)==(.+)$", constraints, re.MULTILINE)
    wanted = [f"{name}=={version}" for name, version in versions if name in PACKAGES]
    print(f"Fetching {', '.join(wanted)} for {arch}", flush=True)
    glibcs = "manylinux_2_28", "manylinux2014"              # Lambda has glibc 2.34
    platforms = [f"--platform={glibc}_{MACHINES[arch]}" for glibc in glibcs]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--no-compile", "--only-binary=:all:", "--python-version=3.13", *platforms,
         f"--target={folder}", *wanted], capture_output=True, text=True)
    if result.returncode:
        reasons = re.findall(r"^ERROR: (.*)", result.stderr, re.MULTILINE) or ["it gave no reason"]
        raise UserError(f"pip could not fetch {', '.join(wanted)} for {arch}: {reasons[-1]}. "
                        "Is the network up?")


def try_out(python: str, work: Path, *folders: Path) -> dict:
    """The output of trial.py in Python 3.13 with only these folders' packages: answers, modules, missing."""
    command = [python, "-I", "-S", "-B", HERE / "trial.py", work / "models", work / "photos", *folders]
    environment = clean_environment(OPENBLAS_NUM_THREADS="1")
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        last = (result.stderr.split("\n\n")[0].splitlines() or ["it gave no reason"])[-1]
        raise UserError(f"The endpoint does not run in Python 3.13: {last}")
    return json.loads(result.stdout)


def compare(expected: dict, found: dict) -> None:
    """Raises UserError if the zips answer differently from the whole packages, or lack a module."""
    different = [name for name, answer in expected["answers"].items() if found["answers"][name] != answer]
    if different:
        raise UserError(f"The zips answer differently from the whole packages: {', '.join(different)}.")
    if left_out := set(found["missing"]) - set(expected["missing"]):
        raise UserError(f"The zips lack {', '.join(sorted(left_out))}.")


def find_files(tree: Path, modules: Iterable[str]) -> list[Path]:
    """Each module's file: numpy/linalg/__init__.py, PIL/Image.py, PIL/_imaging.cpython-313-….so."""
    found = []
    for name in modules:
        base = tree / name.replace(".", "/")
        places = base / "__init__.py", base.parent / f"{base.name}.py", *base.parent.glob(f"{base.name}.*.so")
        file = next(filter(Path.is_file, places), None)
        if file is None:
            raise UserError(f"{tree.name} has no module {name}, which is needed.")
        found.append(file)
    return found


def with_libraries(paths: Iterable[Path], tree: Path, arch: str) -> list[Path]:
    """The files and, after them, every shared library that they need, directly or through another library."""
    found = list(paths)
    libraries = {path.name: path for path in tree.glob("*.libs/*")}
    for file in found:                          # the loop also visits the libraries that it appends
        if ".so" not in file.name:
            continue
        machine, needed = read_elf(file)
        if MACHINES[arch].replace("_", "-") not in machine:
            raise UserError(f"{file.name} is not for {arch}.")
        for name in needed:
            if name in libraries and libraries[name] not in found:
                found.append(libraries[name])
            elif name not in libraries and name not in SYSTEM:
                raise UserError(f"{file.name} needs {name}, which neither its wheel nor every Linux has.")
    return found


def read_elf(library: Path) -> tuple[str, list[str]]:
    """The machine of a shared library, in lower case, and the names of the libraries that it needs."""
    environment = clean_environment(LC_ALL="C")
    command = ["readelf", "-hd", library]
    elf = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return re.search("Machine:.*", elf)[0].lower(), re.findall(r"\(NEEDED\).*\[(.+)\]", elf)


def strip(library: Path, tool: str) -> None:
    """Removes the debug symbols from a shared library."""
    subprocess.run([tool, "--strip-unneeded", library], check=True)
    elf = bytearray(library.read_bytes())
    table = struct.unpack_from("<Q", elf, 32)[0]            # the program headers, one for each segment
    size, count = struct.unpack_from("<HH", elf, 54)
    for start in range(table, table + size * count, size):
        kind, offset, address, length, alignment = struct.unpack_from("<I4xQQ16xQQ", elf, start)
        if kind == LOAD and length == 0:
            # patchelf emptied it and strip misaligned it: the loader would refuse the whole library.
            struct.pack_into("<I", elf, start, NULL)
        elif kind == LOAD and (address - offset) % alignment:
            raise UserError(f"{tool} has damaged {library.name}: try another version of binutils.")
    library.write_bytes(elf)


def keep(paths: Iterable[Path], tree: Path, folder: Path) -> None:
    """Copies files of a tree to the same places in a folder."""
    for file in filter(Path.is_file, paths):
        place = folder / file.relative_to(tree)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def pack(python: str, folder: Path, root: str, docstrings: bool = True) -> bytes:
    """The zip of a folder that Lambda unpacks at `root`.

    Modules are compiled and names sorted. The zip holds no time, owner or path of this machine.
    """
    subprocess.run(
        [python, "-S", "-m", "compileall", "-q", "-b", "-o", "0" if docstrings else "2",
         "--invalidation-mode=unchecked-hash", "-s", folder, "-p", root, folder],
        check=True, env=clean_environment(PYTHONHASHSEED="0"))
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())        # its date is 1 January 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def check_sizes(zips: dict[str, bytes]) -> None:
    """Prints the sizes of the zips. Raises UserError if one is over a limit."""
    over = []
    for name, data in zips.items():
        limit = MAX_CODE if name == "get_scene.zip" else MAX_LAYER
        unpacked = sum(entry.file_size for entry in zipfile.ZipFile(BytesIO(data)).infolist())
        allowed = f"at most {limit / 1e6:g} MB, {MAX_UNPACKED >> 20} MiB"
        print(f"{name}: {len(data) / 1e6:.3g} MB, {unpacked / 2**20:.1f} MiB unpacked ({allowed})")
        if len(data) > limit or unpacked > MAX_UNPACKED:
            over.append(name)
    if over:
        raise UserError(f"{' and '.join(over)}: over the size limit, so nothing was written.")


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment and `more`, without the variables that change how Python works."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | more


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python lambda/build.py",
        description="Build everything that the endpoint in AWS Lambda consists of.",
        epilog="exit codes: 0 done, 1 an unexpected failure, 2 something is missing, over a limit or not "
               "a model; then nothing was written")
    add = parser.add_argument
    add("--arch", choices=MACHINES, default="arm64",
        help="Lambda's processor (default: arm64, which costs less)")
    add("--model", metavar="PATH", nargs="+", default=[],
        help="your own models, one for each mode (default: the pretrained ones)")
    add("--output", metavar="FOLDER", default=HERE / "bucket", help="where to write (default: lambda/bucket)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
