"""Fills lambda/bucket/ with all that the endpoint in AWS Lambda is made of.

    python lambda/build.py [--arch arm64|x86_64] [--model PATH...] [--output FOLDER]

- get_scene.zip: the handler and the modules of scene/ that it needs.
- layer-<arch>.zip: what these need of NumPy, Pillow and safetensors, about half.
- model_FCNN, model_CNN: yours, or those that come with Scene.

What is needed is not guessed: Python 3.13, which Lambda runs, asks the endpoint about a photo of every kind, with the whole packages.
The modules that it loaded are kept, and the shared libraries that these need. Modules go in compiled and without their source:
Lambda lets nobody write beside them, so every start would compile them anew. The same sources and tools make the same bytes, in any
folder, on any day.

Before anything is written the zips are unpacked and have to give the same answers. What is built for another architecture than this
machine's cannot run here: it gets the same modules, and each shared library is checked for its architecture and for what it needs.

What has to be trusted is the package index: pip fetches the versions that constraints.txt names, and checks them by the index's hashes.

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
from io import BytesIO
from pathlib import Path

from samples import samples
from scene import command, modelfile
from scene.command import UserError, printable
from scene.predict import PRETRAINED, Classifier

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGES = "numpy", "pillow", "safetensors"
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}         # AWS's names, and Linux's
SYSTEM = {                  # the libraries that every Linux has for wheels (PEP 600)
    "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6", "libz.so.1",
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
NULL, LOAD = 0, 1           # kinds of an ELF file's segments
MAX_CODE = 100_000          # bytes of get_scene.zip
MAX_LAYER = 16_000_000      # bytes of a layer's zip
MAX_UNPACKED = 45 << 20     # bytes of a layer unpacked; Lambda's own limit is 250 MiB


def run(options):
    """Builds everything in a temporary folder and tries it there; only then writes it to the output folder."""
    native, python = find_architecture(), find_python()
    architectures = dict.fromkeys((native, options.arch))       # each once, this machine's first
    strips = {arch: find_strip(arch, native) for arch in architectures}
    models = choose_models(options.model)
    with tempfile.TemporaryDirectory(prefix="scene-") as folder:
        work = Path(folder)
        write_all(work / "models", models)
        write_all(work / "photos", samples())
        for arch in architectures:
            install(arch, work / "whole" / arch)
        expected = try_out(python, work, ROOT, work / "whole" / native)
        ours = [name for name in expected["modules"] if name.partition(".")[0] == "scene"]
        theirs = [name for name in expected["modules"] if name not in ours]

        keep([HERE / "get_scene.py"], HERE, work / "code")
        keep(find_files(ROOT, ours), ROOT, work / "code")
        zips = {"get_scene.zip": pack(python, work / "code", "/var/task")}
        for arch in architectures:
            whole, layer = work / "whole" / arch, work / "layer" / arch
            keep(with_libraries(find_files(whole, theirs), whole, arch), whole, layer / "python")
            keep(whole.glob("*.dist-info/licenses/**/*"), whole, layer / "python")
            for library in layer.rglob("*.so*"):
                strip(library, strips[arch])
            zips[f"layer-{arch}.zip"] = pack(python, layer, "/opt")

        for name, data in zips.items():
            zipfile.ZipFile(BytesIO(data)).extractall(work / "unpacked" / name)
        compare(expected, try_out(python, work, work / "unpacked/get_scene.zip", work / f"unpacked/layer-{native}.zip/python"))
    print(f"Tried: {len(expected['answers'])} answers of get_scene.zip and layer-{native}.zip are those of the whole packages.")
    if options.arch != native:
        print(f"layer-{options.arch}.zip cannot run here: it holds the same modules, and its shared libraries have all they need.")
    zips = {name: zips[name] for name in ("get_scene.zip", f"layer-{options.arch}.zip")}
    check_sizes(zips)
    os.makedirs(options.output, exist_ok=True)
    for name, data in (zips | models).items():
        modelfile.write(os.path.join(options.output, name), data)


def find_architecture():
    """AWS's name for this machine's architecture."""
    for arch, machine in MACHINES.items():
        if sys.platform == "linux" and platform.machine() == machine:
            return arch
    raise UserError("What runs in Lambda is for Linux, and is tried while it is built: run this on Linux, in a container say "
                    "(docker run --rm -it -v \"$PWD\":/scene -w /scene python:3.13 bash).")


def find_python():
    """A Python 3.13: this one, or python3.13 on the PATH."""
    python = sys.executable if sys.version_info[:2] == (3, 13) else "python3.13"
    try:
        result = subprocess.run([python, "-c", "import sys; print(sys.executable)"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError("python3.13 is not on the PATH, or does not run: install Python 3.13, the one that Lambda runs.") from error
    return result.stdout.strip()


def find_strip(arch, native):
    """The program that takes out of shared libraries what only debuggers read: unstripped, a layer is over the limits."""
    tool = "strip" if arch == native else f"{MACHINES[arch]}-linux-gnu-strip"
    package = "binutils" if arch == native else f"binutils-{MACHINES[arch].replace('_', '-')}-linux-gnu"
    for program in "readelf", tool:
        if shutil.which(program) is None:
            raise UserError(f"{program} is not on the PATH: install binutils for {arch} (Debian: apt-get install {package}).")
    return tool


def choose_models(paths):
    """{"model_FCNN": bytes, "model_CNN": bytes}: from the paths, and for a mode that none of them has, the one that comes with Scene."""
    chosen = {}
    for path in paths:
        name = f"model_{Classifier.open(path).card['mode']}"
        if name in chosen:
            raise UserError(f"{printable(path)} and {printable(chosen[name])} are models of the same mode: leave one out.")
        chosen[name] = path
    for mode, path in PRETRAINED.items():
        name = f"model_{mode}"
        if name not in chosen:
            Classifier.open(path)
            chosen[name] = path
        print(f"{name}: {printable(chosen[name])}")
    return {name: Path(path).read_bytes() for name, path in chosen.items()}


def write_all(folder, files):
    """Writes {name: bytes} into a new folder."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def install(arch, folder):
    """The packages for Python 3.13 on this architecture, of the versions in constraints.txt, into a folder. None of their code is run."""
    versions = re.findall(r"^(\w+)==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = [f"{name}=={version}" for name, version in versions if name in PACKAGES]
    print(f"Fetching {', '.join(wanted)} for {arch}", flush=True)
    platforms = [f"--platform={glibc}_{MACHINES[arch]}" for glibc in ("manylinux_2_28", "manylinux2014")]       # Lambda has glibc 2.34
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile",
         "--only-binary=:all:", "--python-version=3.13", *platforms, f"--target={folder}", *wanted], capture_output=True, text=True)
    if result.returncode:
        errors = re.findall(r"^ERROR: (.*)", result.stderr, re.MULTILINE) or ["it said nothing"]
        raise UserError(f"pip could not fetch {', '.join(wanted)} for {arch}: {errors[-1]}. Is the network up?")


