"""Layers written by hand, forward and backward.

Dimensions:  N photos in a batch, H rows and W columns of pixels, C input channels (3 colours in a photo),
             O output channels, K classes.
Arrays:      x is a layer's input and y its output. dx, dy, dw are the gradients of the loss for x, y, w.
Subscripts:  n photo, h row, v column, c input channel, o output channel, i, j row and column within a kernel,
             s stride, p padding.

The docstring of every layer ends in an example to check by hand. In the examples, tensor is torch.tensor, and
torch and Network are imported. Run them with python -m pytest tests/nn/test_doctests.py.

Next: linear.py
"""
