"""Files that are no usable weights: each is refused with a sentence that says what it is, and none is executed."""

import io
import os
import pickle
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lama.checkpoint import CheckpointError, load_generator, save_generator
from lama.generator import Generator
from tests.support.hostile_weights import ATTACKS, archive_of


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Generator(2, 1).state_dict()


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    message = str(caught.value)
    assert str(path) in message and "Traceback" not in message
    return message


def test_a_file_in_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(CheckpointError, match="home folder that does not exist"):
        load_generator("~nobody-of-this-name/lama.ckpt")


def test_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    message = refusal(tmp_path / "big-lama.pt")
    assert "does not exist" in message and "fftlama weights get big-lama" in message


def test_folder_names_the_checkpoint_inside(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "best.ckpt").write_bytes(b"x")
    assert "best.ckpt" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 387\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\xef\xbb\xbf<html>quota exceeded</html>", "web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"just some notes\n", "text file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG image"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (bytes(5000), "no weight file"),
    ],
)
def test_other_files_are_recognised_by_content(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "big-lama.pt"
    file.write_bytes(content)
    assert words in refusal(file)


@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_truncated_files_are_called_truncated(
    tmp_path: Path, weights: dict[str, torch.Tensor], layout: str, kept: float
) -> None:
    file = tmp_path / "weights.bin"
    if layout == "safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=layout == "zip")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    assert "truncated" in refusal(file)


def test_flipped_bits_in_an_archive_are_noticed(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    file = tmp_path / "weights.pth"
    torch.save(weights, file)
    needle = weights["model.5.conv1.ffc.convl2l.weight"].numpy().tobytes()
    content = file.read_bytes()
    assert content.count(needle) == 1
    file.write_bytes(content.replace(needle, bytes(len(needle))))
    assert "checksum" in refusal(file)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["model.1.weight", "model.1.bias"], "without Fourier convolutions"),
        (["discriminator.model0.0.weight"], "discriminator"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "diffusion model"),
        (["image_encoder.pos_embed"], "Segment Anything"),
        (["layer1.0.conv1.weight", "fc.weight"], "ResNet"),
        (["foo.weight", "foo.bias"], "foo.weight"),
    ],
)
def test_another_network_is_named(tmp_path: Path, names: list[str], words: str) -> None:
    file = tmp_path / "other.safetensors"
    save_file({name: torch.rand(2) for name in names}, file)
    message = refusal(file)
    assert words in message and "Expected a LaMa generator" in message


