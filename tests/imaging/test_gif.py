"""A repaired GIF as a GIF again."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from imaging import encode_photo, open_photo
from imaging.gif import encode_gif


@pytest.mark.parametrize("colours", [4, 200, 255])
@pytest.mark.parametrize("is_clear", [False, True])
def test_a_gif_keeps_the_colours_of_what_was_not_repaired(colours: int, is_clear: bool) -> None:
    rng = np.random.default_rng(colours)
    palette = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    indices = rng.integers(0, colours, (40, 50)).astype(np.uint8)
    clear = np.zeros(indices.shape, bool)
    if is_clear:
        clear[:10] = indices[:10] > colours // 2
        indices[clear] = colours
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    gif = io.BytesIO()
    picture.save(gif, "GIF", **({"transparency": colours} if is_clear else {}))
    photo = open_photo(gif.getvalue())
    image = photo.image.copy()
    image[5:30, 10:40] = rng.integers(0, 256, (25, 30, 3))
    png = encode_photo(photo, image).data
    again = open_photo(encode_gif(png, photo, turn=lambda _px, _deep: contextlib.nullcontext()))
    outside = np.ones(indices.shape, bool)
    outside[5:30, 10:40] = False
    assert again.format == "GIF"
    assert np.array_equal(again.image[outside & ~clear], photo.image[outside & ~clear])
    assert (photo.alpha is not None) == (again.alpha is not None) == is_clear
    assert again.alpha is None or np.array_equal(again.alpha == 0, clear)
    mended = again.image[~outside & ~clear].astype(int) - image[~outside & ~clear]
    assert np.abs(mended).mean() < (20 if colours < 255 else 50)
