"""Whether the exported ONNX file computes what the published form computes, in onnxruntime on the CPU.

    python bench/onnx_parity.py [--threads 2] [--weights FILE] [--out FOLDER]

Two networks, exported by lama/onnx_export.py: the included one (or --weights), and one of big-lama's size with random
weights and live batch-norm statistics. Inputs are noise with a hole: sizes whose eighth is even, odd, not square; a
batch of two. Columns: largest and mean difference from the published form in float32, of the range 0 to 1;
milliseconds of the second run of each, for the order of size alone. Prints a table and one JSON line, writes them to
FOLDER/onnx-parity.md, and ends with 1 when a difference is above the limit.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as `detection/` does
import onnxruntime  # noqa: E402

from bench import given  # noqa: E402
from bench.speed_model import random_generator  # noqa: E402
from lama.checkpoint import EMBEDDED_WEIGHTS, load_generator  # noqa: E402
from lama.generator import Generator  # noqa: E402
from lama.onnx_export import OPSET, export_onnx  # noqa: E402

LIMIT = 2e-4
SHAPES = ((1, 16, 16), (1, 24, 40), (2, 64, 72), (1, 200, 264), (1, 256, 256), (1, 512, 384), (1, 512, 512))


def masked_noise(batch: int, height: int, width: int) -> torch.Tensor:
    """Return an input of the network: noise with a rectangular hole, (B, 4, H, W)."""
    random = torch.Generator().manual_seed(height * width)
    mask = torch.zeros(batch, 1, height, width)
    mask[:, :, height // 4 : height // 2, width // 4 : 3 * width // 4] = 1
    return torch.cat([torch.rand(batch, 3, height, width, generator=random) * (1 - mask), mask], dim=1)


@torch.no_grad()
def measure(name: str, generator: Generator, file: Path, threads: int) -> list[dict[str, Any]]:
    """Export one network and compare it at every shape."""
    export_onnx(generator, file, name=name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    rows = []
    for shape in SHAPES:
        x = masked_noise(*shape)
        expected = generator(x).numpy()
        given = {"image": x[:, :3].numpy(), "mask": x[:, 3:].numpy()}
        session.run(None, given)
        began_s = time.perf_counter()
        difference = np.abs(np.asarray(session.run(None, given)[0]) - expected)
        rows.append(
            {
                "network": name,
                "file_mib": round(file.stat().st_size / 2**20, 1),
                "shape": "x".join(map(str, shape)),
                "largest": float(difference.max()),
                "mean": float(difference.mean()),
                "spread": float(expected.std()),
                "ms": round(1000 * (time.perf_counter() - began_s)),
            }
        )
    return rows


def main() -> int:
    """Measure, print and write, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--weights", type=given.file, default=EMBEDDED_WEIGHTS, help="a weights file; default: the included"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        networks = {
            options.weights.stem: load_generator(options.weights),
            "big-lama's size, random": random_generator(),
        }
        for name, generator in networks.items():
            rows += measure(name, generator, Path(folder) / "lama.onnx", options.threads)
    report = {
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "opset": OPSET,
        "processor": platform.processor() or platform.machine(),
        "threads": options.threads,
        "limit": LIMIT,
        "rows": rows,
    }
    lines = [
        "# The ONNX file against the published form",
        "",
        f"`python bench/onnx_parity.py`; onnxruntime {report['onnxruntime']} on the CPU, opset {OPSET}, PyTorch "
        f"{report['torch']}, {options.threads} threads. Difference of the range 0 to 1; at most {LIMIT:g} is allowed.",
        "",
        "| network | file, MiB | batch x height x width | largest difference | mean | output spread | ms |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['network']} | {row['file_mib']} | {row['shape']} | {row['largest']:.1e} | {row['mean']:.1e} | "
            f"{row['spread']:.2f} | {row['ms']} |"
            for row in rows
        ),
        "",
        json.dumps(report),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    (options.out / "onnx-parity.md").write_text(text, encoding="utf-8")
    return 1 if any(not row["largest"] <= LIMIT for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
