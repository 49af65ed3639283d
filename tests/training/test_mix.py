"""Mixing weights, and fitting the last convolution to more contrast."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lama.generator import Generator
from training import examples, mix, sharpen
from training.losses import fine_part
from training.teacher import mesh_of


def test_a_mix_is_the_weighted_sum_and_no_variance_is_negative(tmp_path: Path) -> None:
    first = {"a.weight": torch.tensor([1.0, 2.0]), "a.running_var": torch.tensor([4.0, 1e-3])}
    second = {"a.weight": torch.tensor([3.0, 0.0]), "a.running_var": torch.tensor([1.0, 8.0])}
    got = mix.mixed([(0.25, first), (0.75, second)])
    torch.testing.assert_close(got["a.weight"], torch.tensor([2.5, 0.5]))
    beyond = mix.mixed([(1.5, first), (-0.5, second)])
    torch.testing.assert_close(beyond["a.weight"], torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(beyond["a.running_var"][0], torch.tensor(8.0))
    assert (beyond["a.running_var"] > 0).all()
    for name, weights in (("first", first), ("second", second)):
        save_file(weights, tmp_path / name)
    mix.main([f"{tmp_path / 'first'}:1.5", f"{tmp_path / 'second'}:-0.5", "--out", str(tmp_path / "mixed")])
    torch.testing.assert_close(load_file(tmp_path / "mixed")["a.weight"].float(), beyond["a.weight"])


def test_what_cannot_be_mixed_leaves_the_file_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights whose statistics could not be measured were left in the place of good ones."""
    save_file(Generator(8, 1).state_dict(), tmp_path / "one")
    (tmp_path / "out").write_bytes(b"from before")
    (tmp_path / "small").mkdir()
    assert cv2.imwrite(str(tmp_path / "small" / "small.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "torn").write_bytes(b"half of it")
    save_file({"a": torch.ones(1)}, tmp_path / "another")
    command = [f"{tmp_path / 'one'}:1", "--out", str(tmp_path / "out")]
    refusals = {
        "photos or more": [*command, "--photos", str(tmp_path / "small")],
        "no photos below": [*command, "--photos", str(tmp_path / "out")],
        "no file 'gone'": [*command, "--late", "gone:1"],
        "'nan' is no share": [*command, "--late", f"{tmp_path / 'one'}:nan"],  # it compares with nothing: all were NaN
        "'x' is no share": [*command, "--late", f"{tmp_path / 'one'}:x"],
        "can't be read": [*command, "--late", f"{tmp_path / 'torn'}:1"],
        "of one form": [*command, "--late", f"{tmp_path / 'another'}:1"],
    }
    for told, words in refusals.items():
        with pytest.raises(SystemExit) as ended:
            mix.main(words)
        assert ended.value.code == 2 and told in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        mix.main([*command[:-1], str(tmp_path / "gone" / "out")])
    assert ended.value.code == 1 and "No such file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "one", "out", "small", "torn"]
    assert (tmp_path / "out").read_bytes() == b"from before"
    mix.main(command)
    assert (tmp_path / "out").stat().st_mode & 0o077, "others may read it, as the umask says"


def test_a_mix_refuses_other_forms_and_shares() -> None:
    weights = {"a": torch.ones(2)}
    with pytest.raises(ValueError, match="add up to 1"):
        mix.mixed([(0.5, weights), (0.6, weights)])
    with pytest.raises(ValueError, match="one form"):
        mix.mixed([(0.5, weights), (0.5, {"a": torch.ones(3)})])
    with pytest.raises(ValueError, match="one form"):
        mix.mixed([(0.5, weights), (0.5, {"b": torch.ones(2)})])


@pytest.mark.slow
def test_a_sharpened_network_has_more_contrast_and_the_same_colour(tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    for number in range(4):
        photo = cv2.resize(random.integers(0, 256, (96, 96, 3), np.uint8), (400, 400), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"{number}.png"), photo)
    save_file(Generator(8, 1).state_dict(), tmp_path / "before.safetensors")
    before = load_file(tmp_path / "before.safetensors")
    command = ["--weights", str(tmp_path / "before.safetensors"), "--photos", str(tmp_path), "--gain", "1.5"]
    sharpen.main([*command, "--out", str(tmp_path / "after.safetensors")])
    after = load_file(tmp_path / "after.safetensors")
    changed = {name for name in before if not torch.equal(before[name].half(), after[name])}
    last = max(int(name.split(".")[1]) for name in before)
    assert changed == {f"model.{last}.weight", f"model.{last}.bias"}

    image, mask = next(examples.draw_examples([tmp_path / "3.png"], 9, {"object": 1.0}))
    fills = []
    for state in (before, after):
        generator = Generator(8, 1)
        generator.load_state_dict({name: value.float() for name, value in state.items()})
        with torch.inference_mode():
            fills.append(generator.eval()(torch.cat([image * (1 - mask), mask], 1)))
    inner = mask[0, 0] > 0
    contrast = [float(fine_part(fill)[0, 0][inner].square().mean().sqrt()) for fill in fills]
    assert 1.2 < contrast[1] / contrast[0] < 1.8
    assert float((fills[1] - fills[0])[0][:, inner].mean().abs()) < 0.01


def test_sharpening_takes_some_of_the_mesh_away() -> None:
    """An untrained network's fill has a mesh, of which its last convolution can take a part away."""
    torch.manual_seed(1)
    generator = Generator(8, 1).eval()
    image, mask = torch.rand(1, 3, 96, 96), torch.zeros(1, 1, 96, 96)
    mask[..., 16:80, 16:80] = 1
    meshes = []
    for share in (0.0, 0.5):
        if share:
            sharpen.sharpen(generator, [(image, mask)] * 2, 1.0, mesh=share, ridge=1e-4, seed=1)
        with torch.inference_mode():
            fill = generator(torch.cat([image * (1 - mask), mask], 1)) * mask + image * (1 - mask)
        meshes.append(float(mesh_of(fill, mask).square().mean()))
    assert meshes[1] < 0.9 * meshes[0]


def test_sharpening_says_that_no_photo_has_room(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((16, 16, 3), np.uint8))
    none = examples.draw_examples([tmp_path / "small.png"], 1, {"object": 1.0})
    with pytest.raises(ValueError, match="no room"):
        sharpen.sharpen(Generator(8, 1).eval(), none, 1.2, ridge=1e-4, seed=1)


def test_late_shares_begin_with_the_first_upsampling(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = Generator(8, 1).state_dict(), Generator(8, 1).state_dict()
    got = mix.with_late(first, second)
    changed = {int(name.split(".")[1]) for name in got if got[name] is second[name]}
    kept = {int(name.split(".")[1]) for name in got if got[name] is first[name]}
    up = next(i for i, m in enumerate(Generator(8, 1).model) if isinstance(m, torch.nn.ConvTranspose2d))
    assert min(changed) == up and max(kept) < up


@pytest.mark.slow
def test_statistics_of_a_mix_are_measured_over_photos(tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    for number in range(mix.BATCH + 1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), random.integers(0, 256, (400, 390, 3), np.uint8))
    save_file(Generator(8, 1).state_dict(), tmp_path / "a.safetensors")
    out = tmp_path / "out.safetensors"
    mix.main([f"{tmp_path / 'a.safetensors'}:1", "--photos", str(tmp_path), "--out", str(out)])
    state = {name: value.float() for name, value in load_file(out).items()}
    generator = Generator(8, 1)
    generator.load_state_dict(state, strict=False)
    stem = next(m for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    photos = examples.draw_photos(tmp_path, 140, 11)
    drawn = [torch.cat([i * (1 - m), m], 1) for i, m in examples.draw_examples(photos, 11, mix.KIND_SHARES)]
    with torch.inference_mode():
        generator.eval()(torch.cat(drawn[: mix.BATCH]))
    torch.testing.assert_close(stem.running_mean, seen[0].mean((0, 2, 3)), atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(stem.running_var, seen[0].var((0, 2, 3)), atol=2e-3, rtol=1e-2)


def test_statistics_of_too_few_photos_are_refused() -> None:
    one = (torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="6 photos or more"):
        mix.measure_statistics(Generator(8, 1), [one] * (mix.BATCH - 1))
