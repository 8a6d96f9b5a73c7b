"""What Hypothesis draws: shapes, strides, padding and seeds, never the floats."""

from hypothesis import strategies as st

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 9)


def images(least=1, most=9):
    """Shapes (N, H, W, C) of a batch of images with sides of least…most."""
    return st.tuples(st.integers(1, 4), st.integers(least, most), st.integers(least, most), st.integers(1, 5))