def test_a_tensor_without_a_name_is_no_network(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    assert "without any named weights in it" in refusal(tmp_path / "tensor.pth")


def test_partial_match_is_summarised(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    changed = {**weights, "model.99.weight": torch.rand(2), "model.1.bn_l.bias": torch.rand(3)}
    del changed["model.5.conv2.bn_g.weight"]
    file = tmp_path / "partial.pth"
    torch.save(changed, file)
    message = refusal(file)
    assert "width 2 with 1 blocks" in message
    assert "1 missing (5.conv2.bn_g.weight)" in message
    assert "1 unexpected (99.weight)" in message
    assert "1.bn_l.bias (3,) instead of (2,)" in message


def test_a_generator_without_its_first_layer_is_called_so(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Beside a discriminator it was taken for one."""
    without = {f"generator.{name}": value for name, value in weights.items() if name != "model.1.ffc.convl2l.weight"}
    torch.save({"state_dict": {**without, "discriminator.model.0.weight": torch.zeros(2)}}, tmp_path / "w.ckpt")
    message = refusal(tmp_path / "w.ckpt")
    assert "a LaMa generator without its first layer" in message and "generator.model.1.ffc.convl2l.weight" in message


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    broken = {name: value.clone() for name, value in weights.items()}
    broken["model.5.conv1.ffc.convl2l.weight"].view(-1)[0] = float("nan")
    file = tmp_path / "nan.pth"
    torch.save(broken, file)
    assert "no finite numbers" in refusal(file)


class Attack:
    """Pickles as a call of `function` with `argument`: what a hostile weight file does."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.call


@pytest.mark.parametrize("old_layout", [False, True])
@pytest.mark.parametrize("builtin", [False, True])
def test_hostile_pickle_is_named_and_not_executed(
    tmp_path: Path, weights: dict[str, torch.Tensor], old_layout: bool, builtin: bool
) -> None:
    trace = tmp_path / "executed"
    attack = Attack(exec, f"open({str(trace)!r}, 'w')") if builtin else Attack(os.system, f"touch {trace}")
    file = tmp_path / "hostile.ckpt"
    torch.save({"state_dict": weights, "callbacks": attack}, file, _use_new_zipfile_serialization=not old_layout)
    assert "instructions to run" in refusal(file)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists(), "the attack would have worked on a careless reader"


def test_other_callables_in_a_pickle_are_inert(
    tmp_path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that only the file knows is not even imported; the weights beside it still load."""
    (tmp_path / "trapdoor.py").write_text("raise SystemExit('imported')\ndef spring(x): raise SystemExit('called')\n")
    module = type(sys)("trapdoor")

    def spring(_text: str) -> None:
        raise SystemExit("called")

    spring.__module__, spring.__qualname__ = "trapdoor", "spring"
    module.spring = spring  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trapdoor", module)
    file = tmp_path / "trap.ckpt"
    torch.save({"state_dict": weights, "hook": Attack(spring, "x")}, file)
    monkeypatch.delitem(sys.modules, "trapdoor")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_generator(file).width == 2
    assert "trapdoor" not in sys.modules


def rewritten_archive(source: Path, target: Path, changes: dict[str, bytes], compression: int) -> None:
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w", compression) as after:
        for name in before.namelist():
            after.writestr(name, changes.get(name.split("/", 1)[1], before.read(name)))


def test_storage_smaller_than_claimed_is_refused(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    honest, lying = tmp_path / "honest.pth", tmp_path / "lying.pth"
    torch.save(weights, honest)
    rewritten_archive(honest, lying, {"data/0": b"1234"}, zipfile.ZIP_STORED)
    assert "4 bytes where" in refusal(lying)


def test_compressed_weights_and_bombs_are_refused(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    honest, bomb = tmp_path / "honest.pth", tmp_path / "bomb.pth"
    torch.save(weights, honest)
    rewritten_archive(honest, bomb, {"data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1_000_000
    assert "compressed" in refusal(bomb)
    rewritten_archive(honest, bomb, {"data.pkl": bytes(70_000_000)}, zipfile.ZIP_DEFLATED)
    assert "16 MiB" in refusal(bomb)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02N" + b"r" + struct.pack("<I", 2**31 - 2) + b".",  # memo index that costs the C interpreter 32 GiB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # 1 TiB of bytes that are not there
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",  # lists in lists
        b"\x80\x02cmodule\n",
        b"\x80\x02}(K\x01K\x02K\x03u.",
        b"\x80\x02]q\x00h\x09.",
        b"garbage",
    ],
)
def test_damaged_descriptions_cost_no_memory(tmp_path: Path, pickled: bytes) -> None:
    file = tmp_path / "odd.pt"
    archive_of(file, pickled)
    assert refusal(file)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "words"), ATTACKS.values(), ids=list(ATTACKS))
def test_files_that_claim_much_are_refused_for_little(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """Two of them took 22 and 33 s and 4.8 GiB before the refusal."""
    file = tmp_path / "much.pt"
    make(file)
    assert words in refusal(file)


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [((10**6, 10**6), (0, 0), 0), ((4, 4), (4, 1), 1), ((16,), (-1,), 15), ((2,), (16,), 0), ((4,), (1, 1), 0)],
)
def test_tensor_that_reaches_past_its_storage_is_refused(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    class Writer(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 16) if value is storage else None

    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, stride, False, {})

    storage = object()
    stream = io.BytesIO()
    Writer(stream, 2).dump({"model.1.ffc.convl2l.weight": Tensor()})
    file = tmp_path / "reach.pt"
    archive_of(file, stream.getvalue())
    assert "damaged" in refusal(file)


@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_damaged_bytes_are_never_another_error(tmp_path: Path, weights: dict[str, torch.Tensor], layout: str) -> None:
    """Random damage used to come through as UnicodeDecodeError and BadZipFile from the zip directory."""
    file = tmp_path / "weights.bin"
    if layout == "safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=layout == "zip")
    content = file.read_bytes()
    chance = random.Random(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(3):  # the descriptions are at the beginning and, in a zip, at the end
            from_end = layout == "zip" and chance.random() < 0.8
            place = chance.randrange(6000)
            damaged[-place - 1 if from_end else place] = chance.randrange(256)
        file.write_bytes(damaged)
        try:
            load_generator(file)
        except CheckpointError:
            refused += 1
    assert refused > 20


def test_zip_with_a_checkpoint_inside_says_to_unpack_it(tmp_path: Path) -> None:
    file = tmp_path / "big-lama.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("big-lama/models/best.ckpt", b"x")
    message = refusal(file)
    assert "unpack it" in message and "best.ckpt" in message


def test_width_and_depth_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "wide.safetensors"
    save_file({"model.1.ffc.convl2l.weight": torch.zeros(1000, 4, 7, 7, dtype=torch.float16)}, file)
    assert "width up to" in refusal(file)


def test_saving_refuses_what_float16_cannot_hold(tmp_path: Path) -> None:
    generator = Generator(2, 1)
    generator.state_dict()["model.1.ffc.convl2l.weight"][0, 0, 0, 0] = 1e6
    with pytest.raises(CheckpointError, match="not finite"):
        save_generator(generator, tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())
