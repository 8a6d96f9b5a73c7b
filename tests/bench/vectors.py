"""Test cases that others wrote, for the operators that we have: python -m tests.bench.vectors

1. ONNX's node tests, whose expected outputs the ONNX project computes in its own reference code.
2. torch's module database (torch.testing._internal.common_modules): the modules and inputs by which torch
   tests torch.nn. Its gradients are the reference for our backward passes.

Evaluation runs on torch and on NumPy. A case is left out, and counted, if it uses an option that our layer
does not have, such as groups. Installs onnx (Apache 2.0, 9 MB), and expecttest, which torch's database
imports, under build/vectors.
"""

import subprocess
import sys
import warnings
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.dropout import Dropout
from scene.nn.linear import Flatten, Linear
from scene.nn.loss import CrossEntropy, softmax
from scene.nn.norm import BatchNorm
from scene.nn.pool import GlobalAveragePool, MaxPool2d
from scene.nn.winograd import WinogradConv2d
from tests import oracle

FOLDER = Path(__file__).parents[2] / "build/vectors"
PACKAGES = "onnx", "protobuf", "ml_dtypes", "typing_extensions", "expecttest"
LEFT_OUT = None


def install():
    """Makes the packages importable."""
    if not FOLDER.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", FOLDER, *PACKAGES]
        subprocess.run(command, check=True)
    sys.path.append(str(FOLDER))
    warnings.filterwarnings("ignore")


def same(*numbers):
    """The number that all of these are, or 0 if they differ."""
    return numbers[0] if len(set(numbers)) == 1 else 0


def images(x):
    """(N, C, H, W) -> (N, H, W, C), and rows as they are."""
    return x.permute(0, *range(2, x.ndim), 1)


def channels(y):
    """(N, H, W, C) -> (N, C, H, W), and rows as they are."""
    return y.permute(0, y.ndim - 1, *range(1, y.ndim - 1))


def as_is(array):
    return array


def place(layer, dtype, **arrays):
    """Gives a layer these parameters and statistics, each in our layout."""
    oracle.prepare(layer, dtype=dtype)
    for name, array in arrays.items():
        getattr(layer, name).copy_(array.detach())
    return layer


def convolutions(w, b, stride, padding):
    """Our convolutions with these weights: as a matrix product, and by Winograd's algorithm if it can."""
    arrays = {"w": w.permute(0, 2, 3, 1)} | ({} if b is None else {"b": b})
    sizes = w.shape[1], w.shape[0]
    found = [place(Conv2d(*sizes, w.shape[2], stride, padding, b is not None), w.dtype, **arrays)]
    if (w.shape[2], stride, padding) == (3, 1, 1):
        found.append(place(WinogradConv2d(*sizes, b is not None), w.dtype, **arrays))
    return found


def close(ours, theirs):
    """Whether two arrays agree, as far as float32 allows."""
    ours = torch.as_tensor(ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, check_dtype=False, equal_nan=True)
    return True


# ONNX


def check_onnx(case):
    """Whether our layers give the outputs of an ONNX node test, or LEFT_OUT if they lack the operator."""
    if len(case.model.graph.node) != 1:
        return LEFT_OUT
    node = case.model.graph.node[0]
    from onnx.helper import get_attribute_value

    options = {each.name: get_attribute_value(each) for each in node.attribute}
    results = []
    for inputs, outputs in case.data_sets:
        arrays = [torch.from_numpy(np.array(array)) for array in inputs if isinstance(array, np.ndarray)]
        if len(arrays) < len(inputs) or not arrays or not arrays[0].is_floating_point():
            return LEFT_OUT
        ours = OPERATORS[node.op_type](options, *arrays)
        if ours is LEFT_OUT:
            return LEFT_OUT
        results += [close(y, torch.from_numpy(np.array(outputs[0]))) for y in ours]
    return all(results)


def evaluate(layer, x):
    """The answers of a layer in evaluation, on torch and on NumPy."""
    ours = layer.forward(x)
    for name in (*layer.parameters, *layer.statistics):
        setattr(layer, name, getattr(layer, name).numpy())
    return [ours, torch.from_numpy(np.ascontiguousarray(layer.forward(np.ascontiguousarray(x.numpy()))))]


def onnx_conv(options, x, w, b=None):
    padding = set(options.get("pads", [0]))
    stride = same(*options.get("strides", [1, 1]))
    known = options.keys() <= {"pads", "strides", "kernel_shape", "dilations", "group"}
    plain = options.get("group", 1) == 1 and set(options.get("dilations", [1])) == {1}
    square = x.ndim == 4 and w.shape[2] == w.shape[3] and stride and len(padding) == 1
    if not (known and plain and square):
        return LEFT_OUT
    padding = padding.pop()
    return [channels(y) for layer in convolutions(w, b, stride, padding) for y in evaluate(layer, images(x))]


