"""All of training in a few lines: forward, loss, backward, step.

    python -m scene.learn.bare datasets/train datasets/test

loop.py is the same loop with everything that makes it accurate, fast and safe.

Next: ../nn/linear.py
"""

import sys

import torch

from scene import errors
from scene.models import FCNN
from scene.nn.loss import CrossEntropy
from scene.photos import folder


def run(train_folder, test_folder):
    listings = [folder.scan(train_folder), folder.scan(test_folder)]
    (train, test), _ = folder.load(listings, listings[0].classes, 24, folder.check(*listings))
    pixels = torch.from_numpy(train.pixels[:])                      # (N, 24, 24, 3) uint8
    labels = torch.from_numpy(train.labels)                         # (N,): the index of each photo's class

    randomness = torch.Generator().manual_seed(0)
    network = FCNN(classes=len(train.classes)).start(randomness)    # random weights
    network.layers[0].fit(pixels)                                   # mean and spread of the photos' colours
    loss = CrossEntropy()
    batches = max(1, len(labels) // 32)

    for epoch in range(10):
        for batch in torch.randperm(len(labels), generator=randomness).tensor_split(batches):
            z = network.forward(pixels[batch], training=True)       # (32, 24, 24, 3) -> (32, K): scores
            value = loss.forward(z, labels[batch])                  # how wrong they are
            network.backward(loss.backward())                       # fills network.grads: ∂loss/∂params
            network.params -= 0.05 * network.grads                  # a step downhill
        answers = network.forward(torch.from_numpy(test.pixels[:])).argmax(1)
        accuracy = (answers == torch.from_numpy(test.labels)).float().mean().item()
        print(f"epoch {epoch + 1}: last loss {value:.3f}, {accuracy:.1%} of the test photos right")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Name two folders: python -m scene.learn.bare datasets/train datasets/test")
    sys.exit(errors.run(run, *sys.argv[1:]))
