"""What scene/ may use: tensor operations, and nothing that knows about layers, gradients or compilers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scene.learn.loop import train
from scene.models import MODES
from tests.jobs import make_settings

SCENE = Path(__file__).parent.parent / "scene"
FILES = sorted(SCENE.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SCENE)))

ALLOWED = {
    # making arrays
    "arange", "asarray", "empty", "empty_like", "from_numpy", "rand", "randint", "randperm", "tensor", "tile",
    "zeros", "zeros_like",
    # elementwise, reductions, products
    "add", "addcmul", "addmm", "amax", "concatenate", "eq", "exp", "matmul", "maximum", "mean", "ne",
    "moveaxis", "sqrt", "sum", "where",
    # the machine
    "Generator", "Tensor", "bfloat16", "cpu", "cpu.get_capabilities", "cuda", "cuda.is_available",
    "cuda.is_bf16_supported", "device", "float32", "float64", "full", "int64", "set_num_threads",
    # several machines
    "distributed", "distributed.TCPStore", "distributed.broadcast", "distributed.gather",
    "distributed.init_process_group",
    # closed-form solutions
    "linalg", "linalg.eigh",
    # CUDA graphs
    "cuda.CUDAGraph", "cuda.Stream", "cuda.current_stream", "cuda.graph", "cuda.graph_pool_handle",
    "cuda.stream",
}
NUMPY_ONLY = {"ascontiguousarray", "lib", "lib.stride_tricks", "lib.stride_tricks.as_strided"}


def dotted(node):
    """"torch.cuda.is_available" for the expression of that name, None for others."""
    if isinstance(node, ast.Attribute) and (start := dotted(node.value)):
        return f"{start}.{node.attr}"
    if isinstance(node, ast.Call) and dotted(node.func) == "library":
        return "xp"
    return node.id if isinstance(node, ast.Name) else None


def operations(path):
    """The names of torch, or of an array's library, that a file uses: {"zeros", "cuda.is_available", …}."""
    tree = ast.parse(path.read_text())
    names = {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    parts = [name.partition(".") for name in names if name]
    return {rest for first, _, rest in parts if first in ("torch", "xp")}


@every_file
def test_only_operations_on_the_list_are_used(path):
    allowed = ALLOWED | NUMPY_ONLY if path.name == "arrays.py" else ALLOWED
    wrong = sorted(operations(path) - allowed)
    assert not wrong, f"{path} uses torch.{', torch.'.join(wrong)}, which the list here does not allow"


def test_every_operation_on_the_list_is_used():
    unused = (ALLOWED | NUMPY_ONLY).difference(*map(operations, FILES))
    assert not unused, f"nothing in scene/ uses torch.{', torch.'.join(sorted(unused))}: take it off the list"


@every_file
def test_nothing_of_torch_is_imported_by_name(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] != "torch"
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("torch.")]
            renamed = [alias.asname for alias in node.names if alias.name == "torch" and alias.asname]
            assert not renamed, "torch is called torch"


@every_file
def test_no_method_of_a_tensor_does_a_layers_work(path):
    """The name `backward` is allowed, since it is our layers' and losses' own method."""
    forbidden = {"requires_grad", "requires_grad_", "grad", "grad_fn", "autograd", "retain_grad",
                 "register_hook", "relu", "relu_", "softmax", "log_softmax", "sigmoid", "dropout", "unfold"}
    tree = ast.parse(path.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & forbidden


class Recorder(TorchDispatchMode):
    """Records the name of every operation that torch performs."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


FUSED = ("conv", "batch_norm", "layer_norm", "group_norm", "pool", "dropout", "linear", "relu",
         "cross_entropy", "nll", "mse", "grid_sampl", "upsample", "backward", "im2col", "col2im", "fold",
         "attention", "sgd", "adam", "compile")


@pytest.mark.parametrize("mode", MODES)
def test_no_fused_layer_runs_and_no_autograd(mode, monkeypatch):
    def forbidden(*arguments, **names):
        raise AssertionError("autograd was used")

    monkeypatch.setattr("scene.processes.cores", lambda: 1)     # the recorder sees this process only
    monkeypatch.setattr(torch.Tensor, "backward", forbidden)
    network = MODES[mode].network(3, 32)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 32, 32, 3), generator=generator, dtype=torch.uint8)
    with Recorder() as recorder:
        train(network, pixels, torch.arange(8) % 3, make_settings(epochs=1, learning_rate=0.01))
    assert not network.params.requires_grad
    assert "mm" in recorder.names
    assert not [name for name in recorder.names if any(word in name for word in FUSED)]


# Imports


WITHOUT_TORCH = ["scene.models", "scene.learn.recipe", "scene.predict", "scene.serve"]
WITHOUT_TORCH += [f"scene.{wing}.{path.stem}" for wing in ("photos", "nn", "answer")
                  for path in sorted((SCENE / wing).glob("[!_]*.py"))]


def run_in_new_python(script):
    """Runs a script of assertions about sys.modules."""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_prediction_imports_no_torch():
    run_in_new_python(f"""
import importlib, sys, scene
scene.Classifier
assert "scene.nn.conv" in sys.modules and "torch" not in sys.modules
for name in {WITHOUT_TORCH}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name + " imports torch"
""")


def test_the_package_alone_imports_no_library():
    run_in_new_python("""
import sys, scene
assert not {"numpy", "PIL", "safetensors", "torch"} & sys.modules.keys()
""")
