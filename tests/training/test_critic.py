"""The critic learns: what its steps hand to one another, and whether it can tell a photo from a fill."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lama.generator import Generator
from training.critic import CELL_PX, CriticView, critic, critic_tensors, over_all_holes
from training.given import read_given
from training.losses import PLANES, SqueezeFeatures
from training.masks import MASK_PX, draw_bank
from training.network import collect, continued
from training.photos import PhotoStore
from training.recipe import Recipe, Stage
from training.train import start_from
from training.trainer import PENALTY_EVERY, Trainer

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


def random_features(folder: Path) -> SqueezeFeatures:
    """SqueezeNet with random weights: here it only has to run."""
    random = torch.Generator().manual_seed(0)
    state = {"conv1.weight": torch.randn(96, 3, 7, 7, generator=random) * 1e-3, "conv1.bias": torch.zeros(96)}
    for index, (into, squeeze, expand) in enumerate(PLANES, 2):
        for part, (a, b, size) in {
            "a": (into, squeeze, 1),
            "b": (squeeze, expand, 1),
            "c": (squeeze, expand, 3),
        }.items():
            weight = torch.randn(b, a, size, size, generator=random) * (2 / (a * size * size)) ** 0.5
            state |= {f"fire{index}.{part}.weight": weight, f"fire{index}.{part}.bias": torch.zeros(b)}
    torch.save(state, folder / "features.pth")
    return SqueezeFeatures(folder / "features.pth")


def square_masks(side_px: int) -> np.ndarray:
    """Four masks with a chequerboard of square holes: every window of 64 px sees one."""
    mask = np.zeros((MASK_PX, MASK_PX), np.uint8)
    steps = np.arange(MASK_PX) // side_px % 2
    mask[:] = steps[:, None] & steps
    return np.stack([np.roll(mask, 7 * shift, (0, 1)) for shift in range(4)])


def make_store(folder: Path, names: list[str], device: str = "cpu") -> PhotoStore:
    folder.mkdir()
    for name in names:
        shutil.copy(DATA / name, folder)
    return PhotoStore(folder, None, square_masks(40), torch.device(device), 0, 1)


def small_recipe(**changes: float) -> Recipe:
    stage = Stage(1.0, 64, 8, 1.0)
    recipe = Recipe(width=8, blocks=1, critic_base=16, critic_share=1.0, stages=(stage,))
    return replace(recipe, **changes)  # type: ignore[arg-type]


def mean_of_25(image: torch.Tensor, dim: int) -> torch.Tensor:
    """Each pixel's mean with the twelve before and after it that there are; in a tenth of the time of `avg_pool2d`."""
    ends = torch.arange(image.shape[dim] + 1)
    above, below = (ends[:-1] + 13).clamp_max(image.shape[dim]), (ends[:-1] - 12).clamp_min(0)
    sums = F.pad(image.cumsum(dim), (1, 0) if dim == 3 else (0, 0, 1, 0))
    counts = (above - below).view(-1, *[1] * (3 - dim))
    return (sums.index_select(dim, above) - sums.index_select(dim, below)) / counts


class BlurredTrainer(Trainer):
    """Its generator is a box of 25 px that never changes: what a network without a critic gives, made worse."""

    @torch.no_grad()
    def _fill(self) -> None:
        blurred = mean_of_25(mean_of_25(self.image, 3), 2)
        self.composite.copy_(blurred * self.mask + self.image * (1 - self.mask))


@torch.no_grad()
def held_out_accuracy(trainer: Trainer, store: PhotoStore, batches: int) -> float:
    """The share of hole cells of photos and fills that the critic judges rightly."""
    stage, rights = trainer.stage, []
    weights = {name: leaf.detach() for name, leaf in trainer.critic.parameters.leaves.items()}
    for _ in range(batches):
        image, mask = store.batch(stage.batch, stage.side_px)
        trainer.image.copy_(image)
        trainer.mask.copy_(mask)
        trainer._fill()
        real, _ = critic(weights, image, mask)
        fill, _ = critic(weights, trainer.composite, mask)
        rights += [over_all_holes((real > 0).float(), mask), over_all_holes((fill <= 0).float(), mask)]
    return float(torch.stack(rights).mean())