def onnx_max_pool(options, x):
    kernel = same(*options["kernel_shape"])
    stride = same(*options.get("strides", [1, 1]))
    plain = options.keys() <= {"kernel_shape", "strides", "pads"} and not any(options.get("pads", []))
    if x.ndim != 4 or not kernel or not stride or not plain:
        return LEFT_OUT
    return [channels(y) for y in evaluate(MaxPool2d(kernel, stride), images(x))]


def onnx_global_max_pool(options, x):
    if x.ndim != 4 or x.shape[2] != x.shape[3]:
        return LEFT_OUT
    return [channels(y) for y in evaluate(MaxPool2d(x.shape[2]), images(x))]


def onnx_global_average_pool(options, x):
    return [y[..., None, None] for y in evaluate(GlobalAveragePool(), images(x))]


def onnx_batch_norm(options, x, w, b, mean, var):
    layer = BatchNorm(len(w), epsilon=options.get("epsilon", 1e-5))
    place(layer, x.dtype, w=w, b=b, mean=mean, var=var)
    if options.get("training_mode"):            # ONNX moves the running averages by another convention
        return [channels(layer.forward(images(x), training=True))]
    return [channels(y) for y in evaluate(layer, images(x))]


def onnx_gemm(options, a, b, c=None):
    matrix = c is not None and len(set(c.shape) - {1}) > 1
    if matrix or options.get("alpha", 1) != 1 or options.get("beta", 1) != 1:
        return LEFT_OUT
    x = a.T if options.get("transA") else a
    w = b if options.get("transB") else b.T
    bias = torch.zeros(len(w)) if c is None else c.expand(1, len(w))[0]
    return evaluate(place(Linear(w.shape[1], len(w)), x.dtype, w=w, b=bias), x.contiguous())


def onnx_mat_mul(options, a, b):
    return onnx_gemm({}, a, b) if a.ndim == b.ndim == 2 else LEFT_OUT


def onnx_softmax(options, z):
    moved = z.movedim(options.get("axis", -1), -1)
    rows = moved.reshape(-1, moved.shape[-1])
    answers = softmax(rows), torch.from_numpy(softmax(rows.numpy()))
    return [p.reshape(moved.shape).movedim(-1, options.get("axis", -1)) for p in answers]


def onnx_cross_entropy(options, z, labels, weights=None):
    if weights is not None or "ignore_index" in options or options.get("reduction", b"mean") == b"none":
        return LEFT_OUT
    rows = z.movedim(1, -1).reshape(-1, z.shape[1])
    loss = CrossEntropy().forward(rows, labels.reshape(-1))
    return [loss * len(rows) if options.get("reduction") == b"sum" else loss]


def onnx_flatten(options, x):
    if options.get("axis", 1) != 1 or x.ndim < 2:
        return LEFT_OUT
    return evaluate(Flatten(), x)


OPERATORS = {
    "Relu": lambda options, x: evaluate(ReLU(), x),
    "Dropout": lambda options, x, *more: LEFT_OUT if len(more) > 1 else evaluate(Dropout(0.5), x),
    "Conv": onnx_conv, "MaxPool": onnx_max_pool, "GlobalMaxPool": onnx_global_max_pool,
    "GlobalAveragePool": onnx_global_average_pool, "BatchNormalization": onnx_batch_norm, "Gemm": onnx_gemm,
    "MatMul": onnx_mat_mul, "Softmax": onnx_softmax, "SoftmaxCrossEntropyLoss": onnx_cross_entropy,
    "Flatten": onnx_flatten,
}


# torch's module database


def counterparts(module, x):
    """[(our layer, to its layout of x, of y, and back)] of a torch.nn module, empty if we lack an option."""
    if isinstance(module, torch.nn.ReLU):
        return [(ReLU(), as_is, as_is, as_is)]
    if isinstance(module, torch.nn.Linear) and module.bias is not None and x.ndim == 2:
        layer = Linear(module.in_features, module.out_features)
        return [(place(layer, x.dtype, w=module.weight, b=module.bias), as_is, as_is, as_is)]
    if isinstance(module, torch.nn.Conv2d) and x.ndim == 4:
        return [(layer, images, images, channels) for layer in our_convolutions(module)]
    norm = isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) and x.ndim > 1
    if norm and module.bias is not None and module.momentum and module.track_running_stats:
        layer = BatchNorm(module.num_features, module.momentum, module.eps)
        averages = {"mean": module.running_mean, "var": module.running_var}
        place(layer, x.dtype, w=module.weight, b=module.bias, **averages)
        return [(layer, images, images, channels)]
    if isinstance(module, torch.nn.MaxPool2d) and x.ndim == 4:
        return [(layer, images, images, channels) for layer in our_max_pools(module)]
    if isinstance(module, torch.nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)) and x.ndim == 4:
        return [(GlobalAveragePool(), images, lambda y: y[..., 0, 0], lambda y: y[..., None, None])]
    return []


