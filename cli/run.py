"""`fftlama run`: IOPaint's command for a photo or a folder of photos, with its options, names and rules.

A photo is a .png, .jpg or .jpeg file of the folder itself; its mask has its stem, or one mask serves all. A mask counts
where its brightness is 127 or more, whatever its transparency, and is brought to the photo's size by nearest
neighbours. The result is OUTPUT/STEM.png, which replaces a file of that name; with --keep-format it has the photo's own
format. What is different from IOPaint: photos are turned upright, and alpha, 16 bits and metadata stay.

Exit codes: 0 done, 1 a photo failed, 2 wrong arguments, 255 a folder without photos (as IOPaint ends).
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from cli.errors import EXIT_FAILED, EXIT_USAGE, CommandError, printable, sentence_of
from cli.iopaint_options import EXIT_AS_IOPAINT, choose_engine, make_parser, parse, warn
from cli.loading import load_inpainter
from cli.paths import is_file, is_folder, make_writable_folder, named_path, real_path
from config import Settings, load_settings
from imaging import Encoded, encode_photo, encode_png, format_of_name, open_photo
from imaging.atomic_write import remove_parts, write_atomically
from imaging.metadata import ORIENTATION
from imaging.photo import SIDEWAYS, Photo, turn_upright
from imaging.selection import read_brightness
from jobs.retention import PART_AGE_S

if TYPE_CHECKING:
    from inference import Inpainter

ENDINGS = (".png", ".jpg", ".jpeg")
BRIGHT_FROM = 127  # of 255; `iopaint run` counts 127 too, its routes do not
DILATE_PX = 0  # what is painted is meant: not a pixel more is changed, as with IOPaint's routes


def run_folder(arguments: Sequence[str]) -> int:
    """Repair what a command line of `iopaint run` names.

    Args:
        arguments: What follows `run`.

    Returns:
        The exit code.

    Raises:
        CommandError: The files do not fit together, or the model can't be had.
    """
    parser = make_parser("run", "Repair a photo or a folder of photos, with the options of `iopaint run`.")
    parser.add_argument("--image", type=named_path, required=True, help="photo, or folder of photos (png, jpg, jpeg)")
    parser.add_argument(
        "--mask", type=named_path, required=True, help="mask, one for all or a folder with the photos' names"
    )
    parser.add_argument("--output", type=named_path, required=True, help="folder to write to; made if missing")
    parser.add_argument("--config", type=named_path, help="JSON file with the fields of IOPaint's InpaintRequest")
    parser.add_argument(
        "--concat", action=argparse.BooleanOptionalAction, help="write photo, mask and result side by side"
    )
    parser.add_argument(
        "--keep-format", action="store_true", help="write each photo in its own format and name, instead of PNG"
    )
    chosen = parse(parser, arguments)
    settings = choose_engine(load_settings({}, serving=False), chosen)
    _check_config(chosen.config)
    if chosen.keep_format and chosen.concat:
        raise CommandError("--keep-format and --concat do not go together: side by side is always PNG", EXIT_USAGE)
    pairs = plan(chosen.image, chosen.mask, chosen.output, keep_format=chosen.keep_format)
    if not pairs:
        warn(f"{chosen.image} has no photos in it ({' '.join(ENDINGS)})")
        return EXIT_AS_IOPAINT
    make_writable_folder(chosen.output, "--output")
    remove_parts(chosen.output, age_s=PART_AGE_S)
    return _repair_all(pairs, settings, keep_format=chosen.keep_format, concat=bool(chosen.concat))


def plan(image: Path, mask: Path, output: Path, *, keep_format: bool) -> list[tuple[Path, Path | None, Path]]:
    """Return (photo, mask or None, result without checks of its format) in the order of names.

    Args:
        image: A photo or a folder.
        mask: A mask or a folder.
        output: The folder of the results.
        keep_format: Whether a result has its photo's ending instead of .png.

    Returns:
        A row for each photo; empty for a folder without any.

    Raises:
        CommandError: Something is missing, or a result would replace a photo, a mask or another result.
    """
    for path, option in ((image, "--image"), (mask, "--mask")):
        if not is_file(path) and not is_folder(path):  # nor a pipe, which might be waited for without end
            raise CommandError(f"{option} {path}: there is no such file or folder", EXIT_USAGE)
    if is_file(output):
        raise CommandError(f"--output {output} is a file; the results go into a folder", EXIT_USAGE)
    if is_file(image) and is_folder(mask):
        raise CommandError(f"--mask {mask} is a folder; a single photo needs a single mask", EXIT_USAGE)
    photos = _pictures(image) if is_folder(image) else [image]
    masks = _by_stem(_pictures(mask), photos) if is_folder(mask) else {}
    rows: list[tuple[Path, Path | None, Path]] = []
    taken: dict[Path, Path] = {}
    sources = {real_path(path) for path in (*photos, *masks.values(), *([mask] if is_file(mask) else []))}
    for photo in photos:
        target = output / (photo.name if keep_format else f"{photo.stem}.png")
        if real_path(target) in sources:
            raise CommandError(f"{target} would overwrite a photo or a mask; choose another --output", EXIT_USAGE)
        if target in taken:
            raise CommandError(f"{taken[target]} and {photo} would both become {target}; use --keep-format", EXIT_USAGE)
        taken[target] = photo
        rows.append((photo, masks.get(photo.stem) if is_folder(mask) else mask, target))
    return rows


def _by_stem(masks: Sequence[Path], photos: Sequence[Path]) -> dict[str, Path]:
    """Return the mask of each stem; of two, the one with exactly a photo's name.

    Args:
        masks: All masks.
        photos: All photos.

    Returns:
        Masks by their stem.

    Raises:
        CommandError: Two masks fit one photo equally well.
    """
    names = {path.name for path in photos}
    found: dict[str, Path] = {}
    for path in sorted(masks, key=lambda path: path.name in names):
        other = found.get(path.stem)
        if other and path.name not in names and any(photo.stem == path.stem for photo in photos):
            sentence = f"{other} and {path} fit the same photo; keep one of them, or give one exactly the photo's name"
            raise CommandError(sentence, EXIT_USAGE)
        found[path.stem] = path
    return found


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder itself, sorted; macOS's hidden twins (._x.jpg) are none."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith("."))
    return sorted(path for path in found if is_file(path))


def _check_config(file: Path | None) -> None:
    """Refuse a config that IOPaint would refuse; what it says of crops and diffusion changes nothing here."""
    if file is None:
        return
    from pydantic import ValidationError

    from web.iopaint_schema import InpaintRequest

    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        InpaintRequest.model_validate(fields)
    except OSError as error:
        raise CommandError(f"--config {file} can't be read: {error.strerror}", EXIT_USAGE) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CommandError(f"--config {file}: {where}: {first['msg']}", EXIT_USAGE) from error
    except ValueError as error:
        raise CommandError(f"--config {file} is no JSON: {error}", EXIT_USAGE) from error


def _repair_all(
    rows: list[tuple[Path, Path | None, Path]], settings: Settings, *, keep_format: bool, concat: bool
) -> int:
    began_s = time.monotonic()
    engine = load_inpainter(settings) if any(mask for _, mask, _ in rows) else None
    done = skipped = failed = 0
    taken = {real_path(path) for row in rows for path in row if path is not None}
    # None: a bar on a terminal, nothing where nobody looks.
    for photo, mask, target in tqdm(rows, unit="photo", disable=None):
        if mask is None or engine is None:
            tqdm.write(printable(f"{photo.name}: there is no mask for it; it is skipped"), file=sys.stderr)
            skipped += 1
            continue
        try:
            encoded = repair_pair(photo, mask, engine, settings, keep_format=keep_format, concat=concat)
            if format_of_name(target) != format_of_name(f"x{encoded.extension}"):
                target = _free_target(target, encoded.extension, taken)
            write_atomically(target, encoded.data)
            done += 1
        # ValueError is every room's own refusal; the last three are a full disk, memory, and CUDA's errors.
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            tqdm.write(printable(f"{photo.name}: {sentence_of(error)}"), file=sys.stderr)
            failed += 1
    counts = ((done, "repaired"), (skipped, "without a mask"), (failed, "failed"))
    words = ", ".join(f"{count} {what}" for count, what in counts if count)
    print(f"{words}, in {time.monotonic() - began_s:.1f} s")
    return EXIT_FAILED if failed else 0


def _free_target(target: Path, extension: str, taken: set[Path]) -> Path:
    """Return where a result goes whose format is not what its photo's name says; its name is taken from then on."""
    number = 1
    path = target.with_suffix(extension)
    while real_path(path) in taken:
        path = target.with_name(f"{target.name}{'' if number == 1 else f'_{number}'}{extension}")
        number += 1
    taken.add(real_path(path))
    return path


