"""JPEG on the GPU (nvJPEG, through torchvision) beside libjpeg: bytes to array and array to bytes, end to end.

    python bench/jpeg.py [--out FOLDER] [--name NAME]

The program has a photo as an array on the host, so that decoding on the GPU includes the copy back and encoding the
copy there. Photos of 12 and 24 MP, smooth with grain, quality 90. Columns: median ms, and largest and mean difference
of the decoded pixels from libjpeg's (of 255), or the size of the file. Prints Markdown, then one JSON line, and writes
the same with the environment to FOLDER/NAME.json (default: bench/results, jpeg).
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RESULTS = Path(__file__).parent / "results"
SIZES = ((3000, 4000), (4000, 6000))
QUALITY = 90
GRAIN = 3.0
ROUNDS = 7


def main() -> None:
    """Time every codec at every size."""
    from bench.speed import environment

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="jpeg")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"environment": environment(), "rows": []}
    print(
        "| size | codec | decode ms | max / mean difference | encode ms | kB |\n|---|---|---|---|---|---|", flush=True
    )
    for height, width in SIZES:
        image = grainy(height, width)
        data = pillow_encode(image)
        expected = pillow_decode(data)
        for name, decode, encode in codecs():
            row: dict[str, Any] = {"size": f"{width}x{height}", "codec": name}
            try:
                row |= time_codec(image, data, expected, decode, encode)
            except Exception as error:  # a card or build without the codec must not cost the others their turn
                row["message"] = f"{type(error).__name__}: {error}"[:200]
            report["rows"].append(row)
            print(row_text(row), flush=True)
    (options.out / f"{options.name}.json").write_text(json.dumps(report, default=str))
    print(json.dumps(report, default=str))


def row_text(row: dict[str, Any]) -> str:
    """One Markdown row."""
    if "message" in row:
        return f"| {row['size']} | {row['codec']} | {row['message']} |"
    return (
        f"| {row['size']} | {row['codec']} | {row['decode_ms']:.1f} | {row['max']} / {row['mean']:.2f} "
        f"| {row['encode_ms']:.1f} | {row['kilobytes']} |"
    )


def grainy(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8, smooth with grain, so that the file is as large as a photo's."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    base = 128 + 80 * np.sin(x / 97)[..., None] * np.cos(y / 61)[..., None] * np.array([1.0, 0.7, 0.4], np.float32)
    base += random.standard_normal((height, width, 1), dtype=np.float32) * GRAIN
    return np.clip(base, 0, 255).astype(np.uint8)


def codecs() -> list[tuple[str, Callable[[bytes], np.ndarray], Callable[[np.ndarray], bytes]]]:
    """Name, decode and encode of each."""
    return [("libjpeg (Pillow)", pillow_decode, pillow_encode), ("nvJPEG (torchvision)", gpu_decode, gpu_encode)]


def pillow_decode(data: bytes) -> np.ndarray:
    """Bytes to (H, W, 3) uint8 on the host."""
    return np.asarray(Image.open(io.BytesIO(data)))


def pillow_encode(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 on the host to bytes."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def gpu_decode(data: bytes) -> np.ndarray:
    """The same on the GPU, the pixels copied back."""
    from torchvision.io import decode_jpeg

    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), device="cuda")
    return pixels.permute(1, 2, 0).contiguous().cpu().numpy()


def gpu_encode(image: np.ndarray) -> bytes:
    """The same on the GPU, the pixels copied there."""
    from torchvision.io import encode_jpeg

    pixels = torch.from_numpy(image).cuda().permute(2, 0, 1).contiguous()
    return encode_jpeg(pixels, quality=QUALITY).cpu().numpy().tobytes()


def time_codec(
    image: np.ndarray,
    data: bytes,
    expected: np.ndarray,
    decode: Callable[[bytes], np.ndarray],
    encode: Callable[[np.ndarray], bytes],
) -> dict[str, Any]:
    """Medians of both ways, after one untimed run each."""
    difference = np.abs(decode(data).astype(np.int16) - expected)
    size = len(encode(image))
    return {
        "decode_ms": _median_ms(lambda: decode(data)),
        "encode_ms": _median_ms(lambda: encode(image)),
        "max": int(difference.max()),
        "mean": float(difference.mean()),
        "kilobytes": size // 1000,
    }


def _median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


if __name__ == "__main__":
    main()
