"""Mixed precision: the operands of large products in bfloat16, everything else in float32.

bfloat16 is float32 cut to 16 bits: the same range, and 8 significant bits in place of 24. Many processors and
GPUs multiply it several times as fast, and add up in float32. So before a large product, a layer rounds its
operands (`Layer.narrow`), and afterwards it converts the result back. Parameters, gradients, statistics, and
all that happens between the products stay in float32. torch.autocast does the same behind the scenes.

The price is an error of 0.3 % in each product, or up to 1.6 % in a Winograd convolution (winograd.py). That
is far less than the noise of choosing a batch. Prediction does not round.

Source: Micikevicius et al., Mixed Precision Training (2017); Kalamkar et al., A Study of BFLOAT16 for Deep
Learning Training (2019).
Next: shallow.py
"""

import platform
import warnings
from math import prod
from pathlib import Path

import torch

from scene.learn.recipe import PRECISIONS

CPUINFO = Path("/proc/cpuinfo")
LEAST = 32                  # rows and columns of a weight matrix whose products are worth the rounding


def fastest(device):
    """The faster precision for training on this machine: "bfloat16" or "float32"."""
    if device == "cuda":
        return PRECISIONS[torch.cuda.is_bf16_supported(including_emulation=False)]
    can = torch.cpu.get_capabilities()
    return PRECISIONS[bool(can.get("amx_bf16") or can.get("avx512_bf16") and not is_intel())]


def is_intel():
    """Whether Intel made this processor. On theirs AVX512-BF16 is half as fast as float32, on AMD's twice."""
    try:
        processor = CPUINFO.read_text(encoding="utf-8")
    except OSError:                                     # not Linux
        processor = platform.processor()
    return "GenuineIntel" in processor


def set_precision(network, precision):
    """Makes the layers with large weight matrices round the operands of their products, or not."""
    # If memory is short, oneDNN fails, and torch warns that it multiplies without it. An error follows soon.
    warnings.filterwarnings("ignore", "mkldnn_matmul failed")
    for _, layer in network.walk():
        sizes = [(p.shape[0], prod(p.shape[1:])) for p in layer.parameters.values() if p.decay]
        large = any(min(size) >= LEAST for size in sizes)
        layer.operands = torch.bfloat16 if large and precision == "bfloat16" else None