def repair_pair(
    photo_file: Path, mask_file: Path, engine: "Inpainter", settings: Settings, *, keep_format: bool, concat: bool
) -> Encoded:
    """Repair one photo with one mask.

    Args:
        photo_file: The photo.
        mask_file: The mask, of any size.
        engine: What repairs.
        settings: `max_file_mib` and `max_image_mpx` are read.
        keep_format: Whether the result has the photo's format, where it can be written, instead of PNG.
        concat: Whether photo, mask and result stand side by side in the answer, always as PNG.

    Returns:
        The result's file.

    Raises:
        ImagingError: One of the files is no picture, or too large.
    """
    max_bytes, max_px = settings.max_file_mib * 2**20, settings.max_image_mpx * 1_000_000
    data = photo_file.read_bytes()
    photo = open_photo(data, max_bytes=max_bytes, max_px=max_px)
    brightness = read_brightness(mask_file.read_bytes(), max_bytes=max_bytes, max_px=max_px)
    hole = _fit(brightness, photo, data) >= BRIGHT_FROM
    result = engine.repair(photo.image, hole, dilate_px=DILATE_PX, transparent=photo.transparent)
    if concat:
        return _side_by_side(photo.image, hole, result.image)
    if not keep_format:
        return encode_photo(photo, result.image, format="PNG")
    return encode_photo(photo, result.image) if result.patches else Encoded(data, "", photo_file.suffix)


def _fit(brightness: np.ndarray, photo: Photo, data: bytes) -> np.ndarray:
    """Bring a mask (H', W') to the photo's size; one made for the photo as its file stores it is turned with it."""
    height, width = photo.image.shape[:2]
    if brightness.shape == (width, height) and height != width:
        with Image.open(io.BytesIO(data)) as picture:
            orientation = picture.getexif().get(ORIENTATION, 1)
        if orientation in SIDEWAYS:
            return turn_upright(brightness[..., None], orientation)[..., 0]
    if brightness.shape == (height, width):
        return brightness
    return cv2.resize(brightness, (width, height), interpolation=cv2.INTER_NEAREST)


def _side_by_side(image: np.ndarray, hole: np.ndarray, result: np.ndarray) -> Encoded:
    shown = np.repeat((hole * np.iinfo(image.dtype).max).astype(image.dtype)[..., None], 3, axis=2)
    return Encoded(encode_png(np.concatenate([image, shown, result], axis=1), fast=False), "image/png", ".png")
