"""A second oracle, for which torch.nn need not be right: the slopes of a layer, measured.

The lesson "gradient_check" asks for these two functions.
"""

import torch


def slope(f, x, h=1e-6):
    """The gradient of a number with respect to an array, by central differences. Shape of x.

        gᵢ = (f(x + h eᵢ) - f(x - h eᵢ)) / 2h

    f takes x and returns one number. x: float64, contiguous. It is changed during the call and restored
    exactly. The error is about h² from the formula and 1e-16 / h from rounding, both relative to f.

    >>> x = tensor([3., 5.], dtype=torch.float64)
    >>> slope(lambda x: x[0] ** 2 * x[1], x).round(decimals=4).tolist()         # 2 x₀ x₁ and x₀²
    [30.0, 9.0]
    """
    gradient = torch.empty_like(x)
    numbers = x.view(-1)
    for i, number in enumerate(numbers.tolist()):
        numbers[i] = number + h
        above = f(x)
        numbers[i] = number - h
        below = f(x)
        numbers[i] = number
        gradient.view(-1)[i] = (above - below) / (2 * h)
    return gradient


def wrong_gradients(layer, x, dy):
    """The gradients that a layer computes wrongly, by name: [] if it is right, else of "dx", "dw", "db", ….

    Compares what backward(dy) returns and writes with the slopes of L = Σ y dy, where y = forward(x,
    training=True): then ∂L/∂y is dy. x, dy: float64, and every number of x at least 1e-4 away from a kink.
    A gradient that backward does not write is wrong, whatever was there before.

    >>> from scene.nn.activation import ReLU
    >>> layer = ReLU()
    >>> x, dy = tensor([[-1., 2.], [3., 4.]], dtype=torch.float64)
    >>> wrong_gradients(layer, x, dy)
    []
    >>> layer.backward = lambda dy: dy                  # lets the gradient pass where x < 0
    >>> wrong_gradients(layer, x, dy)
    ['dx']
    """
    def total(_):
        return (layer.forward(x, training=True) * dy).sum()

    measured = {"d" + name: slope(total, getattr(layer, name)) for name in layer.parameters}
    measured["dx"] = slope(total, x)
    for name in layer.parameters:
        getattr(layer, "d" + name).fill_(float("nan"))
    layer.forward(x, training=True)
    computed = {"dx": layer.backward(dy)}
    computed |= {"d" + name: getattr(layer, "d" + name) for name in layer.parameters}
    return [name for name, gradient in computed.items()
            if not torch.allclose(gradient, measured[name], rtol=1e-5, atol=1e-6)]
