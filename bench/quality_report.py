"""Own the written result: Markdown tables, intervals against each peer, the environment, one JSON line.

Works on records alone; knows no images. A table per figure has a row per method and a column per kind, means over
photos; below them the difference ours - peer with its 95 % interval (paired bootstrap over photos).
"""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bench.quality_figures import FIGURE_NAMES, HIGHER_IS_BETTER, paired_bootstrap
from bench.quality_kid import kernel_distance_interval
from bench.quality_methods import BARE_SUFFIX
from bench.quality_scores import LARGE_KINDS, Record

TITLES = {
    "psnr": "Hole PSNR, dB (higher is better)",
    "ssim": "Hole SSIM (higher is better)",
    "perceptual": "Perceptual distance on SqueezeNet features (lower is better)",
    "seam": "Seam error, grey levels (lower is better)",
}
LOOK_NAMES = ("texture", "periodic", "photo_periodic")  # figures of large holes only
DIGITS = {"psnr": 2, "ssim": 3, "perceptual": 3, "seam": 2}
# What the embedded weights have to reach on the network protocol; a perceptual bar is a part of Telea's distance.
NETWORK_BARS = {
    "psnr": {"thin": 27.0, "medium": 22.2, "thick": 18.6, "object": 18.6, "text": 27.2, "blemish": 25.9},
    "ssim": {"thin": 0.80, "medium": 0.60, "thick": 0.50, "object": 0.49, "text": 0.85, "blemish": 0.76},
}
PERCEPTUAL_BAR_OF_TELEA = 0.6
INTERVAL_LEGEND = "Difference with its 95 % interval; bold = better and clear of zero, *slanted* = worse and clear."


def method_values(records: Sequence[Record], method: str, kind: str, figure: str) -> dict[str, float]:
    """Return one figure of one method by photo."""
    return {r.photo: getattr(r.figures, figure) for r in records if r.method == method and r.kind == kind}


def mean_figure(records: Sequence[Record], method: str, kind: str, figure: str) -> float:
    """Return the mean over photos; NaN when the method has no case of this kind."""
    values = list(method_values(records, method, kind, figure).values())
    return float(np.mean(values)) if values else float("nan")


def compare(
    records: Sequence[Record], ours: str, peer: str, kind: str, figure: str
) -> tuple[float, float, float] | None:
    """Return (mean difference ours - peer, lower, upper) over the photos both have; None when there are none."""
    own, other = (method_values(records, method, kind, figure) for method in (ours, peer))
    photos = sorted(own.keys() & other.keys())
    if not photos:
        return None
    return paired_bootstrap([own[p] for p in photos], [other[p] for p in photos])


def verdict(interval: tuple[float, float, float], figure: str) -> str:
    """Return "better" or "worse" when the interval is clear of zero, else "open"."""
    _, low, high = interval if HIGHER_IS_BETTER[figure] else tuple(-v for v in (interval[0], interval[2], interval[1]))
    return "better" if low > 0 else "worse" if high < 0 else "open"


def unique_methods(records: Sequence[Record]) -> list[str]:
    """Return the methods in the order they first appear."""
    return list(dict.fromkeys(record.method for record in records))


def markdown(
    records: Sequence[Record], kinds: Sequence[str], ours: Sequence[str], *, protocol: str, environment: dict[str, Any]
) -> str:
    """Return the whole report as Markdown.

    Args:
        records: all figures of all methods.
        kinds: the columns.
        ours: methods that are compared with every other method.
        protocol: its name, for the title; "network" also gets the bars, for the bare prediction too.
        environment: from `read_environment`.

    Returns:
        a title, one table per measure, the comparisons, and the environment.
    """
    methods = unique_methods(records)
    counts = {kind: len({r.photo for r in records if r.kind == kind}) for kind in kinds}
    lines = [
        f"# Quality, {protocol} protocol",
        "",
        "Photos per kind: " + ", ".join(f"{k} {n}" for k, n in counts.items()),
    ]
    for figure in FIGURE_NAMES:
        if all(np.isnan(getattr(r.figures, figure)) for r in records):
            continue
        digits = DIGITS[figure]
        lines += ["", f"## {TITLES[figure]}", "", *_header(kinds)]
        for method in methods:
            lines.append(_row(method, [f"{mean_figure(records, method, k, figure):.{digits}f}" for k in kinds]))
        if protocol == "network":
            lines += _bar_rows(records, kinds, ours, figure)
        if ours:
            lines += ["", INTERVAL_LEGEND, "", *_header(kinds)]
        for own in ours:
            for peer in (m for m in methods if m not in ours):
                cells = [_interval_cell(compare(records, own, peer, kind, figure), figure) for kind in kinds]
                lines.append(_row(f"{own} - {peer}", cells))
    lines += _look_rows(records, kinds, methods)
    lines += _time_rows(records, kinds, methods)
    lines += ["", "## Environment", "", *(f"- {name}: {value}" for name, value in environment.items())]
    return "\n".join(lines) + "\n"


