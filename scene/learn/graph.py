"""CUDA graphs: on a GPU, a training step is recorded once, and then replayed.

A step is hundreds of small operations, and Python often takes longer to start one than the GPU to finish it.
A CUDA graph starts all of them at once. The price: a recording is blind to Python. It reads and writes the
same addresses each time, with the same shapes, and every number that Python computed is frozen in it.

Random numbers are not frozen: a graph reads the seed of a registered generator, and how many numbers have
been drawn since, at each replay. So after the same `manual_seed`, it draws what the function itself draws.

Source: PyTorch's documentation, CUDA Semantics, "CUDA Graphs" and "Sharing memory across captures"; its
"Note [CUDA Graph-safe RNG states]" in ATen/cuda/CUDAGeneratorImpl.h.
Next: recalibrate.py
"""

from contextlib import contextmanager

import torch

WARM_UPS = 3                # calls before a recording: they load kernels, and fill caches from Python


def recorded(function, device):
    """The function, to be recorded on its way if the device is a GPU."""
    return Recorded(function, device) if torch.device(device).type == "cuda" else function


class Recorded:
    """A function that runs as it is for its first few calls, and from then on as a CUDA graph.

    Tensors and floats among the arguments are inputs: a replay copies them to where the graph reads them, so
    the function gets a float as a tensor of one number. Every other argument, and the inputs' shapes, are the
    key: another key makes another recording. So no argument can be out of date. A generator among the
    arguments is registered with the graph.

    The function returns tensors or None. It may write into memory that stays where it is, like a network's
    vectors. It must not read a number from the GPU, nor copy one there, except into a cache. Its results stay
    valid until the next call. Recordings share memory for what happens between, since they run one by one.
    """

    def __init__(self, function, device):
        self.function = function
        self.device = device
        self.calls = {}             # of each key
        self.recordings = {}        # a (graph, arguments, results) for each key
        self.failed = False
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()

    def __call__(self, *arguments):
        arguments = [self.place(argument) for argument in arguments]
        key = tuple((a.shape, a.dtype) if is_input(a) else a for a in arguments)
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] > WARM_UPS and key not in self.recordings and not self.failed:
            self.try_to_record(key, arguments)
        if key in self.recordings:
            return self.replay(key, arguments)
        with self.aside():
            return self.function(*arguments)

    def place(self, argument):
        """An input as a tensor on the GPU, any other argument as it is."""
        if isinstance(argument, float):
            return torch.full((), argument, device=self.device)
        return argument.to(self.device) if is_input(argument) else argument

    @contextmanager
    def aside(self):
        """Runs a block on a side stream, as a recording must: after what came before, before what follows."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def try_to_record(self, key, arguments):
        """Records a call. That runs nothing: if it fails, nothing has changed, and calls stay as they are."""
        try:
            self.recordings[key] = self.record(arguments)
        except RuntimeError as error:
            self.failed = True
            reason = str(error).partition("\n")[0]
            print(f"Recording a CUDA graph failed, so training continues more slowly: {reason}", flush=True)

    def record(self, arguments):
        graph = torch.cuda.CUDAGraph()
        for argument in arguments:
            if isinstance(argument, torch.Generator):
                graph.register_generator_state(argument)
        arguments = [a.clone() if is_input(a) else a for a in arguments]        # inputs of our own
        with self.aside(), torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            results = self.function(*arguments)
        return graph, arguments, results

    def replay(self, key, arguments):
        graph, places, results = self.recordings[key]
        for place, argument in zip(places, arguments, strict=True):
            if is_input(argument):
                place.copy_(argument)
        graph.replay()
        return results


def is_input(argument):
    return isinstance(argument, torch.Tensor)