def try_out(python, work, *folders):
    """What trial.py prints, run in Python 3.13 with these folders and no other packages: answers, modules, missing."""
    command_line = [python, "-I", "-S", "-B", HERE / "trial.py", work / "models", work / "photos", *folders]
    result = subprocess.run(command_line, capture_output=True, text=True, env=quiet(OPENBLAS_NUM_THREADS="1"))
    if result.returncode:
        last = (result.stderr.split("\n\n")[0].splitlines() or ["it said nothing"])[-1]
        raise UserError(f"The endpoint does not run in Python 3.13: {last}")
    return json.loads(result.stdout)


def compare(expected, found):
    """Raises UserError where the zips answer otherwise than the whole packages, or looked for a module that is left out."""
    different = [name for name, answer in expected["answers"].items() if found["answers"][name] != answer]
    if different:
        raise UserError(f"The zips answer otherwise than the whole packages: {', '.join(different)}.")
    if left_out := set(found["missing"]) - set(expected["missing"]):
        raise UserError(f"The zips lack {', '.join(sorted(left_out))}.")


def find_files(tree, modules):
    """The file of each module: numpy/linalg/__init__.py, PIL/Image.py, PIL/_imaging.cpython-313-x86_64-linux-gnu.so."""
    files = []
    for name in modules:
        base = tree / name.replace(".", "/")
        places = base / "__init__.py", base.parent / f"{base.name}.py", *base.parent.glob(f"{base.name}.*.so")
        file = next(filter(Path.is_file, places), None)
        if file is None:
            raise UserError(f"{tree.name} has no module {name}, which is needed.")
        files.append(file)
    return files


