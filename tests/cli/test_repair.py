"""`fftlama repair`: files and folders, formats kept, going on after a stop, and one bad file among good ones."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli import main as cli
from tests.support.green_engine import Engine


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of small pictures: a.png, b.JPG (with EXIF), sub/c.webp, d.gif."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rows, columns = np.mgrid[:24, :32].astype(np.uint8)
    picture = Image.fromarray(np.stack([rows * 8, columns * 2, columns * 7], axis=2))
    exif = picture.getexif()
    exif[0x010F] = "A camera"
    picture.save(folder / "a.png")
    picture.save(folder / "b.JPG", format="JPEG", exif=exif)
    picture.save(folder / "sub" / "c.webp", lossless=True)
    picture.quantize(64).save(folder / "d.gif")
    return folder


def write_mask(path: Path, *, holes: bool = True, size: tuple[int, int] = (24, 32)) -> Path:
    mask = np.zeros(size, np.uint8)
    mask[4:18, 6:26] = 255 * holes
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def repair(*arguments: object) -> int:
    return cli.main(["repair", *map(str, arguments)])


def lines(capsys: Any) -> list[dict[str, Any]]:
    """What was told to programs, a row a photo and the summary."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def summary(capsys: Any) -> dict[str, Any]:
    return lines(capsys)[-1]


def green(path: Path) -> bool:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return bool((abs(pixels[8:14, 12:20] - (0, 255, 0)) < 40).all())


