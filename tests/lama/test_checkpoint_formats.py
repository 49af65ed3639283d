"""Every weight file people have, written here with PyTorch or safetensors and loaded back bit-equal."""

import sys
import types
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lama.checkpoint import load_generator, save_generator
from lama.generator import Generator
from tests.support.networks import enliven

WIDTH, BLOCKS = 4, 2


@pytest.fixture(scope="module")
def original() -> Generator:
    torch.manual_seed(0)
    return enliven(Generator(WIDTH, BLOCKS))


def assert_same_function(loaded: Generator, original: Generator) -> None:
    assert (loaded.width, loaded.blocks) == (original.width, original.blocks)
    assert not loaded.training
    state = loaded.state_dict()  # once: to gather it takes as long as to load it
    for name, value in original.state_dict().items():
        got = state[name]
        assert got.dtype == value.dtype and got.device.type == "cpu" and torch.equal(got, value), name
    x = torch.rand(1, 4, 24, 40, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(loaded(x), original(x))


def prefixed(generator: Generator, prefix: str) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((prefix + name, value.clone()) for name, value in generator.state_dict().items())


def other_modules() -> dict[str, torch.Tensor]:
    """Tensors of a training checkpoint that are not the generator's, `model` in their names included."""
    return {
        "discriminator.model0.0.weight": torch.rand(8, 3, 4, 4),
        "discriminator.model1.1.running_mean": torch.rand(8),
        "loss_resnet_pl.impl.model.1.weight": torch.rand(3),
        "val_evaluator.model.layer.bias": torch.rand(3),
    }


@pytest.mark.parametrize("prefix", ["", "generator.", "model.generator.", "module.generator.", "state.net.", "ema_"])
@pytest.mark.parametrize("old_layout", [False, True])
def test_plain_state_dict_loads_with_any_prefix(
    tmp_path: Path, original: Generator, prefix: str, old_layout: bool
) -> None:
    file = tmp_path / "weights.pth"
    torch.save({**other_modules(), **prefixed(original, prefix)}, file, _use_new_zipfile_serialization=not old_layout)
    assert_same_function(load_generator(file), original)
    assert_same_function(load_generator(str(file)), original)


@pytest.mark.parametrize("old_layout", [False, True])
def test_training_checkpoint_with_foreign_classes_loads(
    tmp_path: Path, original: Generator, old_layout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning keeps callback classes and their states in the file; here the module they come from is gone."""
    gone = types.ModuleType("gone_lightning")
    for name in ("ModelCheckpoint", "AttributeDict"):
        setattr(gone, name, type(name, (dict,) if name == "AttributeDict" else (), {"__module__": "gone_lightning"}))
    monkeypatch.setitem(sys.modules, "gone_lightning", gone)
    callback = gone.ModelCheckpoint()
    callback.best = {"score": torch.tensor(0.5), "path": Path("/somewhere/last.ckpt")}
    optimizer = {"state": {0: {"step": 9, "exp_avg": torch.rand(4, 4)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    checkpoint = {
        "epoch": 39,
        "pytorch-lightning_version": "1.2.9",
        "callbacks": {gone.ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "output_writer": callback}},
        "optimizer_states": [optimizer],
        "hyper_parameters": gone.AttributeDict(width=WIDTH, save=callback),
        "state_dict": OrderedDict({**other_modules(), **prefixed(original, "generator.")}),
    }
    file = tmp_path / "best.ckpt"
    torch.save(checkpoint, file, _use_new_zipfile_serialization=not old_layout)
    monkeypatch.delitem(sys.modules, "gone_lightning")

    with pytest.raises(Exception, match=r"weights_only|gone_lightning"):
        torch.load(file, weights_only=True)
    assert_same_function(load_generator(file), original)
    assert "gone_lightning" not in sys.modules


@pytest.mark.parametrize(("copy", "own"), [("ema.", "generator."), ("ema_", "state.net.")])
def test_generator_wins_over_an_averaged_copy(tmp_path: Path, original: Generator, copy: str, own: str) -> None:
    averaged = enliven(Generator(WIDTH, BLOCKS))
    file = tmp_path / "both.ckpt"
    torch.save({"state_dict": {**prefixed(averaged, copy), **prefixed(original, own)}}, file)
    assert_same_function(load_generator(file), original)


def test_pickled_module_loads_without_its_class(tmp_path: Path, original: Generator) -> None:
    file = tmp_path / "module.pt"
    torch.save(original, file)
    assert_same_function(load_generator(file), original)


class PublishedWrapper(torch.nn.Module):
    """What the published big-lama.pt is a trace of: the training module, its generator and the masking around it."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.generator = generator
        self.model.discriminator = torch.nn.Conv2d(3, 2, 1)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        generator = self.model.get_submodule("generator")
        prediction = generator(torch.cat([image * (1 - mask), mask], dim=1))
        return mask * prediction + (1 - mask) * image


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [True, False])
def test_torchscript_archive_loads_without_running_it(
    tmp_path: Path, original: Generator, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "big-lama.pt"
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; the published file is a trace all the same
        if wrapped:
            traced = torch.jit.trace(PublishedWrapper(original), (image, mask))
        else:
            traced = torch.jit.trace(original, torch.cat([image, mask], dim=1))
        traced.save(str(file))
    monkeypatch.setattr(torch.jit, "load", None)
    loaded = load_generator(file)
    assert_same_function(loaded, original)
    assert loaded.state_dict()["model.1.bn_l.num_batches_tracked"] == 7


@pytest.mark.parametrize("prefix", ["", "generator."])
def test_safetensors_loads_with_any_prefix(tmp_path: Path, original: Generator, prefix: str) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({**other_modules(), **prefixed(original, prefix)}, file)
    assert_same_function(load_generator(file), original)


def test_loaded_weights_do_not_depend_on_the_file(tmp_path: Path, original: Generator) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(prefixed(original, ""), file)
    loaded = load_generator(file)
    file.write_bytes(bytes(file.stat().st_size))
    assert_same_function(loaded, original)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".old.pth", ".safetensors"])
