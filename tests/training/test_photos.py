"""Training windows: of the size asked for, out of the photo and never out of what surrounds it, and varied."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training.photos import PhotoStore, source_weights

SIDE_PX = 48


@pytest.fixture
def store(tmp_path: Path) -> PhotoStore:
    """Bright photos of three sizes: in memory black lies around the smaller ones."""
    random = np.random.default_rng(0)
    for index, (height, width) in enumerate(((60, 90), (120, 64), (200, 260))):
        photo = random.integers(150, 250, (height, width, 3), dtype=np.uint8)
        assert cv2.imwrite(str(tmp_path / f"{index}.png"), photo)
    bank = np.zeros((4, 512, 512), np.uint8)
    bank[:, ::40] = 1
    return PhotoStore(tmp_path, None, bank, torch.device("cpu"), 0, 1)


@pytest.mark.parametrize("plain", [0.0, 1.0])
def test_windows_are_of_photos_alone(store: PhotoStore, plain: float) -> None:
    for _ in range(40):
        image, mask = store.batch(3, SIDE_PX, plain=plain)
        assert image.shape == (3, 3, SIDE_PX, SIDE_PX) and mask.shape == (3, 1, SIDE_PX, SIDE_PX)
        assert image.max() <= 1
        assert image.amin(1).min() > 0.2  # darkened, yet no channel of a pixel is as dark as what lies around a photo


def test_windows_are_scaled_and_stretched(store: PhotoStore) -> None:
    sides = np.array([store._window(SIDE_PX) for _ in range(300)])
    assert sides.min() < 0.8 * SIDE_PX and sides.max() > 1.4 * SIDE_PX
    assert sides.max() <= store.largest_px
    stretch = sides[:, 0] / sides[:, 1]
    assert stretch.min() < 0.93 and stretch.max() > 1.07


def test_a_turned_photo_has_no_empty_corner(store: PhotoStore) -> None:
    image = torch.arange(SIDE_PX).repeat(200, 3, SIDE_PX, 1) / SIDE_PX
    turned = store._turned(image)
    changed = (turned - image).abs().amax((1, 2, 3)) > 1e-3
    assert 0.15 < changed.float().mean() < 0.45
    # Enlarged as far as it is turned, so that no pixel is repeated at the border: columns keep rising.
    assert (turned.diff(dim=3) > 0).all()


def test_plain_photos_keep_their_colours(store: PhotoStore) -> None:
    """A red photo may become blue in one that is varied, and stays red in a plain one."""
    store.photos[..., 1:] //= 2
    plain = torch.cat([store.windows(4, SIDE_PX, plain=True) for _ in range(25)]).mean((2, 3))
    varied = torch.cat([store.windows(4, SIDE_PX, plain=False) for _ in range(25)]).mean((2, 3))
    assert (plain.argmax(1) == 0).all()
    assert (varied.argmax(1) != 0).any()


def test_sources_are_weighed_by_less_than_their_size(tmp_path: Path) -> None:
    table = tmp_path / "sources.csv"
    table.write_text("file,source\n" + "".join(f"{i},{'many' if i < 9 else 'one'}\n" for i in range(10)))
    weights = source_weights([str(i) for i in range(10)], table)
    assert weights.sum() == pytest.approx(1)
    assert weights[:9].sum() / weights[9] == pytest.approx(9**0.6)