@pytest.mark.slow
def test_a_critic_learns_to_tell_blur_from_photos(tmp_path: Path) -> None:
    """The critic's loss stood at chance for seven runs: 15 of 16 steps applied a gradient that was out of date."""
    torch.manual_seed(0)
    seen = make_store(tmp_path / "seen", ["skyline.jpg", "flower.png"])
    unseen = make_store(tmp_path / "unseen", ["pier.jpg"])
    recipe = small_recipe(critic_accuracy=2.0, critic_alone_steps=1000, critic_rate=0.05, penalty_weight=1e-3)
    trainer = BlurredTrainer(recipe, seen, random_features(tmp_path), 0, 1)
    trainer.prepare(recipe.stages[0])
    for _ in range(150):
        trainer.step(1e-3)
    assert float(trainer.accuracy) > 0.75
    assert held_out_accuracy(trainer, unseen, 6) > 0.62


@pytest.mark.slow
def test_the_generator_waits_until_the_critic_can_judge(tmp_path: Path) -> None:
    torch.manual_seed(0)
    store = make_store(tmp_path / "photos", ["skyline.jpg"])
    recipe = small_recipe(critic_accuracy=2.0, critic_alone_steps=3)
    trainer = Trainer(recipe, store, random_features(tmp_path), 0, 1)
    trainer.prepare(recipe.stages[0])
    generator, judge = trainer.generator.parameters.master.clone(), trainer.critic.parameters.master.clone()
    for _ in range(3):
        trainer.step(1e-3)
    assert torch.equal(trainer.generator.parameters.master, generator)
    assert not torch.equal(trainer.critic.parameters.master, judge)
    trainer.step(1e-3)
    assert not torch.equal(trainer.generator.parameters.master, generator)


def test_a_training_starts_from_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = small_recipe()
    trainer = Trainer(recipe, make_store(tmp_path / "photos", ["skyline.jpg"]), random_features(tmp_path), 0, 1)
    state = Generator(8, 1).state_dict()
    save_file(state, tmp_path / "generator.safetensors")
    judge = torch.rand_like(trainer.critic.parameters.master).half()
    save_file({"critic": judge}, tmp_path / "critic.safetensors")
    files = {"start": tmp_path / "generator.safetensors", "critic": tmp_path / "critic.safetensors"}
    given = read_given(recipe, tmp_path / "features.pth", **files)
    start_from(trainer, given.start, given.critic)
    assert torch.equal(trainer.critic.parameters.master, judge.float())
    for name, value in collect(trainer.layout, state).items():
        assert torch.equal(trainer.generator.parameters.current()[name], value)
        assert torch.equal(trainer.generator.parameters.averaged()[name], value)


def test_the_guide_fills_the_deepest_holes_of_the_coarse_target(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = small_recipe(critic_share=0.5)
    guide = Generator(8, 1)
    store = make_store(tmp_path / "photos", ["skyline.jpg"])
    trainer = Trainer(recipe, store, random_features(tmp_path), 0, 1, guide.state_dict())
    trainer.prepare(recipe.stages[0])
    trainer.step(1e-3)
    image, mask = trainer.image, trainer.mask
    with torch.no_grad():
        filled = guide.eval()(torch.cat([image * (1 - mask), mask], 1)) * mask + image * (1 - mask)
    target = trainer._coarse_target()
    assert trainer.judged == 4
    assert (target[:4] - filled[:4]).abs().max() < 1e-5
    assert (filled[:4] - image[:4]).abs().max() > 0.1
    assert torch.equal(target[4:], image[4:])


@pytest.mark.slow
def test_every_critic_step_applies_its_own_gradient(tmp_path: Path) -> None:
    """Steps with and without the penalty wrote to two tensors, and the optimiser read the one captured last."""
    torch.manual_seed(0)
    store = make_store(tmp_path / "photos", ["skyline.jpg"])
    recipe = small_recipe(critic_accuracy=2.0)
    trainer = Trainer(recipe, store, random_features(tmp_path), 0, 1)
    trainer.prepare(recipe.stages[0])
    applied: list[torch.Tensor] = []
    step = trainer.critic.step
    place = trainer.critic_gradient.data_ptr()

    def note(gradient: torch.Tensor, clip: float) -> None:
        assert gradient.data_ptr() == place
        applied.append(gradient.clone())
        step(gradient, clip)

    trainer.critic.step = note  # type: ignore[method-assign]
    for _ in range(PENALTY_EVERY + 2):
        trainer.step(1e-3)
    assert len(applied) == PENALTY_EVERY + 2
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(applied))


