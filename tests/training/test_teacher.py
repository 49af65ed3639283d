"""Tests of what a teacher shows, and of the terms that ask for it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lama.generator import Generator
from tests.training.test_critic import make_store, random_features, small_recipe
from training.losses import fine_part
from training.network import FrozenNetwork, Layout
from training.recipe import read_recipe
from training.teacher import Showing, Teacher, expanded, mesh_of
from training.trainer import TERMS, Trainer

NEUTRAL = Showing(gain=1.0, expansion=0.0, mesh=0.0)


def square_hole(side: int = 128, first: int = 24, last: int = 104) -> torch.Tensor:
    """Return a mask, (1, 1, side, side), with a square hole."""
    mask = torch.zeros(1, 1, side, side)
    mask[..., first:last, first:last] = 1
    return mask


def test_the_mesh_is_what_repeats_every_8_px_and_nothing_else() -> None:
    random = torch.Generator().manual_seed(0)
    mask = square_hole()
    cell = fine_part(torch.rand(1, 3, 24, 24, generator=random))[..., 8:16, 8:16] * 0.2
    mesh = cell.repeat(1, 3, 16, 16)
    noise = 0.05 * torch.randn(1, 3, 128, 128, generator=random)
    got = mesh_of(0.5 + mesh + noise, mask)
    wanted = torch.cat([fine_part(mesh[:, :1])] * 3, 1)
    inner = (slice(None), slice(None), slice(32, 96), slice(32, 96))
    assert (got - wanted)[inner].square().mean() < 0.1 * wanted[inner].square().mean()
    alone = mesh_of(0.5 + noise, mask)
    assert alone[inner].square().mean() < 0.05 * noise[inner].square().mean()
    assert not (got * (1 - mask)).any()


def test_louder_detail_gets_more_and_nothing_changes_outside() -> None:
    random = torch.Generator().manual_seed(1)
    mask = square_hole()
    noise = torch.randn(1, 1, 128, 128, generator=random)
    noise[..., :64] *= 0.02
    noise[..., 64:] *= 0.1
    filled = (0.5 + noise).repeat(1, 3, 1, 1)
    added = expanded(filled, mask, Showing(gain=1.2, expansion=0.3, sigma_px=4.0))
    fine = fine_part(filled)
    faint, loud = (
        float((added * fine)[..., 40:88, columns].mean() / fine.square()[..., 40:88, columns].mean())
        for columns in (slice(30, 50), slice(78, 98))
    )
    assert faint < -0.1 < 0.2 < loud
    assert not (added * (1 - mask)).any()
    assert not expanded(filled, mask, NEUTRAL).abs().max() > 1e-6


def test_a_teacher_shows_its_weights_fill_and_the_photo_around_it() -> None:
    torch.manual_seed(2)
    generator = Generator(8, 1).eval()
    image, mask = torch.rand(2, 3, 64, 64), square_hole(64, 16, 48).repeat(2, 1, 1, 1)
    with torch.no_grad():
        fill = generator(torch.cat([image * (1 - mask), mask], 1)) * mask + image * (1 - mask)
    network = FrozenNetwork(Layout(8, 1), generator.state_dict(), torch.device("cpu"), torch.float32)
    shown = Teacher(network, NEUTRAL).show(image, mask)
    assert (shown - fill).abs().max() < 1e-5
    changed = Teacher(network, Showing(gain=2.0)).show(image, mask)
    assert torch.equal(changed * (1 - mask), image * (1 - mask))
    assert (changed - fill).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("photo_perceptual", [False, True])
def test_all_terms_ask_for_what_the_teacher_shows(tmp_path: Path, photo_perceptual: bool) -> None:
    """A student that fills as its teacher does has no error left, but for the photo's where the recipe asks for it."""
    torch.manual_seed(3)
    recipe = small_recipe(photo_perceptual=photo_perceptual)
    store = make_store(tmp_path / "photos", ["skyline.jpg"])
    features = random_features(tmp_path)
    trainer = Trainer(recipe, store, features, 0, 1, teacher=Generator(8, 1).state_dict())
    assert isinstance(trainer.teacher, Teacher)

    def own_fill(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            fill = trainer.predict(trainer.generator.parameters.leaves, image, mask, [])
        return fill * mask + image * (1 - mask)

    stage = recipe.stages[0].__class__(1.0, recipe.stages[0].side_px, recipe.stages[0].batch, 0.0)
    trainer.prepare(stage)
    trainer._next_batch()
    trainer.teacher = SimpleNamespace(show=own_fill)  # type: ignore[assignment]
    trainer.sums.zero_()
    trainer._generator_gradient()
    terms = dict(zip(TERMS, trainer.sums.tolist(), strict=True))
    assert terms["hole_l1"] < 1e-6 and terms["dissimilar"] < 1e-4 and terms["contrast"] < 1e-4
    assert (terms["perceptual"] > 0.05) if photo_perceptual else (terms["perceptual"] < 1e-4)
    trainer.teacher = None
    trainer.sums.zero_()
    trainer._generator_gradient()
    assert dict(zip(TERMS, trainer.sums.tolist(), strict=True))["hole_l1"] > 0.05


def test_a_recipe_says_how_a_teacher_shows() -> None:
    assert read_recipe('{"teacher": {"gain": 1.2, "mesh": 0.5}}').teacher == Showing(gain=1.2, mesh=0.5)
    with pytest.raises(ValueError, match="--recipe"):
        read_recipe('{"teacher": {"loudness": 1.2}}')