def brief(records: Sequence[Record], kinds: Sequence[str], ours: Sequence[str], *, protocol: str) -> str:
    """Return one Markdown table, a row per method: PSNR / SSIM / perceptual distance / seam error, means over photos.

    On the network protocol the last column counts the bars that ours miss, and says by how much in all, each gap as a
    part of its bar.
    """
    lines = _header([*kinds, "bars missed"] if protocol == "network" else kinds)
    for method in unique_methods(records):
        cells = [
            " / ".join(f"{mean_figure(records, method, kind, f):.{DIGITS[f]}f}" for f in FIGURE_NAMES) for kind in kinds
        ]
        if protocol == "network":
            gaps = []
            for figure in ("psnr", "ssim", "perceptual"):
                for kind, bar in _bars(records, kinds, figure).items():
                    past = (mean_figure(records, method, kind, figure) - bar) / bar
                    gaps.append(-past if HIGHER_IS_BETTER[figure] else past)
            missed = [gap for gap in gaps if gap > 0]
            cells.append(f"{len(missed)}, {100 * sum(missed):.1f} %" if method in ours else "")
        lines.append(_row(method, cells))
    return "\n".join(lines)


def summarize(
    records: Sequence[Record], kinds: Sequence[str], ours: Sequence[str], *, protocol: str, environment: dict[str, Any]
) -> dict[str, Any]:
    """Return the same as `markdown` for machines: means, intervals and verdicts, with the environment."""
    methods = unique_methods(records)
    means = {
        method: {k: {f: mean_figure(records, method, k, f) for f in FIGURE_NAMES} for k in kinds} for method in methods
    }
    differences = []
    for own in ours:
        for peer in (m for m in methods if m not in ours):
            for kind in kinds:
                for figure in FIGURE_NAMES:
                    interval = compare(records, own, peer, kind, figure)
                    if interval is not None and not np.isnan(interval[0]):
                        row = {"ours": own, "peer": peer, "kind": kind, "figure": figure, "interval": interval}
                        differences.append(row | {"verdict": verdict(interval, figure)})
    return {
        "bench": "quality",
        "protocol": protocol,
        "means": means,
        "looks": {m: {k: look_figures(records, m, k) for k in kinds if k in LARGE_KINDS} for m in methods},
        "differences": differences,
        "environment": environment,
    }


