"""The separate holes of a mask, against slow definitions written here."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from masks import holes
from tests.masks.test_dilation import MASKS


@settings(max_examples=200, deadline=None)
@given(MASKS, st.sampled_from([1, 2, 4]))
def test_a_coarser_grid_has_every_hole_pixel_in_its_cell(mask: np.ndarray, step: int) -> None:
    cells = holes._coarser(mask, step)
    padded = np.pad(mask, [(0, -side % step) for side in mask.shape])
    squares = padded.reshape(cells.shape[0], step, cells.shape[1], step)
    np.testing.assert_array_equal(cells, squares.any(axis=(1, 3)))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 15)), max_size=2),
)
def test_what_is_taken_for_one_piece_is_one(runs: list[tuple[int, int]], more: list[tuple[int, int]]) -> None:
    mask = np.zeros((len(runs), 16), np.bool_)
    for row, (first, length) in enumerate(runs):
        mask[row, first : first + length] = True
    for row, column in more:
        mask[row % len(runs), column] = True
    count = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[0] - 1
    one_run_each = all(len(np.flatnonzero(np.diff(row.astype(int), prepend=0) == 1)) == 1 for row in mask)
    assert holes._is_one_piece(mask) == (count == 1 and one_run_each)
