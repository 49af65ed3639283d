"""The quality bench around its figures: protocols, overlays, peers, their cache, reports and pictures."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from bench import detection, quality
from bench.pairs import choose_photos
from bench.quality_figures import (
    Figures,
)
from bench.quality_overlays import OVERLAY_KINDS, draw_overlay, jpeg_round_trip
from bench.quality_peers import CLASSICAL, NetworkFill, dilate_as_repair, fill_biharmonic
from bench.quality_protocols import grow, list_photos, make_cases
from bench.quality_report import compare, markdown, verdict
from bench.quality_scores import Record, Setup, score
from bench.quality_sheet import MAX_FILE_BYTES, focus_window, save_small_jpeg, tint, write_credits
from bench.quality_sweep import make_fills, read_sweeps, read_variants
from inference import Inpainter
from masks.dilation import CropRules


def make_photo(height: int = 96, width: int = 120, seed: int = 0) -> np.ndarray:
    """Smooth colour with some texture: compressible, and unlike noise, fillable."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (6, 8, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def make_hole(height: int = 96, width: int = 120) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[20:50, 30:70] = True
    hole[0:5, 100:120] = True
    return hole


@pytest.fixture
def evaluation_set(tmp_path: Path) -> tuple[Path, Path]:
    """Two photos, one landscape and one portrait, with a thin and a thick mask each."""
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    photos.mkdir()
    for number, (height, width) in enumerate([(96, 120), (130, 90)]):
        cv2.imwrite(str(photos / f"{number}.png"), make_photo(height, width, number))
        for kind, thickness in (("thin", 3), ("thick", 25)):
            (masks / kind).mkdir(parents=True, exist_ok=True)
            mask = np.zeros((height, width), np.uint8)
            cv2.line(mask, (20, height // 2), (width - 20, height // 2 + 10), 255, thickness)
            cv2.imwrite(str(masks / kind / f"{number}.png"), mask)
    return photos, masks


def test_pairs_are_matched_by_photo_and_verdicts_know_the_direction() -> None:
    def record(method: str, photo: str, value: float) -> Record:
        return Record(method, photo, "thin", Figures(psnr=value, ssim=0.5, perceptual=value, seam=0.0))

    records = [record("ours", "a", 1.0), record("ours", "b", 11.0), record("peer", "b", 10.0), record("peer", "a", 0.0)]
    interval = compare([*records, record("peer", "c", 99.0)], "ours", "peer", "thin", "psnr")
    assert interval == pytest.approx((1.0, 1.0, 1.0))
    assert verdict((1.0, 0.5, 1.5), "psnr") == "better"
    assert verdict((1.0, 0.5, 1.5), "perceptual") == "worse"
    assert verdict((-1.0, -1.5, -0.5), "seam") == "better"
    assert verdict((0.5, -0.5, 1.5), "ssim") == "open"


def test_bars_are_held_against_ours_and_the_bare_network_beside_it() -> None:
    psnr_db = {"telea": 25.0, "w": 27.5, "w, rim not matched": 26.9}
    records = [Record(name, "a", "thin", Figures(value, 0.9, 0.1, 1.0)) for name, value in psnr_db.items()]
    text = markdown(records, ["thin"], ["w"], protocol="network", environment={})
    assert "| w: bar | met by 0.50 |" in text
    assert "| w, rim not matched: bar | missed by 0.10 |" in text
    assert "telea: bar" not in text


@pytest.mark.parametrize("kind", OVERLAY_KINDS)
def test_overlays_are_the_same_every_time_and_change_nothing_where_alpha_is_zero(kind: str) -> None:
    clean = make_photo(200, 260)
    before = clean.copy()
    drawn, alpha = draw_overlay(clean, kind, seed=7)
    again, alpha_again = draw_overlay(clean, kind, seed=7)
    other, _ = draw_overlay(clean, kind, seed=8)
    assert np.array_equal(clean, before)
    assert np.array_equal(drawn, again) and np.array_equal(alpha, alpha_again)
    assert not np.array_equal(drawn, other)
    assert np.array_equal(drawn[alpha == 0], clean[alpha == 0])
    assert 0.001 < (alpha > 0.5).mean() < 0.3
    assert ((alpha > 0.05) & (alpha < 0.5)).any(), "the rim is antialiased"


def test_overlay_case_is_jpeg_and_scored_sixteen_pixels_beyond_its_mask(evaluation_set: tuple[Path, Path]) -> None:
    photos, _ = evaluation_set
    case = next(make_cases(photos / "0.png", "overlay", ["logo"], None))
    drawn, alpha = draw_overlay(case.clean, "logo", seed=quality_seed("0", "logo"))
    assert np.array_equal(case.given, jpeg_round_trip(drawn))
    assert np.array_equal(case.hole, alpha > 0.5)
    y, x = np.nonzero(case.hole)
    grid_y, grid_x = np.mgrid[: case.hole.shape[0], : case.hole.shape[1]]
    nearest_px = np.sqrt(((grid_y[..., None] - y) ** 2 + (grid_x[..., None] - x) ** 2).min(-1))
    assert np.array_equal(case.scored, nearest_px <= 16)


def quality_seed(photo: str, kind: str) -> int:
    """The published rule, written again: CRC-32 of `photo/kind`."""
    import binascii

    return binascii.crc32(f"{photo}/{kind}".encode("ascii"))


def test_network_case_is_the_centre_square_with_every_touched_pixel_as_hole(evaluation_set: tuple[Path, Path]) -> None:
    photos, masks = evaluation_set
    case = next(make_cases(photos / "1.png", "network", ["thin"], masks))
    square = np.asarray(Image.open(photos / "1.png"))[20:110]
    mask = np.asarray(Image.open(masks / "thin" / "1.png"))[20:110]
    assert np.array_equal(case.given, cv2.resize(square, (512, 512), interpolation=cv2.INTER_AREA))
    assert np.array_equal(case.hole, cv2.resize(mask, (512, 512), interpolation=cv2.INTER_AREA) > 0)
    assert case.scored is case.hole and case.clean is case.given


@pytest.mark.parametrize("name", CLASSICAL)
def test_peers_change_the_hole_only_and_fill_a_flat_image_flat(name: str) -> None:
    image, hole = make_photo(), make_hole()
    before = image.copy()
    filled = CLASSICAL[name](image, hole)
    assert np.array_equal(image, before)
    assert np.array_equal(filled[~hole], image[~hole])
    assert not np.array_equal(filled[hole], image[hole])
    flat = np.full_like(image, 90)
    flat[hole] = 0
    # Telea adds gradients taken beside the hole, which costs it a few levels even here.
    assert np.abs(CLASSICAL[name](flat, hole).astype(int) - 90).max() <= 4


def test_biharmonic_in_a_window_is_scikit_images_on_the_whole_image() -> None:
    from skimage.restoration import inpaint_biharmonic  # SciPy takes a second, and not every run needs it

    image, hole = make_photo(), np.zeros((96, 120), bool)
    hole[40:60, 50:70] = True
    expected = np.rint(inpaint_biharmonic(image, hole, channel_axis=2) * 255)
    assert np.abs(fill_biharmonic(image, hole).astype(int) - expected).max() <= 1


def test_grown_like_the_repair_holds_the_hole_and_a_fixed_radius_is_a_disc() -> None:
    hole = make_hole()
    assert not (hole & ~dilate_as_repair(hole, None)).any()
    assert np.array_equal(dilate_as_repair(hole, None, dilate_px=5), grow(hole, 5))
    assert np.array_equal(dilate_as_repair(hole, None, dilate_px=0), hole)


def test_peers_are_scored_once_and_again_when_the_photo_changes(
    evaluation_set: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, masks = evaluation_set
    calls: list[str] = []
    telea = CLASSICAL["telea"]

    def counted_telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        calls.append("telea")
        return telea(image, hole)

    monkeypatch.setitem(CLASSICAL, "telea", counted_telea)
    setup = Setup("photo", (photos / "0.png",), ("thin", "thick"), masks, None, tmp_path / "cache")
    first = score(setup, ["telea"])
    assert len(calls) == 2
    # Compared as text: the perceptual figure is NaN here, which equals nothing.
    assert repr(score(setup, ["telea"])) == repr(first)
    assert len(calls) == 2
    cv2.imwrite(str(photos / "0.png"), make_photo(seed=5))
    assert repr(score(setup, ["telea"])) != repr(first)
    assert len(calls) == 4


def test_network_fill_takes_the_prediction_inside_the_hole_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    class Orange(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, *x.shape[2:])

    import lama.checkpoint

    monkeypatch.setattr(lama.checkpoint, "load_generator", lambda path: Orange())
    image, hole = make_photo(), make_hole()
    fill = NetworkFill(None, device="cpu", form="published", rim=False)
    filled = fill(image, hole)
    assert np.array_equal(filled[~hole], image[~hole])
    assert (filled[hole] == (255, 128, 0)).all()
    assert (seen[0][0, :3, torch.from_numpy(hole)] == 0).all(), "the network must not see the hole"
    assert np.array_equal(seen[0][0, 3].numpy() > 0, hole)
    squeezed = fill.squeezed(image, hole)
    assert seen[1].shape == (1, 4, 512, 512)
    assert np.array_equal(squeezed[~hole], image[~hole]) and (squeezed[hole] == (255, 128, 0)).all()
    matched = NetworkFill(None, device="cpu", form="published")
    assert np.array_equal(matched.bare(image, hole), filled)
    met = matched(image, hole)
    assert np.array_equal(met[~hole], image[~hole])
    # Orange is far from this photo's colours; matched at the rim it comes nearer to them.
    assert np.abs(met[hole].astype(int) - image[hole]).mean() < np.abs(filled[hole].astype(int) - image[hole]).mean()


@pytest.mark.slow
def test_bench_writes_a_table_and_ends_in_one_json_line(
    evaluation_set: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, masks = evaluation_set
    folders = ["--photos", photos, "--masks", masks, "--cache", tmp_path / "cache"]
    choice = ["--protocol", "network", "--kinds", "thin,thick", "--every", "1", "--weights", "none"]
    quality.main([str(a) for a in [*folders, *choice, "--peers", "telea,navier-stokes", "--out", tmp_path / "out"]])
    printed = capsys.readouterr().out
    summary = json.loads(printed.splitlines()[-1])
    assert summary["means"]["telea"]["thin"]["psnr"] > 10
    assert "| telea |" in printed
    saved = json.loads((tmp_path / "out" / "quality-network-peers.json").read_text())
    assert len(saved["records"]) == 2 * 2 * 2
    assert (tmp_path / "out" / "quality-network-peers.md").read_text() in printed


def test_sweep_values_become_rules_and_options_of_the_repair() -> None:
    rules = CropRules()
    margins = read_variants("context_margin", "auto,0.5,0.75/64/256", dilate_px=None, rules=rules)
    assert [v.rules for v in margins] == [
        rules,
        replace(rules, margin_ratio=0.5),
        replace(rules, margin_ratio=0.75, min_margin_px=64, max_margin_px=256),
    ]
    assert {v.dilate_px for v in margins} == {0}
    dilations = read_variants("dilate", "auto,4,0.2+3", dilate_px=9, rules=rules)
    assert [v.dilate_px for v in dilations] == [9, 4, None]
    assert dilations[2].rules == replace(rules, dilate_ratio=0.2, dilate_extra_px=3)
    feathers = read_variants("feather", "auto,2", dilate_px=None, rules=rules)
    assert [(v.dilate_px, v.feather_px) for v in feathers] == [(None, None), (None, 2)]
    shadows = read_variants("shadow", "off,auto,3", dilate_px=None, rules=rules)
    assert [(v.dilate_px, v.rules.shadow_px) for v in shadows] == [(None, 0), (None, rules.shadow_px), (None, 3)]


def test_sweeps_of_one_run_share_what_the_repair_does_by_itself() -> None:
    variants = read_sweeps(["dilate=auto,0.1+3@1", "feather=auto,2"], dilate_px=None, rules=CropRules())
    assert [v.label for v in variants] == ["auto", "dilate 0.1+3@1", "feather 2"]
    assert (variants[1].rules.dilate_ratio, variants[1].rules.dilate_extra_px, variants[1].feather_px) == (0.1, 3, 1)
    (fast, high) = read_sweeps(["quality=fast,high/512"], dilate_px=None, rules=CropRules())
    assert (fast.quality, fast.input_px, high.quality, high.input_px) == ("fast", None, "high", 512)


def test_sweeps_of_two_protocols_are_refused(evaluation_set: tuple[Path, Path]) -> None:
    photos, masks = evaluation_set
    with pytest.raises(SystemExit):
        quality.main(["--photos", str(photos), "--masks", str(masks), "--sweep", "feather", "context_margin"])


@pytest.mark.slow
def test_processes_score_what_one_scores_and_stop_in_time(evaluation_set: tuple[Path, Path], tmp_path: Path) -> None:
    photos, masks = evaluation_set
    setup = Setup("photo", tuple(sorted(photos.iterdir())), ("thin", "thick"), masks, None, tmp_path / "cache")
    alone = score(setup, ["telea"])
    assert repr(score(setup, ["telea"], processes=2)) == repr(alone)
    assert score(setup, ["telea"], processes=2, seconds=0) == []


def test_a_variant_leaves_the_engine_as_it_was() -> None:
    class RecordingInpainter:
        crop_rules = CropRules()

        def repair(self, image: np.ndarray, mask: np.ndarray, **options: int | None) -> SimpleNamespace:
            used.append((self.crop_rules.margin_ratio, options["dilate_px"], options["feather_px"]))
            return SimpleNamespace(image=image)

    used: list[tuple[float, int | None, int | None]] = []
    inpainter = cast("Inpainter", RecordingInpainter())
    variants = read_variants("context_margin", "0.7", dilate_px=None, rules=inpainter.crop_rules)
    make_fills(lambda input_px: inpainter, variants)["context_margin 0.7"](make_photo(), make_hole())
    assert used == [(0.7, 0, None)]
    assert inpainter.crop_rules == CropRules()


def test_unknown_kind_is_refused_with_the_known_ones(evaluation_set: tuple[Path, Path]) -> None:
    photos, masks = evaluation_set
    with pytest.raises(SystemExit, match="blemish"):
        quality.main(["--photos", str(photos), "--masks", str(masks), "--kinds", "thinn", "--weights", "none"])


def test_focus_window_is_square_and_holds_the_hole() -> None:
    hole = np.zeros((300, 400), bool)
    hole[200:220, 350:390] = True
    rows, columns = focus_window(hole, smallest_px=100)
    assert rows.stop - rows.start == columns.stop - columns.start == 100
    assert hole[rows, columns].sum() == hole.sum()
    assert rows.stop <= 300 and columns.stop <= 400


def test_tint_leaves_the_photo_and_far_pixels_alone() -> None:
    image, hole = make_photo(), make_hole()
    before = image.copy()
    tinted = tint(image, hole)
    assert np.array_equal(image, before)
    assert np.array_equal(tinted[70:], image[70:])
    assert not np.array_equal(tinted[hole], image[hole])


def test_saved_sheet_keeps_its_size_limit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    size = save_small_jpeg(noise, tmp_path / "sheet.jpg")
    assert size == (tmp_path / "sheet.jpg").stat().st_size <= MAX_FILE_BYTES


def test_pairs_take_photos_evenly_and_none_twice() -> None:
    photos = [Path(f"{number:03}.jpg") for number in range(122)]
    chosen = choose_photos(photos, 30, start=100)
    assert chosen[0] == photos[100]
    assert len(set(chosen)) == 30
    with pytest.raises(SystemExit, match="30 photos; the folder has 9"):
        choose_photos(photos[:9], 30)


def test_credits_name_every_photo_of_the_picture_once(tmp_path: Path) -> None:
    sources = tmp_path / "sources.csv"
    sources.write_text(
        "file,source_repo,commit,path,licence,author,width,height,part\n"
        "a.jpg,example.org/set,0123456789abcdef,in/a.png,CC0,Ann,8,8,whole\n"
        "b.jpg,example.org/set,0123456789abcdef,in/b.png,CC BY 4.0,Bob,8,8,whole\n"
    )
    shown = {"object 1": Path("b.jpg"), "blemish 1": Path("a.jpg")}
    write_credits(tmp_path / "credits.txt", "Photos.", shown, sources)
    assert (tmp_path / "credits.txt").read_text().splitlines() == [
        "Photos.",
        "object 1: b.jpg; Bob; CC BY 4.0; example.org/set 0123456789ab in/b.png",
        "blemish 1: a.jpg; Ann; CC0; example.org/set 0123456789ab in/a.png",
    ]


def test_a_folder_without_photos_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a traceback, of bench/detection.py after all kinds had been drawn on no photo."""
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "torn.jpg").write_bytes(b"half of it")
    (tmp_path / "folder.jpg").mkdir()
    for folder, told in ((".", "no photos in"), ("torn", "can be read")):
        words = ["--photos", str(tmp_path / folder)]
        monkeypatch.setattr(sys, "argv", ["detection", *words])
        with pytest.raises(SystemExit, match=told):
            detection.main()
    for folder, told in (("gone", "is no folder"), (".", "no photos in")):
        with pytest.raises(SystemExit, match=told):
            list_photos(tmp_path / folder)