def test_a_captured_step_may_not_put_a_tensor_elsewhere(tmp_path: Path) -> None:
    store = make_store(tmp_path / "photos", ["skyline.jpg"])
    recipe = small_recipe()

    class Careless(Trainer):
        def _critic_gradient(self, penalty: bool) -> None:
            super()._critic_gradient(penalty)
            self.critic_gradient = self.critic_gradient * 1

    with pytest.raises(RuntimeError, match="critic_gradient"):
        Careless(recipe, store, random_features(tmp_path), 0, 1).prepare(recipe.stages[0])


def test_a_filters_length_does_not_matter() -> None:
    weights = {name: value for name, value, _ in critic_tensors(0, base=8)}
    longer = {name: value if name.endswith("bias") else 3 * value for name, value in weights.items()}
    image, mask = torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    got, wanted = (critic(w, image, mask)[0] for w in (longer, weights))
    assert (got - wanted).abs().max() < 1e-3


def test_photo_and_fill_are_seen_alike_and_on_another_grid_each_step() -> None:
    view = CriticView(2, 64, torch.device("cpu"))
    images, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    mask[:, :, 20:40, 20:40] = 1
    assert (view.see(images) - images).abs().max() < 1e-6
    choice, starts = np.random.default_rng(0), set()
    for _ in range(40):
        view.change(choice)
        assert torch.equal(view.see(images), view.see(images.clone()))
        place = view.place(mask)
        starts.add((int(place[0, 0].amax(1).argmax()), int(place[0, 0].amax(0).argmax())))
        # Where the hole is placed, a change of the hole's pixels shows, and nowhere else.
        changed = (view.see(images + 0.1 * mask) - view.see(images)).abs().sum(1, keepdim=True) > 1e-4
        assert torch.equal(changed, place > 0)
    assert len(starts) > 20 and max(max(pair) for pair in starts) == 20 + CELL_PX - 1


@pytest.mark.gpu
@pytest.mark.slow
def test_a_critic_reaches_95_percent_against_the_included_weights(tmp_path: Path) -> None:
    """On photos it never saw, within 1,000 steps."""
    photos = os.environ.get("TRAINING_PHOTOS")
    if not photos:
        pytest.skip("TRAINING_PHOTOS names no folder of photos, and three are too few to learn from")
    device = torch.device("cuda")
    paths = sorted(p for p in Path(photos).rglob("*") if p.suffix in {".jpg", ".png", ".webp"})
    stores = []
    bank = draw_bank(2000, 1, 8, {"thick": 0.5, "object": 0.5})
    for name, part in (("seen", paths[20:]), ("unseen", paths[:20])):
        (tmp_path / name).mkdir()
        for number, path in enumerate(part):
            (tmp_path / name / f"{number}{path.suffix}").symlink_to(path)
        stores.append(PhotoStore(tmp_path / name, None, bank, device, 0, 8))
    recipe = Recipe(blocks=15, critic_accuracy=2.0, critic_alone_steps=1001, stages=(Stage(1.0, 256, 32, 1.0),))
    trainer = Trainer(recipe, stores[0], random_features(tmp_path).to(device).bfloat16(), 0, 1)
    start = load_file(ROOT / "weights" / "lama-compact.safetensors")
    for name, value in continued(trainer.layout, start).items():
        trainer.generator.parameters.current()[name].copy_(value)
    trainer.prepare(recipe.stages[0])
    for _ in range(1000):
        trainer.step(1e-3)
    assert held_out_accuracy(trainer, stores[1], 20) >= 0.95
