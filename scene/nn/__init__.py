"""Layers by hand, forward and backward.

The letters:  N photos in a batch, H rows and W columns of pixels, C channels (3 colours at first, later features),
O channels that come out, K classes.  Lower case x goes in, y comes out; dx, dy, dw are the loss's gradients for them. Subscripts: n photo,
h row, v column, c channel, o channel that comes out; i, j row and column within a kernel; s stride, p padding.

Read in this order:  arrays, layer, linear, activation, loss, normalize, conv, winograd, pool, norm, dropout; then scene/models.py.
"""