def our_convolutions(module):
    kernel, stride = same(*module.kernel_size), same(*module.stride)
    plain = module.dilation == (1, 1) and module.groups == 1 and module.padding_mode == "zeros"
    padded_alike = isinstance(module.padding, tuple) and len(set(module.padding)) == 1
    if not (kernel and stride and plain and padded_alike):
        return []
    return convolutions(module.weight, module.bias, stride, module.padding[0])


def our_max_pools(module):
    kernel, stride = (int(same(*np.broadcast_to(each, 2))) for each in (module.kernel_size, module.stride))
    padded = np.any(module.padding) or module.dilation != 1 or module.ceil_mode or module.return_indices
    return [] if padded or not kernel or not stride else [MaxPool2d(kernel, stride)]


def check_module(module, x, training):
    """Whether our layers give a module's output and gradients, or LEFT_OUT if they lack an option."""
    found = counterparts(module.train(training), x)
    for layer, layout, y_layout, back in found:
        theirs = x.clone().requires_grad_()
        for parameter in module.parameters():
            parameter.grad = None
        wanted = module(theirs)
        dy = torch.randn_like(wanted)
        ours = layer.forward(layout(x).contiguous(), training=training)
        close(back(ours), wanted.detach())
        if training:
            wanted.backward(dy)
            close(layer.backward(y_layout(dy)), layout(theirs.grad))
            for name, parameter in (("dw", "weight"), ("db", "bias")):
                if getattr(module, parameter, None) is not None:
                    gradient = getattr(module, parameter).grad
                    close(getattr(layer, name), images(gradient) if gradient.ndim == 4 else gradient)
    return bool(found) or LEFT_OUT


def check_loss(module, z, labels):
    """The same for CrossEntropyLoss."""
    if module.weight is not None or module.reduction == "none" or labels.is_floating_point() or z.ndim < 2 \
            or module.ignore_index >= 0:
        return LEFT_OUT
    theirs = z.clone().requires_grad_()
    wanted = module(theirs, labels)
    rows = z.movedim(1, -1).reshape(-1, z.shape[1])
    loss = CrossEntropy(module.label_smoothing)
    times = len(rows) if module.reduction == "sum" else 1
    close(loss.forward(rows, labels.reshape(-1)) * times, wanted.detach())
    wanted.backward()
    close(loss.backward() * times, theirs.grad.movedim(1, -1).reshape(rows.shape))
    return True


def modules():
    """Yields (name, function to call) for each case of torch's database about a module that we have."""
    from torch.testing._internal.common_modules import module_db

    with_dtype = {torch.nn.Linear, torch.nn.Conv2d, torch.nn.BatchNorm1d, torch.nn.BatchNorm2d}
    wanted = with_dtype | {torch.nn.ReLU, torch.nn.MaxPool2d, torch.nn.AdaptiveAvgPool2d,
                           torch.nn.CrossEntropyLoss}
    infos = [info for info in module_db if info.module_cls in wanted]
    for info, training, dtype in product(infos, (True, False), (torch.float64, torch.float32)):
        torch.manual_seed(0)
        for case in info.module_inputs_func(info, "cpu", dtype, False, training):
            made = case.constructor_input
            settings = {"dtype": dtype} if info.module_cls in with_dtype else {}
            module = info.module_cls(*made.args, **made.kwargs | settings)
            if isinstance(module, torch.nn.CrossEntropyLoss):
                yield info.name, partial(check_loss, module, *case.forward_input.args)
            elif len(case.forward_input.args) == 1:
                yield info.name, partial(check_module, module, *case.forward_input.args, training)


def count(cases):
    """Runs the cases. Prints how many passed, and the others. Returns whether none failed."""
    totals = Counter()
    failed = []
    for name, case in cases:
        try:
            with torch.enable_grad():
                result = case()
        except Exception as error:
            failed.append(f"  {name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        totals["left out" if result is LEFT_OUT else "passed"] += 1
    passed, left_out = totals["passed"], totals["left out"]
    print(f"  {passed} of {passed + len(failed)} passed, {left_out} use what our layers do not have")
    print(*failed, sep="\n")
    return not failed


def main():
    install()
    from onnx.backend.test.case.node import collect_testcases

    cases = [(case.name, lambda case=case: check_onnx(case)) for case in collect_testcases(None)
             if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in OPERATORS]
    print(f"ONNX's node tests, {len(cases)} for our operators:")
    good = count(cases)
    print("torch's module database:")
    return 0 if count(modules()) and good else 1


if __name__ == "__main__":
    sys.exit(main())
