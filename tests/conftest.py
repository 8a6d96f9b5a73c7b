"""What all tests share: 200 examples for each property, the same ones every time."""

import torch
from hypothesis import settings

torch.set_num_threads(1)        # as in training: a thread each for tiny operations only gets in the way
settings.register_profile("scene", max_examples=200, deadline=None, derandomize=True)
settings.load_profile("scene")