def with_libraries(files, tree, arch):
    """The files, and after them every shared library that one of them needs, and every one that these need."""
    files, libraries = list(files), {path.name: path for path in tree.glob("*.libs/*")}
    for file in files:                          # the list grows while we walk along it
        if ".so" not in file.name:
            continue
        elf = subprocess.run(["readelf", "-hd", file], capture_output=True, text=True, check=True, env=quiet(LC_ALL="C")).stdout
        if MACHINES[arch].replace("_", "-") not in re.search("Machine:.*", elf)[0].lower():
            raise UserError(f"{file.name} is not for {arch}.")
        for name in re.findall(r"\(NEEDED\).*\[(.+)\]", elf):
            if name in libraries and libraries[name] not in files:
                files.append(libraries[name])
            elif name not in libraries and name not in SYSTEM:
                raise UserError(f"{file.name} needs {name}, which neither its wheel nor every Linux has.")
    return files


def strip(library, tool):
    """Takes out of a shared library what only debuggers read."""
    subprocess.run([tool, "--strip-unneeded", library], check=True)
    elf = bytearray(library.read_bytes())
    table, size, count = *struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54)        # the list of segments
    for start in range(table, table + size * count, size):
        kind, offset, address, length, alignment = struct.unpack_from("<I4xQQ16xQQ", elf, start)
        if kind == LOAD and length == 0:            # emptied by patchelf, displaced by strip: the loader would refuse the whole library
            struct.pack_into("<I", elf, start, NULL)
        elif kind == LOAD and (address - offset) % alignment:
            raise UserError(f"{tool} has spoilt {library.name}: try another version of binutils.")
    library.write_bytes(elf)


def keep(files, tree, folder):
    """Copies files of a tree to the same places in a folder."""
    for file in filter(Path.is_file, files):
        place = folder / file.relative_to(tree)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def pack(python, folder, root):
    """The zip of a folder that will lie at `root`: modules compiled, names sorted, no times, owners or paths of this machine."""
    subprocess.run([python, "-S", "-m", "compileall", "-q", "-b", "--invalidation-mode=unchecked-hash", "-s", folder, "-p", root, folder],
                   check=True, env=quiet(PYTHONHASHSEED="0"))
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())        # its date is 1 January 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def check_sizes(zips):
    """Prints the sizes of {name: bytes of a zip}. Raises UserError if one is over a limit."""
    over = []
    for name, data in zips.items():
        limit = MAX_CODE if name == "get_scene.zip" else MAX_LAYER
        unpacked = sum(entry.file_size for entry in zipfile.ZipFile(BytesIO(data)).infolist())
        most = f"at most {limit / 1e6:g} MB, {MAX_UNPACKED >> 20} MiB"
        print(f"{name}: {len(data) / 1e6:.2f} MB, {unpacked / 2**20:.1f} MiB unpacked ({most})")
        if len(data) > limit or unpacked > MAX_UNPACKED:
            over.append(name)
    if over:
        raise UserError(f"{' and '.join(over)}: over the limit, so nothing was written.")


def quiet(**more):
    """This process's environment without the variables that change what Python does, and with more."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | more


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python lambda/build.py", description="Build what the endpoint in AWS Lambda is made of.",
        epilog="exit codes: 0 done, 1 something unforeseen, 2 something is missing, over a limit, or not a model; then nothing was written")
    parser.add_argument("--arch", choices=MACHINES, default="arm64", help="Lambda's processor (default: arm64, which costs less)")
    parser.add_argument("--model", metavar="PATH", nargs="+", default=[], help="models of yours, one for each mode (default: Scene's own)")
    parser.add_argument("--output", metavar="FOLDER", default=HERE / "bucket", help="where to write (default: lambda/bucket)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(command.run(run, parse(None)))
