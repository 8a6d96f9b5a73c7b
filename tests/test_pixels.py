"""scene/photos/pixels.py: photos out of many, chosen again and again, are those photos."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from scene.photos.pixels import Rows

PIXELS = np.arange(9 * 2 * 2 * 3, dtype=np.uint8).reshape(9, 2, 2, 3)
choices = st.one_of(
    st.builds(slice, *[st.one_of(st.none(), st.integers(-10, 10))] * 2, st.sampled_from([None, 1, 2, -1])),
    st.lists(st.integers(0, 8), max_size=9).map(lambda each: np.array(each, np.int64)))


@given(choices, st.data())
def test_rows_of_rows_are_those_of_the_array(which, data):
    rows, expected = Rows(PIXELS, which), PIXELS[which]
    for _ in range(2):
        assert (rows.shape, rows.dtype, len(rows)) == (expected.shape, np.uint8, len(expected))
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal([*rows], [*expected])
        mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)).map(np.array))
        rows, expected = Rows(rows, mask.astype(bool)), expected[mask.astype(bool)]


@given(choices)
def test_torch_reads_the_same_rows(which):
    rows, expected = Rows(PIXELS, which).to_torch(), torch.from_numpy(PIXELS[which].copy())
    assert torch.equal(rows[:], expected) and torch.equal(rows[1::2], expected[1::2])
    assert [part.tolist() for part in rows.split(4)] == [part.tolist() for part in expected.split(4)
                                                         if len(part)]
    few = torch.arange(len(expected)).flip(0)[:3]
    assert torch.equal(rows.index_select(0, few), expected[few])


def test_what_is_read_is_fetched_before():
    fetched = []
    rows = Rows(Rows(PIXELS, slice(None, None, -1), ahead=None), [0, 4])
    rows.ahead = lambda indices: fetched.append(np.asarray(indices).tolist())
    assert rows[1].tolist() == PIXELS[4].tolist() and len(rows.to_torch()[:1]) == 1
    assert fetched == [4, [8]]
