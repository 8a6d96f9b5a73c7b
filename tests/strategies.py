"""Hypothesis strategies for shapes, sizes and seeds. Floats are never drawn: they come from a seed."""

from hypothesis import strategies as st

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def images(least=1, most=9):
    """Shapes (N, H, W, C) of batches of images, with sides of least…most pixels."""
    return st.tuples(st.integers(1, 4), st.integers(least, most), st.integers(least, most), st.integers(1, 5))