def test_other_dtypes_become_float32(tmp_path: Path, original: Generator, dtype: torch.dtype, suffix: str) -> None:
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in original.state_dict().items()
    }
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=suffix == ".pth")
    expected = Generator(WIDTH, BLOCKS).eval()
    expected.load_state_dict({name: value.to(torch.float32) for name, value in weights.items()})
    assert_same_function(load_generator(file), expected)


def test_strided_and_shared_tensors_are_read_as_they_look(tmp_path: Path, original: Generator) -> None:
    weights = prefixed(original, "")
    for name, value in weights.items():
        if value.ndim == 4:
            weights[name] = value.contiguous(memory_format=torch.channels_last)
    shared = torch.cat([weights["model.1.bn_l.weight"], weights["model.1.bn_l.bias"]])
    weights["model.1.bn_l.weight"], weights["model.1.bn_l.bias"] = shared[:WIDTH], shared[WIDTH:]
    file = tmp_path / "views.pth"
    torch.save(weights, file)
    assert_same_function(load_generator(file), original)


def test_file_saved_on_a_gpu_loads_on_the_cpu(tmp_path: Path, original: Generator) -> None:
    """The device is a word in the pickle; it is replaced there, for want of a GPU."""
    file = tmp_path / "cuda.pth"
    torch.save(prefixed(original, "generator."), file, _use_new_zipfile_serialization=False)
    on_cpu, on_gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    content = file.read_bytes()
    assert on_cpu in content
    file.write_bytes(content.replace(on_cpu, on_gpu))
    assert_same_function(load_generator(file), original)


def test_missing_batch_counters_are_forgiven(tmp_path: Path, original: Generator) -> None:
    """Converters drop them, and only training reads them."""
    weights = {name: value for name, value in original.state_dict().items() if "num_batches" not in name}
    file = tmp_path / "converted.safetensors"
    save_file(weights, file)
    loaded = load_generator(file)
    x = torch.rand(1, 4, 16, 16)
    with torch.inference_mode():
        assert torch.equal(loaded(x), original(x))


def test_saved_generator_comes_back_to_float16_precision(tmp_path: Path, original: Generator) -> None:
    file = tmp_path / "trained.safetensors"
    file.write_bytes(b"an older file")
    save_generator(original, file, {"steps": "4000"})
    loaded = load_generator(file).state_dict()
    for name, value in original.state_dict().items():
        kept = value.half().float() if value.is_floating_point() and value.ndim > 1 else value
        assert torch.equal(loaded[name], kept), name
    assert list(tmp_path.iterdir()) == [file]
    (file.parent / "any").touch()
    assert file.stat().st_mode == (file.parent / "any").stat().st_mode, "safetensors makes files for their owner alone"


def test_embedded_weights_load_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = load_generator()
    assert next(generator.parameters()).dtype == torch.float32
    with torch.inference_mode():
        assert generator(torch.rand(1, 4, 16, 16)).shape == (1, 3, 16, 16)
