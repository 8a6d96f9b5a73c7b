"""The machine that a measurement runs on. Each bench about speed prints it first.

A shell may choose another BLAS kernel for NumPy than the one that suits the processor. `unset_blas_overrides`
starts the measurement again without that choice.
"""

import ctypes
import os
import platform
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch

from scene.memory import tune_malloc

INSTRUCTIONS = {"AVX2": "avx2", "AVX-512": "avx512_f", "AVX512-BF16": "avx512_bf16", "AMX": "amx_bf16"}
OVERRIDES = "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"


def describe():
    """Processor, instruction sets, BLAS kernel, versions and date, in two lines."""
    has = torch.cpu.get_capabilities()
    sets = " ".join(name for name, key in INSTRUCTIONS.items() if has.get(key))
    return (f"{processor()}, {os.cpu_count()} cores, {sets or 'none of ' + ', '.join(INSTRUCTIONS)}\n"
            f"torch {torch.__version__}, NumPy {np.__version__} with OpenBLAS's kernel {blas_kernel()}, "
            f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}")


def processor():
    """Its name and family: "AMD EPYC, family 26" is a Zen 5."""
    info = dict(re.findall(r"^(.+?)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    return f"{info.get('model name', platform.machine())}, family {info.get('cpu family', 'unknown')}"


def blas_kernel():
    """The name of the kernel that NumPy's OpenBLAS runs, or "unknown" if NumPy has another BLAS."""
    for file in Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"):
        name = ctypes.CDLL(file).scipy_openblas_get_corename64_
        name.restype = ctypes.c_char_p
        return name().decode()
    return "unknown"


def tune_memory():
    """Sets malloc as learn/loop.py does: training, and the test after it, keep the memory that they free."""
    tune_malloc(mmap_threshold=32 << 20, trim_threshold=1 << 30)


def unset_blas_overrides(module):
    """Starts `python -m module` again with one BLAS thread and no overrides, unless it runs so already.

    OpenBLAS reads these variables when it is loaded.
    """
    wanted = {name: value for name, value in os.environ.items() if name not in OVERRIDES}
    wanted["OPENBLAS_NUM_THREADS"] = "1"
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], wanted)
