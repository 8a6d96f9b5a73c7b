"""What scene/ may use: tensor operations, and nothing that knows about layers, gradients or compilers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scene.learn.loop import train
from scene.models import CNN, FCNN
from tests.jobs import make_settings

SCENE = Path(__file__).parent.parent / "scene"
FILES = sorted(SCENE.rglob("*.py"))

ALLOWED = {
    # making arrays
    "arange", "asarray", "empty", "empty_like", "from_numpy", "rand", "randint", "randperm", "tensor", "zeros", "zeros_like", "tile",
    # elementwise, reductions, products
    "add", "addcmul", "addmm", "amax", "concatenate", "eq", "exp", "flip", "matmul", "maximum", "mean", "mm",
    "moveaxis", "mul", "sqrt", "sum", "where",
    # the machine
    "Generator", "cuda", "cuda.is_available", "device", "float32", "set_num_threads",
}
NUMPY_ONLY = {"ascontiguousarray", "lib", "lib.stride_tricks", "lib.stride_tricks.as_strided"}


def dotted(node):
    """"torch.cuda.is_available" for the expression of that name, None for others."""
    if isinstance(node, ast.Attribute) and (start := dotted(node.value)):
        return f"{start}.{node.attr}"
    if isinstance(node, ast.Call) and dotted(node.func) == "library":
        return "xp"
    return node.id if isinstance(node, ast.Name) else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SCENE)))
def test_only_operations_on_the_list_are_used(path):
    allowed = ALLOWED | NUMPY_ONLY if path.name == "arrays.py" else ALLOWED
    used = {dotted(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    used = {name.partition(".")[2] for name in used if name and name.partition(".")[0] in ("torch", "xp")}
    assert used <= allowed, f"{path} uses torch.{', torch.'.join(sorted(used - allowed))}, which the list here does not allow"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SCENE)))
def test_nothing_of_torch_is_imported_by_name(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.startswith("torch.") or isinstance(node, ast.ImportFrom) and name == "torch"]
        assert not isinstance(node, ast.Import) or not [a for a in node.names if a.name == "torch" and a.asname], "torch is called torch"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SCENE)))
def test_no_method_of_a_tensor_does_a_layers_work(path):
    forbidden = {"backward", "requires_grad", "requires_grad_", "grad", "grad_fn", "autograd", "retain_grad", "register_hook",
                 "relu", "relu_", "softmax", "log_softmax", "sigmoid", "dropout", "unfold"}
    tree = ast.parse(path.read_text())
    own = {"backward"}                                          # our layers' and losses' own method
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & (forbidden - own)


class Recorder(TorchDispatchMode):
    """Notes the name of every operation that torch really performs."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


FUSED = ("conv", "batch_norm", "layer_norm", "group_norm", "pool", "dropout", "linear", "relu", "cross_entropy", "nll", "mse",
         "grid_sampl", "upsample", "backward", "im2col", "col2im", "fold", "attention", "sgd", "adam", "compile")


@pytest.mark.parametrize("network", [CNN(3, 32), FCNN(3, 32)], ids=["CNN", "FCNN"])
def test_no_fused_layer_runs_and_no_autograd(network, monkeypatch):
    def forbidden(*arguments, **names):
        raise AssertionError("autograd was used")

    monkeypatch.setattr("scene.processes.cores", lambda: 1)      # all of it in this process, to be seen
    monkeypatch.setattr(torch.Tensor, "backward", forbidden)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 32, 32, 3), generator=generator, dtype=torch.uint8)
    with Recorder() as recorder:
        train(network, pixels, torch.arange(8) % 3, make_settings(epochs=1, learning_rate=0.01))
    assert not network.params.requires_grad
    assert "mm" in recorder.names
    assert not [name for name in recorder.names if any(word in name for word in FUSED)]


def test_prediction_imports_no_torch():
    script = "import sys, scene, scene.answer.endpoint, scene.photos.folder, scene.answer.metrics, scene.learn.recipe; scene.Classifier; print('torch' in sys.modules, 'scene.nn.conv' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False True\n"