def test_one_photo_keeps_format_and_metadata(engine: Engine, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jpg"
    assert repair(photos / "b.JPG", write_mask(tmp_path / "m.png"), out) == 0
    assert green(out)
    with Image.open(out) as result:
        assert result.format == "JPEG" and result.getexif()[0x010F] == "A camera"


def test_known_region_is_byte_exact_in_a_lossless_format(engine: Engine, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "a.png"
    assert repair(photos / "a.png", write_mask(tmp_path / "m.png"), out) == 0
    before, after = (np.asarray(Image.open(path)).copy() for path in (photos / "a.png", out))
    before[4:18, 6:26] = after[4:18, 6:26]
    assert (before == after).all() and green(out)


def test_ending_of_the_target_chooses_the_format(engine: Engine, photos: Path, tmp_path: Path) -> None:
    assert repair(photos / "b.JPG", write_mask(tmp_path / "m.png"), tmp_path / "out.png") == 0
    assert Image.open(tmp_path / "out.png").format == "PNG"


def test_one_photo_into_a_folder_keeps_its_name(engine: Engine, photos: Path, tmp_path: Path) -> None:
    assert repair(photos / "a.png", write_mask(tmp_path / "m.png"), tmp_path / "new") == 0
    assert green(tmp_path / "new" / "a.png")


def test_folder_is_repaired_with_its_sub_folders(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    masks = tmp_path / "masks"
    for name in ("a_mask.png", "B.png", "sub/c.png", "d.bmp"):
        write_mask(masks / name)
    out = tmp_path / "out"
    assert repair(photos, masks, out) == 0
    results = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert results == ["a.png", "b.JPG", "d.gif.png", "sub/c.webp"]
    assert all(green(out / name) for name in results)
    assert Image.open(out / "b.JPG").format == "JPEG"
    assert summary(capsys)["summary"] == "4 repaired"


def test_one_mask_serves_a_whole_folder(engine: Engine, photos: Path, tmp_path: Path) -> None:
    assert repair(photos, write_mask(tmp_path / "logo.png"), tmp_path / "out") == 0
    assert len(engine.options) == 4


def test_masks_may_lie_beside_their_photos(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    write_mask(photos / "a_mask.png")
    write_mask(photos / "sub" / "c-mask.png")
    assert repair(photos, photos, photos / "out") == 0
    assert green(photos / "out" / "a.png") and green(photos / "out" / "sub" / "c.webp")
    assert len(engine.options) == 2, "neither masks nor photos without one are repaired"
    captured = capsys.readouterr()
    assert "2 repaired, 2 without a mask" in captured.out and "b.JPG: no mask" in captured.err
    assert repair(photos, photos, photos / "out") == 0, "results inside the folder are no photos"
    assert len(engine.options) == 2


def test_second_run_goes_on_with_the_rest(
    engine: Engine, photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, out = write_mask(tmp_path / "m.png"), tmp_path / "out"
    assert repair(photos, mask, out) == 0
    (out / "sub" / "c.webp").unlink()
    (out / "a.png").write_bytes(b"touched")
    capsys.readouterr()
    assert repair(photos, mask, out) == 0
    assert "1 repaired, 3 there already" in capsys.readouterr().out
    assert (out / "a.png").read_bytes() == b"touched" and green(out / "sub" / "c.webp")
    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: pytest.fail("the model is not needed"))
    assert repair(photos, mask, out) == 0
    monkeypatch.undo()
    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: engine)
    assert repair(photos, mask, out, "--overwrite") == 0
    assert green(out / "a.png")


def test_bad_files_do_not_stop_the_rest(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    (photos / "aa_broken.png").write_bytes(b"no picture at all")
    (photos / "ab_empty.jpg").write_bytes(b"")
    Image.new("RGB", (50, 13)).save(photos / "ac_unlucky.png")
    masks = tmp_path / "masks"
    for name in ("a", "aa_broken", "ab_empty", "b", "d"):
        write_mask(masks / f"{name}.png")
    write_mask(masks / "ac_unlucky.png", size=(13, 50))
    write_mask(masks / "sub" / "c.png", size=(9, 9))
    assert repair(photos, masks, tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "3 repaired, 4 failed" in captured.out
    assert "c.webp: The mask is 9 x 9" in captured.err and "Traceback" not in captured.err
    assert "ac_unlucky.png: CUDA error: unlucky\n" in captured.err and "second line" not in captured.err
    assert not list((tmp_path / "out").rglob("*.part"))


def test_empty_mask_gives_the_same_bytes(engine: Engine, photos: Path, tmp_path: Path) -> None:
    assert repair(photos / "b.JPG", write_mask(tmp_path / "m.png", holes=False), tmp_path / "out.jpg") == 0
    assert (tmp_path / "out.jpg").read_bytes() == (photos / "b.JPG").read_bytes()


def test_options_reach_the_engine(engine: Engine, photos: Path, tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "m.png")
    assert repair(photos / "a.png", mask, tmp_path / "o", "--dilate-px", 3, "--feather-px", 1, "--quality", "high") == 0
    assert engine.options == [{"dilate_px": 3, "feather_px": 1, "quality": "high", "transparent": None}]


def test_limits_come_from_the_settings(
    engine: Engine, photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = photos / "big.bmp"
    Image.new("RGB", (1100, 1000)).save(big)
    mask = write_mask(tmp_path / "m.png", size=(1000, 1100))
    monkeypatch.setenv("FFTLAMA_MAX_IMAGE_MPX", "1")
    assert repair(big, mask, tmp_path / "out.bmp") == 1
    assert "megapixels" in capsys.readouterr().err
    monkeypatch.setenv("FFTLAMA_MAX_IMAGE_MPX", "2")
    monkeypatch.setenv("FFTLAMA_MAX_FILE_MIB", "1")
    assert repair(big, mask, tmp_path / "out.bmp") == 1
    assert "more than the 1 allowed" in capsys.readouterr().err


def own_photo(photos: Path, tmp_path: Path) -> tuple[object, ...]:
    return photos / "a.png", write_mask(tmp_path / "m.png"), photos / "a.png"


def own_folder(photos: Path, tmp_path: Path) -> tuple[object, ...]:
    return photos, write_mask(tmp_path / "m.png"), photos


def no_photo(photos: Path, tmp_path: Path) -> tuple[object, ...]:
    return photos / "none.png", write_mask(tmp_path / "m.png"), tmp_path / "out.png"


def odd_ending(photos: Path, tmp_path: Path) -> tuple[object, ...]:
    return photos / "a.png", write_mask(tmp_path / "m.png"), tmp_path / "out.xyz"


def file_for_folder(photos: Path, tmp_path: Path) -> tuple[object, ...]:
    return photos, write_mask(tmp_path / "m.png"), write_mask(tmp_path / "out.png")


def no_masks(photos: Path, tmp_path: Path) -> tuple[object, ...]:
    return photos, write_mask(tmp_path / "masks" / "other.png").parent, tmp_path / "out"


def no_photos(photos: Path, tmp_path: Path) -> tuple[object, ...]:
    return write_mask(tmp_path / "empty" / ".hidden.png").parent, write_mask(tmp_path / "m.png"), tmp_path / "out"


def unknown_profile(photos: Path, tmp_path: Path) -> tuple[object, ...]:
    return photos, write_mask(tmp_path / "m.png"), tmp_path / "out", "--device", "tpu"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (own_photo, "would overwrite"),
        (own_folder, "would overwrite"),
        (no_photo, "no such photo"),
        (odd_ending, ".xyz can't be written"),
        (file_for_folder, "is a file"),
        (no_masks, "no mask for any photo"),
        (no_photos, "no photos in it"),
        (unknown_profile, "device"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_exit_2(
    engine: Engine, photos: Path, tmp_path: Path, capsys: Any, wrong: Callable[..., tuple[object, ...]], words: str
) -> None:
    original = (photos / "a.png").read_bytes()
    assert repair(*wrong(photos, tmp_path)) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("fftlama: ") and captured.err.count("\n") == 1
    assert (photos / "a.png").read_bytes() == original and not engine.options


def test_ctrl_c_exits_130_and_leaves_whole_files(engine: Engine, photos: Path, tmp_path: Path, capsys: Any) -> None:
    """Several photos are repaired at once, so which of them were finished is not fixed."""
    calls = iter([None, None])
    plain = engine.repair

    def stopped(image: np.ndarray, mask: np.ndarray, **options: Any) -> SimpleNamespace:
        if next(calls, "stop") == "stop":
            raise KeyboardInterrupt
        return plain(image, mask, **options)

    engine.repair = stopped  # type: ignore[method-assign]
    mask, out = write_mask(tmp_path / "m.png"), tmp_path / "out"
    assert repair(photos, mask, out) == 130
    finished = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert len(finished) == 2 and all(green(out / name) for name in finished)
    assert "stopped" in capsys.readouterr().err
    engine.repair = plain  # type: ignore[method-assign]
    assert repair(photos, mask, out) == 0
    assert "2 repaired, 2 there already" in capsys.readouterr().out
    results = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert results == {"a.png", "b.JPG", "d.gif.png", "sub/c.webp"} and all(green(out / name) for name in results)
    assert all((out / name).read_bytes() == data for name, data in finished.items())


def test_real_model_repairs_a_real_file(photos: Path, tmp_path: Path) -> None:
    """The whole way with a small untrained generator: weights file, engine, imaging."""
    import torch

    from inference import Inpainter
    from lama.checkpoint import save_generator
    from lama.generator import Generator

    torch.manual_seed(0)
    save_generator(Generator(4, 1), tmp_path / "tiny.safetensors")
    mask = write_mask(tmp_path / "m.png")
    settings = ("--device", "cpu", "--weights", tmp_path / "tiny.safetensors")
    assert repair(photos / "a.png", mask, tmp_path / "out.png", "--dilate-px", 0, *settings) == 0
    before, after = (np.asarray(Image.open(path)) for path in (photos / "a.png", tmp_path / "out.png"))
    hole = np.asarray(Image.open(mask)) > 127
    np.testing.assert_array_equal(after[~hole], before[~hole])
    expected = Inpainter.load(tmp_path / "tiny.safetensors", device="cpu").repair(before, hole, dilate_px=0)
    np.testing.assert_array_equal(after, expected.image)
    assert (after != before).any(axis=2)[hole].mean() > 0.5, "along the edge a fill may equal the photo"


def test_bf16_on_a_cpu_without_it_is_one_sentence_and_exit_2(
    photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.devices.cpu_supports_bf16", lambda: False)
    mask, settings = write_mask(tmp_path / "m.png"), ("--device", "cpu", "--precision", "bf16")
    assert repair(photos / "a.png", mask, tmp_path / "out.png", *settings) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("fftlama: precision bf16") and "Traceback" not in captured.err
    assert not (tmp_path / "out.png").exists()


def test_unusable_weights_are_one_sentence(photos: Path, tmp_path: Path, capsys: Any) -> None:
    mask = write_mask(tmp_path / "m.png")
    assert repair(photos / "a.png", mask, tmp_path / "o.png", "--device", "cpu", "--weights", tmp_path / "no.pt") == 2
    assert "no.pt does not exist" in capsys.readouterr().err
