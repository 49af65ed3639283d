"""The training step: the published network's function, kernels equal to their definitions, state that survives."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from imaging.atomic_write import write_atomically
from lama.generator import Generator
from training.ending import ASK_CLOCK_EVERY, SharedClock
from training.masks import MASK_PX, draw_bank, draw_mask
from training.network import FrozenForward, Layout, TrainingForward, collect, continued, dft_matrices, frozen, published
from training.optimiser import FlatParameters, MuonAdam, orthogonalise
from training.recipe import Recipe, read_recipe
from training.state import PARTS, load_state, save_state
from training.train import check_resumable
from training.trainer import _limited


def live_generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator(8, 2).train()
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
        if isinstance(module, torch.nn.ConvTranspose2d):
            assert module.bias is not None
            torch.nn.init.zeros_(module.bias)
    return generator


def test_training_form_computes_the_published_network() -> None:
    generator = live_generator()
    layout = Layout(8, 2)
    x = torch.rand(2, 4, 40, 48)
    got = torch.sigmoid(TrainingForward(layout)(x, collect(layout, generator.state_dict()), []))
    assert (got - generator(x)).abs().max() < 5e-6


def test_published_weights_give_the_trained_output() -> None:
    layout = Layout(8, 2)
    weights = collect(layout, live_generator().state_dict())
    moments: list[tuple[torch.Tensor, torch.Tensor]] = []
    x = torch.rand(2, 4, 32, 32)
    wanted = torch.sigmoid(TrainingForward(layout)(x, weights, moments))
    names = [norm[0] for norm in layout.norms]
    means = {name: mean for name, (mean, _) in zip(names, moments, strict=True)}
    variances = {name: variance for name, (_, variance) in zip(names, moments, strict=True)}
    generator = Generator(8, 2)
    generator.load_state_dict(published(layout, weights, means, variances))
    assert (generator.eval()(x) - wanted).abs().max() < 5e-6


def test_frozen_form_computes_the_published_network() -> None:
    generator = live_generator()
    generator(torch.rand(2, 4, 40, 48))  # moves the running statistics away from where they began
    layout, x = Layout(8, 2), torch.rand(2, 4, 40, 48)
    got = torch.sigmoid(FrozenForward(layout)(x, frozen(layout, generator.state_dict()), []))
    assert (got - generator.eval()(x)).abs().max() < 5e-6


def test_a_deeper_network_starts_where_the_shallower_one_was() -> None:
    state = live_generator().state_dict()
    deep = Layout(8, 4)
    weights = collect(deep, Generator(8, 4).state_dict()) | continued(deep, state)
    x = torch.rand(2, 4, 32, 32)
    before = TrainingForward(Layout(8, 2))(x, collect(Layout(8, 2), state), [])
    scale = weights["3.2.g.scale"].requires_grad_()
    after = TrainingForward(deep)(x, weights, [])
    change = (after - before).abs().mean() / before.std()
    assert 0 < change < 0.3
    after.square().mean().backward()
    assert scale.grad is not None and scale.grad.abs().min() > 0


def test_a_network_does_not_start_from_a_deeper_one() -> None:
    with pytest.raises(ValueError, match="2 blocks"):
        continued(Layout(8, 1), live_generator().state_dict())


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (4, 4)])
def test_matrix_transform_is_the_real_fft(height: int, width: int) -> None:
    forward, inverse = dft_matrices(height, width, torch.device("cpu"), torch.float64)
    x = np.random.default_rng(0).normal(size=(height, width))
    spectrum = np.fft.rfft2(x, norm="ortho")
    got = (forward.numpy() @ x.ravel()).reshape(-1, 2)
    assert np.allclose(got[:, 0] + 1j * got[:, 1], spectrum.ravel(), atol=1e-12)
    changed = spectrum * (1 + 0.3j) + 0.1
    flat = np.stack([changed.ravel().real, changed.ravel().imag], 1).ravel()
    assert np.allclose(
        (inverse.numpy() @ flat).reshape(height, width), np.fft.irfft2(changed, s=(height, width), norm="ortho")
    )


def test_orthogonalise_evens_the_singular_values() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 24, 60)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_a_step_follows_the_gradient_and_keeps_the_leaves_fresh() -> None:
    torch.manual_seed(0)
    target = torch.randn(6, 4)
    parameters = FlatParameters(
        [("a", torch.zeros(6, 4), True), ("b", torch.zeros(6), False)], torch.device("cpu"), torch.float32
    )
    optimiser = MuonAdam(parameters, muon=True, weight_decay=0.0, average_decay=0.5)
    losses = []
    for _ in range(120):
        parameters.refresh()
        loss = (parameters.leaves["a"] + parameters.leaves["b"][:, None] - target).square().mean()
        losses.append(float(loss.detach()))
        optimiser.set_rate(0.05)
        optimiser.step(parameters.gradient(loss), 10.0)
    assert losses[-1] < 0.2 * losses[0]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    parameters = FlatParameters([("a", torch.ones(6, 4), False)], torch.device("cpu"), torch.float32)
    optimiser = MuonAdam(parameters, muon=False, weight_decay=0.0, average_decay=0.5)
    optimiser.set_rate(0.1)
    optimiser.step(torch.full((24,), float("nan")), 10.0)
    assert torch.equal(parameters.master, torch.ones(24))


def small_optimiser(fill: float) -> MuonAdam:
    values = [("a", torch.full((6, 4), fill), True), ("b", torch.full((6,), fill), False)]
    parameters = FlatParameters(values, torch.device("cpu"), torch.float32)
    return MuonAdam(parameters, muon=True, weight_decay=0.0, average_decay=0.998)


def test_state_returns_as_it_was_saved(tmp_path: Path) -> None:
    saved, restored = small_optimiser(0.123456789), small_optimiser(0.0)
    saved.momentum.fill_(0.5)
    save_state(tmp_path, saved, small_optimiser(1.5), {"steps": 7})
    critic = small_optimiser(0.0)
    assert load_state(tmp_path, restored, critic) == {"steps": 7}
    assert torch.allclose(restored.parameters.master, saved.parameters.master, rtol=1e-5)
    assert torch.equal(restored.momentum, saved.momentum)
    assert critic.parameters.master[0] == 1.5


def test_a_resumed_training_steps_like_one_that_was_not_interrupted(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)

    def step(optimiser: MuonAdam, gradient: torch.Tensor) -> torch.Tensor:
        before = optimiser.parameters.master.clone()
        optimiser.set_rate(1e-3)
        optimiser.step(gradient, 10.0)
        return optimiser.parameters.master - before

    going_on, resumed = small_optimiser(0.5), small_optimiser(0.0)
    for _ in range(300):
        step(going_on, 1 + torch.randn(30, generator=random))
    save_state(tmp_path, going_on, small_optimiser(0.0), {"steps": 300})
    load_state(tmp_path, resumed, small_optimiser(0.0))
    gradient = 1 + torch.randn(30, generator=random)
    assert torch.allclose(step(resumed, gradient), step(going_on, gradient), rtol=0.02, atol=1e-5)
    assert torch.allclose(resumed.parameters.average, going_on.parameters.average, atol=1e-3)


def test_a_save_that_breaks_off_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, small_optimiser(1.0), small_optimiser(1.0), {"steps": 7})

    def full_disk(path: Path, data: bytes) -> None:
        if path.name == "state.json":
            raise OSError("no space left")
        write_atomically(path, data)

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as change:
        change.setattr("training.state.write_atomically", full_disk)
        with pytest.raises(OSError):
            save_state(tmp_path, small_optimiser(2.0), small_optimiser(2.0), {"steps": 8})
    assert sorted(tmp_path.iterdir()) == before, "what does not count takes room"
    restored = small_optimiser(0.0)
    assert load_state(tmp_path, restored, small_optimiser(0.0)) == {"steps": 7}
    assert restored.parameters.master[0] == 1.0
    (tmp_path / ".0123456789abcdef.part").write_bytes(b"half of it, when it was killed")
    (tmp_path / "critic-6.part").write_bytes(b"half of it, when it was killed")
    save_state(tmp_path, small_optimiser(2.0), small_optimiser(2.0), {"steps": 8})
    assert {path.name for path in tmp_path.iterdir()} == {*(f"{part}-8.safetensors" for part in PARTS), "state.json"}


def test_a_state_goes_on_only_with_a_network_of_its_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_state(tmp_path, small_optimiser(1.0), small_optimiser(1.0), {"steps": 7, "recipe": asdict(Recipe())})
    check_resumable(read_recipe('{"rate": 0.5}'), tmp_path)
    assert "rate 0.002 -> 0.5" in capsys.readouterr().out
    with pytest.raises(ValueError, match="blocks 9 -> 12"):
        check_resumable(read_recipe('{"blocks": 12}'), tmp_path)
    with pytest.raises(ValueError, match="ratee"):
        read_recipe('{"ratee": 1}')
    for shares in ('{"thickk": 1}', '{"thick": 0}', '{"thick": 2, "thin": -1}', "{}"):
        with pytest.raises(ValueError, match="kind_shares"):
            read_recipe(f'{{"kind_shares": {shares}}}')
    for shares in ('{"thick": "much"}', "3"):
        with pytest.raises(ValueError, match="can't be used"):
            read_recipe(f'{{"kind_shares": {shares}}}')


def test_every_card_goes_by_the_first_ones_clock_from_the_first_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    first = iter(float(second) for second in range(100))
    monkeypatch.setattr("torch.distributed.broadcast", lambda tensor, source: tensor.fill_(next(first)))
    clock = SharedClock(2, torch.device("cpu"))
    reads = [clock.read(1000.0 + step) for step in range(2 * ASK_CLOCK_EVERY)]
    assert reads == [(0.0,)] * ASK_CLOCK_EVERY + [(1.0,)] * ASK_CLOCK_EVERY
    assert SharedClock(1, torch.device("cpu")).read(7.0, 8.0) == (7.0, 8.0)


def test_spikes_of_a_gradient_are_held_photo_by_photo_and_all_else_stays() -> None:
    slope = torch.full((2, 3, 8, 8), 0.01)
    slope[:, :, 0, 0] = -0.01
    slope[0, 1, 2, 3], slope[0, 2, 4, 5] = 5.0, -7.0
    mask = torch.ones(2, 1, 8, 8)
    held = _limited(slope, mask, 4.0)
    limit = 4 * slope[0].abs().sum() / (3 * 64 + 1)
    assert torch.allclose(held[0, 1, 2, 3], limit) and torch.allclose(held[0, 2, 4, 5], -limit)
    usual = slope.abs() < 1
    assert torch.equal(held[usual], slope[usual])
    assert torch.equal(_limited(slope, mask, 0.0), slope)


def test_masks_repeat_by_seed_and_have_holes() -> None:
    assert np.array_equal(draw_mask(5), draw_mask(5))
    shares = [draw_mask(seed).mean() for seed in range(60)]
    assert draw_mask(0).shape == (MASK_PX, MASK_PX)
    assert np.mean([0.001 < share < 0.6 for share in shares]) > 0.9


def test_masks_are_of_the_kinds_asked_for() -> None:
    """A share of 0 is never drawn: spots and hair-thin strokes leave a small window nowhere covered, thick ones do."""
    window = np.ones((31, 31), np.uint8)
    covered = {
        kind: [cv2.erode(mask, window).any() for mask in draw_bank(30, 0, 1, {kind: 2.0, "text": 0.0})]
        for kind in ("thick", "blemish")
    }
    assert np.mean(covered["thick"]) > 0.8 and not any(covered["blemish"])