def save_report(folder: Path, name: str, text: str, summary: dict[str, Any], records: Sequence[Record]) -> Path:
    """Write NAME.md and NAME.json (summary and every record) and return the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = summary | {"records": [asdict(replace(record, windows=None)) for record in records]}
    (folder / f"{name}.json").write_text(json.dumps(_rounded(whole)) + "\n", encoding="utf-8")
    page = folder / f"{name}.md"
    page.write_text(text, encoding="utf-8")
    return page


def json_line(summary: dict[str, Any]) -> str:
    """Return the summary as one line of JSON."""
    return json.dumps(_rounded(summary))


def describe_device(device: str) -> str:
    """Return a torch device with the name of the card."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def read_environment(root: Path, *, commit: str = "", **extra: object) -> dict[str, Any]:
    """Return what the figures depend on: versions, processor, commit, date, and what the caller adds."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    if not commit:
        told = subprocess.run(
            ["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
        commit = told.stdout.strip() or "unknown"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "numpy", "scikit-image")},
        "opencv": _version("opencv-python-headless"),
        "processor": f"{processor}, {os.cpu_count()} cores",
        **extra,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _header(kinds: Sequence[str]) -> list[str]:
    return ["| | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def look_figures(records: Sequence[Record], method: str, kind: str) -> dict[str, float]:
    """Return the look of one method's large holes; NaN where it was not measured.

    Median texture, mean periodic share with the photos' own, and the kernel distance x 1000 with its standard deviation
    over halves of the photos.
    """
    own = [r for r in records if r.method == method and r.kind == kind]
    columns = {name: np.array([getattr(r.figures, name) for r in own]) for name in LOOK_NAMES}
    seen = {name: column[~np.isnan(column)] for name, column in columns.items()}
    windows = [r.windows for r in own if r.windows is not None]
    distance, spread = kernel_distance_interval([w[0] for w in windows], [w[1] for w in windows])
    return {
        "texture": float(np.median(seen["texture"])) if len(seen["texture"]) else float("nan"),
        "periodic": float(np.mean(seen["periodic"])) if len(seen["periodic"]) else float("nan"),
        "photo_periodic": float(np.mean(seen["photo_periodic"])) if len(seen["photo_periodic"]) else float("nan"),
        "kid": 1000 * distance,
        "kid_spread": 1000 * spread,
    }


def _look_rows(records: Sequence[Record], kinds: Sequence[str], methods: Sequence[str]) -> list[str]:
    """Tables of the look of large holes, where any was measured."""
    large = [kind for kind in kinds if any(r.kind == kind and not np.isnan(r.figures.texture) for r in records)]
    if not large:
        return []
    looks = {method: {kind: look_figures(records, method, kind) for kind in large} for method in methods}
    lines = ["", "## Texture of large holes, the fill's over the photo's (median; 1 is right)", "", *_header(large)]
    lines += [_row(method, [f"{looks[method][kind]['texture']:.2f}" for kind in large]) for method in methods]
    lines += ["", "## Part of the texture that repeats every 8 px (the photos' own is right)", "", *_header(large)]
    lines += [_row(method, [f"{looks[method][kind]['periodic']:.3f}" for kind in large]) for method in methods]
    lines.append(_row("the photos", [f"{looks[methods[0]][kind]['photo_periodic']:.3f}" for kind in large]))
    told = [m for m in methods if any(not np.isnan(looks[m][kind]["kid"]) for kind in large)]
    if told:
        title = "Kernel distance of large holes' windows from the photos', EfficientNet-Lite0, x 1000 (lower is better)"
        lines += ["", f"## {title}", "", "With its standard deviation over halves of the photos.", "", *_header(large)]
        cells = {
            m: [f"{looks[m][kind]['kid']:.1f} ± {looks[m][kind]['kid_spread']:.1f}" for kind in large] for m in told
        }
        lines += [_row(method, cells[method]) for method in told]
    return lines


def _time_rows(records: Sequence[Record], kinds: Sequence[str], methods: Sequence[str]) -> list[str]:
    """A table of the time of a fill, for the methods that were timed."""
    timed = [record for record in records if not np.isnan(record.took_ms)]
    if not timed:
        return []
    lines = ["", "## Time of one fill, ms (median; longest)", "", *_header(kinds)]
    for method in (m for m in methods if any(r.method == m for r in timed)):
        cells = []
        for kind in kinds:
            took = [r.took_ms for r in timed if r.method == method and r.kind == kind]
            cells.append(f"{np.median(took):.1f}; {max(took):.1f}" if took else "-")
        lines.append(_row(method, cells))
    return lines


def _bar_rows(records: Sequence[Record], kinds: Sequence[str], ours: Sequence[str], figure: str) -> list[str]:
    bars = _bars(records, kinds, figure)
    if not bars:
        return []
    digits = DIGITS[figure]
    rows = [_row("bar", [f"{bars[k]:.{digits}f}" for k in kinds])]
    measured = unique_methods(records)
    for method in (name for own in ours for name in (own, own + BARE_SUFFIX) if name in measured):
        cells = []
        for kind in kinds:
            past = mean_figure(records, method, kind, figure) - bars[kind]
            past = past if HIGHER_IS_BETTER[figure] else -past
            cells.append(f"met by {past:.{digits}f}" if past >= 0 else f"missed by {-past:.{digits}f}")
        rows.append(_row(f"{method}: bar", cells))
    return rows


def _bars(records: Sequence[Record], kinds: Sequence[str], figure: str) -> dict[str, float]:
    """What ours have to reach by kind; a perceptual bar is NaN without Telea's figures, and a seam has no bar."""
    if figure == "perceptual":
        return {k: PERCEPTUAL_BAR_OF_TELEA * mean_figure(records, "telea", k, figure) for k in kinds}
    return {k: bar for k, bar in NETWORK_BARS.get(figure, {}).items() if k in kinds}


def _interval_cell(interval: tuple[float, float, float] | None, figure: str) -> str:
    if interval is None:
        return "-"
    mean, low, high = interval
    digits = DIGITS[figure]
    text = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return {"better": f"**{text}**", "worse": f"*{text}*", "open": text}[verdict(interval, figure)]


def _rounded(value: Any) -> Any:
    """Round floats to five digits and turn NaN into null, which JSON can say."""
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
