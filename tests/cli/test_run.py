"""`fftlama run`: a command line of `iopaint run` works unchanged, and names, sizes and exit codes are IOPaint's."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli import main as cli
from cli import run as command
from cli.errors import CommandError
from cli.iopaint_options import PLUGINS_NOT_HERE, SWITCHES_PASSED_OVER, VALUES_PASSED_OVER
from config import Settings

ROOT = Path(cli.__file__).parents[1]
GREEN = (0, 255, 0)


class Engine:
    """Paints the hole green; stands in for the model, which has its own tests."""

    device = "cuda"

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.masks: list[np.ndarray] = []

    def repair(self, image: np.ndarray, mask: np.ndarray, **options: Any) -> SimpleNamespace:
        assert options == {"dilate_px": 0, "transparent": None}
        self.masks.append(mask)
        if image.shape[0] == 13:
            raise RuntimeError("CUDA error: unlucky\nsecond line")
        result = image.copy()
        result[mask] = (0, np.iinfo(image.dtype).max, 0)
        return SimpleNamespace(image=result, patches=[1] if mask.any() else [], notes=[])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    engine = Engine()

    def load(settings: Settings) -> Engine:
        engine.settings = settings
        return engine

    monkeypatch.setattr(command, "load_inpainter", load)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing-cached"))
    return engine


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a.png, b.JPG, c.jpeg of 24 x 32, and what IOPaint leaves alone: d.webp, sub/e.png, ._a.png."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(3)
    for name in ("a.png", "b.JPG", "c.jpeg", "d.webp", "sub/e.png"):
        picture = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        picture.save(folder / name, format="JPEG" if name == "b.JPG" else None)
    (folder / "._a.png").write_bytes(b"macOS")
    return folder


def mask_file(path: Path, *, level: int = 255, size: tuple[int, int] = (24, 32)) -> Path:
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = level
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def run(image: Path, mask: Path, output: Path, *more: object) -> int:
    words = ["run", "--image", image, "--mask", mask, "--output", output, *more]
    return cli.main([str(word) for word in words])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_green(path: Path) -> bool:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return bool((pixels[6:12, 8:16] == GREEN).all())


def test_every_photo_becomes_a_png_of_its_stem(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "new" / "out"
    assert run(photos, mask_file(tmp_path / "m.png"), out, "--model", "lama", "--device", "cpu") == 0
    assert names(out) == ["a.png", "b.png", "c.png"]
    assert all(is_green(out / name) and Image.open(out / name).format == "PNG" for name in names(out))
    assert engine.settings is not None and engine.settings.device == "cpu"
    assert capsys.readouterr().out.startswith("3 repaired, in ")
    before, after = (np.asarray(Image.open(folder / "a.png")) for folder in (photos, out))
    outside = ~engine.masks[0]
    assert np.array_equal(before[outside], after[outside])


def test_masks_of_a_folder_go_by_stem_and_a_photo_without_one_is_skipped(
    engine: Engine, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    mask_file(tmp_path / "masks" / "a.jpg")
    mask_file(tmp_path / "masks" / "c.png")
    assert run(photos, tmp_path / "masks", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["a.png", "c.png"]
    told = capsys.readouterr()
    assert "b.JPG: there is no mask for it" in told.err and "2 repaired, 1 without a mask" in told.out


@pytest.mark.parametrize(("level", "counts"), [(126, False), (127, True), (128, True)])
def test_a_mask_counts_from_127_up(engine: Engine, photos: Path, tmp_path: Path, level: int, counts: bool) -> None:
    assert run(photos / "a.png", mask_file(tmp_path / "m.png", level=level), tmp_path / "out") == 0
    assert engine.masks[0].any() == counts


def test_a_mask_of_another_size_is_brought_to_the_photos(engine: Engine, photos: Path, tmp_path: Path) -> None:
    assert run(photos / "a.png", mask_file(tmp_path / "m.png", size=(48, 128)), tmp_path / "out") == 0
    assert is_green(tmp_path / "out" / "a.png") and engine.masks[0].sum() == 6 * 8


@pytest.mark.parametrize("stored", [True, False])
def test_a_turned_photo_takes_a_mask_made_for_either_of_its_shapes(
    engine: Engine, tmp_path: Path, stored: bool
) -> None:
    """Other programs read the pixels as the file stores them, or as people see them."""
    picture = Image.fromarray(np.full((24, 32, 3), 90, np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    hole = np.zeros((24, 32), np.uint8)
    hole[:4, 20:] = 255  # upper right as stored, lower right as seen
    Image.fromarray(hole if stored else np.rot90(hole, -1)).save(tmp_path / "m.png")
    assert run(tmp_path / "turned.jpg", tmp_path / "m.png", tmp_path / "out") == 0
    shown = np.asarray(Image.open(tmp_path / "out" / "turned.png").convert("RGB"))
    assert shown.shape == (32, 24, 3)
    assert np.array_equal((shown == GREEN).all(axis=2), np.rot90(hole, -1) == 255)


def test_concat_puts_photo_mask_and_result_side_by_side(engine: Engine, photos: Path, tmp_path: Path) -> None:
    assert run(photos / "a.png", mask_file(tmp_path / "m.png"), tmp_path / "out", "--concat") == 0
    shown = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    photo, mask, result = np.split(shown, 3, axis=1)
    assert np.array_equal(photo, np.asarray(Image.open(photos / "a.png")))
    assert set(np.unique(mask)) == {0, 255} and (mask[6:12, 8:16] == 255).all()
    assert (result[mask[..., 0] == 255] == GREEN).all()


def test_photos_of_another_format_than_their_names_say_lose_no_result(engine: Engine, tmp_path: Path) -> None:
    """Two results had one name: one was lost, and both were counted. Masks and photos could be replaced as well."""
    folder, out, mask = tmp_path / "photos", tmp_path / "out", np.zeros((24, 32), np.uint8)
    folder.mkdir()
    out.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    for name, picture in zip(("a.jpg", "a.png", "b.jpg"), pixels, strict=True):
        Image.fromarray(picture).save(folder / name, "PNG")
    mask[4:9, 5:9] = 255
    Image.fromarray(mask).save(out / "b.png")
    before = (out / "b.png").read_bytes()
    assert run(folder, out / "b.png", out, "--keep-format") == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg.png", "a.png", "b.jpg.png", "b.png"]
    assert (out / "b.png").read_bytes() == before
    for name, picture in zip(("a.jpg.png", "a.png", "b.jpg.png"), pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(out / name))[mask == 0], picture[mask == 0])


def test_keep_format_keeps_name_and_format_and_an_empty_mask_changes_no_byte(
    engine: Engine, photos: Path, tmp_path: Path
) -> None:
    mask_file(tmp_path / "masks" / "b.png")
    mask_file(tmp_path / "masks" / "c.png", level=0)
    assert run(photos, tmp_path / "masks", tmp_path / "out", "--keep-format") == 0
    assert names(tmp_path / "out") == ["b.JPG", "c.jpeg"]
    assert Image.open(tmp_path / "out" / "b.JPG").format == "JPEG"
    assert (tmp_path / "out" / "c.jpeg").read_bytes() == (photos / "c.jpeg").read_bytes()


def test_one_bad_photo_does_not_stop_the_others(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    (photos / "b.JPG").write_bytes(b"\xff\xd8\xff broken")
    Image.new("RGB", (32, 13)).save(photos / "bb.png")
    assert run(photos, mask_file(tmp_path / "m.png"), tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["a.png", "c.png"]
    told = capsys.readouterr()
    assert "b.JPG: " in told.err and "bb.png: CUDA error: unlucky\n" in told.err and "2 failed" in told.out


def test_names_that_move_the_cursor_or_are_no_text_stop_nothing(
    engine: Engine, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    (photos / "broken\x1b[31m\n.png").write_bytes(b"no picture")
    os.link(photos / "a.png", os.fsencode(photos) + b"/\xff\xfe.png")
    (photos / "away.png").symlink_to(tmp_path / "none.png")
    masks = tmp_path / "masks"
    for name in ("a.png", "broken\x1b[31m\n.png"):
        mask_file(masks / name)
    os.link(masks / "a.png", os.fsencode(masks) + b"/\xff\xfe.png")
    assert run(photos, masks, tmp_path / "out") == 1
    told = capsys.readouterr()
    assert "\x1b" not in told.err and "2 repaired" in told.out and "1 failed" in told.out
    assert set(os.listdir(os.fsencode(tmp_path / "out"))) == {b"a.png", b"\xff\xfe.png"}  # noqa: PTH208


def test_an_empty_folder_ends_as_iopaint_does(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", mask_file(tmp_path / "m.png"), tmp_path / "out") == 255
    assert "has no photos in it" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("image", "mask", "output", "more", "says"),
    [
        ("nowhere", "m.png", "out", (), "--image"),
        ("photos", "nowhere", "out", (), "--mask"),
        ("photos", "m.png", "m.png", (), "is a file"),
        ("photos/a.png", "photos", "out", (), "a single photo needs a single mask"),
        ("photos", "m.png", "photos", (), "would overwrite"),
        ("photos", "m.png", ".", ("--model", "migan"), "there is no model 'migan' here; there are: lama, lama-compact"),
        ("photos", "m.png", "out", ("--device", "tpu"), "there are cpu, cuda, mps and auto"),
        ("photos", "m.png", "out", ("--config", "nowhere.json"), "can't be read"),
        ("photos", "m.png", "out", ("--keep-format", "--concat"), "do not go together"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_done(
    engine: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any,
    image: str, mask: str, output: str, more: tuple[str, ...], says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    mask_file(tmp_path / "m.png")
    before = sorted(path for path in tmp_path.rglob("*"))
    assert run(Path(image), Path(mask), Path(output), *more) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert sorted(path for path in tmp_path.rglob("*")) == before and engine.settings is None


def test_two_photos_of_one_stem_are_refused_and_pass_with_their_own_names(
    engine: Engine, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    (photos / "a.jpg").write_bytes((photos / "c.jpeg").read_bytes())
    mask = mask_file(tmp_path / "m.png")
    assert run(photos, mask, tmp_path / "out") == 2
    assert "would both become" in capsys.readouterr().err
    assert run(photos, mask, tmp_path / "out", "--keep-format") == 0
    assert names(tmp_path / "out") == ["a.jpg", "a.png", "b.JPG", "c.jpeg"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hd_strategy": "Resize", "hd_strategy_resize_limit": "2048", "unheard": 1}, ""),
        ({"sd_scale": 7}, "sd_scale"),
        ([1, 2], "the file"),
        ("{", "is no JSON"),
    ],
)
def test_a_config_is_checked_as_iopaint_checks_it(
    engine: Engine, photos: Path, tmp_path: Path, capsys: Any, fields: Any, says: str
) -> None:
    config = tmp_path / "config.json"
    config.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    code = run(photos / "a.png", mask_file(tmp_path / "m.png"), tmp_path / "out", "--config", config)
    assert code == (2 if says else 0)
    assert says in capsys.readouterr().err


def test_all_of_iopaints_options_are_taken(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    values = [word for name in VALUES_PASSED_OVER for word in (name, "7")]
    mask = mask_file(tmp_path / "m.png")
    assert run(photos / "a.png", mask, tmp_path / "out", *SWITCHES_PASSED_OVER, *values, "--no-half") == 0
    assert capsys.readouterr().err == ""
    assert run(photos / "a.png", mask, tmp_path / "out", *(f"--no-{n[2:]}" for n in SWITCHES_PASSED_OVER)) == 0
    assert capsys.readouterr().err == ""


def test_plugins_and_unknown_options_warn_and_pass(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    mask = mask_file(tmp_path / "m.png")
    assert run(photos / "a.png", mask, tmp_path / "out", *PLUGINS_NOT_HERE, "--turbo", "9", "--wild=1") == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(PLUGINS_NOT_HERE) + 2
    assert any("--turbo" in line for line in lines) and any("--wild=1" in line for line in lines)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "photo.png", "--image", "x", "--mask", "y", "--output", "z"])


def test_the_network_that_iopaint_has_fetched_is_used(
    engine: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FFTLAMA_WEIGHTS_DIR", str(tmp_path / "no-weights"))
    mask = mask_file(tmp_path / "m.png")
    for folder, more in ((tmp_path / "models", ("--model-dir", tmp_path / "models")), (tmp_path / "cache", ())):
        cached = folder / "torch" / "hub" / "checkpoints" / "big-lama.pt"
        cached.parent.mkdir(parents=True)
        cached.write_bytes(b"weights")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert run(photos / "a.png", mask, tmp_path / "out", *more) == 0
        assert engine.settings is not None and engine.settings.weights == str(cached)
    monkeypatch.setenv("FFTLAMA_WEIGHTS", "lama-compact")
    assert run(photos / "a.png", mask, tmp_path / "out") == 0
    assert engine.settings is not None and engine.settings.weights == "lama-compact", "what the person has set wins"
    # A container's user may have neither a home nor a name, and so no cache.
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/cache")
    assert run(photos / "a.png", mask, tmp_path / "out") == 0


def test_a_missing_card_becomes_the_cpu_with_a_warning(
    engine: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(photos / "a.png", mask_file(tmp_path / "m.png"), tmp_path / "out", "--device", "cuda") == 0
    assert engine.settings is not None and engine.settings.device == "cpu"
    assert "--device cuda: there is no such device here" in capsys.readouterr().err


def test_an_engine_that_can_not_be_had_is_one_sentence(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def load(_settings: Settings) -> None:
        raise CommandError("no such weights")

    monkeypatch.setattr(command, "load_inpainter", load)
    assert run(photos / "a.png", mask_file(tmp_path / "m.png"), tmp_path / "out") == 1
    assert capsys.readouterr().err == "fftlama: no such weights\n"
