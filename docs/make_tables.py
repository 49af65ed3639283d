"""Own the tables of figures in the READMEs: render them from bench/results, in both languages.

    .venv/bin/python docs/make_tables.py [--check]

A table stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`; what is between the two is replaced, the rest
of the page is left alone. A table whose result file is missing is left out: nothing stands between its markers then.
`--check` writes nothing and exits with 1 if a page does not hold what would be rendered.

Nothing is measured here. The files, and what made them:

    repair   speed-repair-5-h200.json           bench/speed.py --only repair
    speed    speed-model-h200.json              bench/speed.py --only model
    quality  quality-network-lama-compact.json  bench/quality.py, network protocol
    click    click-cpu.json                     bench/clicks.py
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGES = {"README.md": "en", "README.zh-CN.md": "zh-CN"}
OURS_FORM = "ours fp16"
PEER_FORMS = ("eager", "trace")
OURS_WEIGHTS = "lama-compact"
BARE_NETWORK = "lama-compact, rim not matched"  # ours too, so it is no peer
QUALITY_FIGURES = ("psnr", "ssim", "perceptual")

# Words of a language by key; `{}` fields are filled from the results.
WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "repair.caption": (
            "The whole repair on one {device} (PyTorch {torch}, {date}): photo and mask as arrays in, changed boxes "
            "out, by the included network. Median milliseconds, and how many of them are the network."
        ),
        "repair.before": (
            "Measured when the included network had {then} blocks; it has {now} since, which take longer."
        ),
        "sentence.space": " ",
        "repair.head": "photo|hole, px|repair, ms|of it the network, ms",
        "speed.caption": (
            "The network alone, in the size of big-lama with random weights, on one {device} (PyTorch {torch}, "
            "{date}). Median milliseconds of one forward, a batch counted whole. The published form runs in float32 as "
            "PyTorch runs it by default, eagerly and as a TorchScript trace; fftlama runs in float16, replayed as a "
            "CUDA graph. At the smaller inputs the two others wait for the host, which launches their kernels one by "
            "one: a busier host makes them slower, and not fftlama (other runs are in bench/results). Peak memory is "
            "beyond the weights; the difference is the largest from float64, in grey levels of 255. Several figures in "
            "a cell are those of published / TorchScript / fftlama."
        ),
        "speed.head": "input|published, ms|TorchScript, ms|fftlama, ms|times faster than|peak MiB|difference",
        "speed.batch": "{side}, batch of {batch}",
        "quality.caption": (
            "The included weights beside what OpenCV and scikit-image offer, by kind of hole: PSNR in dB and SSIM over "
            "the hole (higher is better), perceptual distance (lower is better); means over the centre squares at "
            "512x512 of {photos} photos that were not trained on. The last row is the network's prediction as it is, "
            "before fftlama matches it to the photo at the hole's rim."
        ),
        "quality.bare": "the network alone",
        "quality.head": "|thin|medium|thick|object|text|blemish",
        "quality.won": "Better than the three others in every figure, clear of zero (95 % interval over the photos).",
        "quality.open": "Too close to call (95 % interval over the photos): {cases}.",
        "quality.worse": "Worse: {cases}.",
        "quality.case": "{peer}, {kind} {figure}",
        "quality.comma": "; ",
        "click.caption": (
            "From the click to the patch on the screen, with the included weights and without a GPU, in a headless "
            "Chromium on the same {cores} cores ({cpu}, {device}, {date}; load {before} before, {after} after). The "
            "hole is about 300 px across."
        ),
        "click.head": "photo|median, ms|fastest to slowest, ms|first click, ms|sent per click, bytes",
        "click.after": "Start to ready: {start} s (median of {starts}). Peak memory of the process: {peak} MiB.",
    },
    "zh-CN": {
        "repair.caption": (
            "一块 {device} 上的整个修复过程（PyTorch {torch}，{date}）：输入照片和标注的数组，输出改动的区域，"
            "使用附带的网络。数字是毫秒数（中位数），以及其中网络所占的部分。"
        ),
        "repair.before": "测量时附带的网络有 {then} 个残差块；现在有 {now} 个，网络所占的部分更长。",
        "sentence.space": "",
        "repair.head": "照片|区域，像素|修复，毫秒|其中网络，毫秒",
        "speed.caption": (
            "只看网络本身：与 big-lama 同样大小、随机权重，一块 {device}"
            "（PyTorch {torch}，{date}）。数字是一次前向的毫秒数（中位数），"
            "成批时为整批合计。公开实现按 PyTorch 默认方式用 float32 运行，"
            "分直接执行和 TorchScript trace 两种；fftlama 用 float16，以 CUDA Graph 重放。"
            "输入较小时，前两者要等主机逐个启动内核：主机越忙它们越慢，fftlama 则不受影响"
            "（其他几次测量见 bench/results）。"
            "显存峰值不含权重；误差是与 float64 结果的最大差，单位为 255 级灰度中的一级。"
            "一格里有两三个数字时，依次是公开实现 / TorchScript / fftlama。"
        ),
        "speed.head": "输入|公开实现，毫秒|TorchScript，毫秒|fftlama，毫秒|倍数|显存峰值 MiB|误差",
        "speed.batch": "{side}，一批 {batch} 张",
        "quality.caption": (
            "附带的权重与 OpenCV、scikit-image 里的传统方法相比，按区域类型列出："
            "区域内的 PSNR（dB）和 SSIM（越高越好）、感知距离（越低越好），"
            "取 {photos} 张未参与训练的照片中央 512x512 的平均值。"
            "最后一行是网络的原始输出，没有经过 fftlama 在区域边缘处与照片的衔接。"
        ),
        "quality.bare": "仅网络",
        "quality.head": "|细线|中等|大块|物体|文字|污点",
        "quality.won": "每一项都优于另外三种方法，95 % 置信区间（按照片抽样）不含零。",
        "quality.open": "难分高下（95 % 置信区间，按照片抽样）：{cases}。",
        "quality.worse": "不如：{cases}。",
        "quality.case": "{peer} 的{kind} {figure}",
        "quality.comma": "、",
        "click.caption": (
            "从点击到屏幕上出现修复结果：附带的权重，不用显卡，"
            "无界面 Chromium 与服务共用 {cores} 个核心（{cpu}，{device}，{date}；"
            "系统负载测前 {before}、测后 {after}）。修复区域约 300 像素宽。"
        ),
        "click.head": "照片|中位数，毫秒|最快到最慢，毫秒|第一次点击，毫秒|每次点击上传，字节",
        "click.after": "启动到就绪：{start} 秒（{starts} 次的中位数）。进程内存峰值：{peak} MiB。",
    },
}
METHOD_TITLES = {
    "telea": "Telea",
    "navier-stokes": "Navier-Stokes",
    "biharmonic": "biharmonic",
    OURS_WEIGHTS: "fftlama",
}
FIGURE_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "perceptual": "perceptual"}


def render_repair(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Render the time of whole repairs, a row per photo and hole."""
    rows = [
        [row["size"], str(row["hole_px"]), f"**{row['median_ms']:.1f}**", f"{row['forward_ms']:.1f}"]
        for row in result["repair"]
        if "forward_ms" in row
    ]
    caption = words["repair.caption"].format(**result["environment"])
    then, now = result["environment"]["included_blocks"], included_blocks()
    if then != now:
        caption += words["sentence.space"] + words["repair.before"].format(then=then, now=now)
    return f"{caption}\n\n{table(words['repair.head'], rows)}"


def included_blocks() -> int:
    """Return how many residual blocks the included network has: each has one tensor of this name."""
    with safe_open(ROOT / "weights" / "lama-compact.safetensors", "np") as file:
        return sum(name.endswith(".conv1.ffc.convl2l.weight") for name in file.keys())  # noqa: SIM118 - it is no mapping


def render_speed(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Render time, memory and difference of the network beside its published form, a row per size."""
    rows = []
    by_size: dict[tuple[int, int], dict[str, Any]] = {}
    for row in result["model"]:
        by_size.setdefault((row["batch"], row["width"]), {})[row["form"]] = row
    for (batch, width), forms in sorted(by_size.items()):
        ours, peers = forms[OURS_FORM], [forms[name] for name in PEER_FORMS]
        side = f"{width}x{ours['height']}"
        rows.append(
            [
                side if batch == 1 else words["speed.batch"].format(side=side, batch=batch),
                *(f"{peer['median_ms']:.1f}" for peer in peers),
                f"**{ours['median_ms']:.2f}**",
                " / ".join(f"{peer['median_ms'] / ours['median_ms']:.1f}" for peer in peers),
                " / ".join(f"{row['peak_mib']:.0f}" for row in (*peers, ours)),
                " / ".join(f"{row['max_grey']:.2f}" for row in (*peers, ours)),
            ]
        )
    return f"{words['speed.caption'].format(**result['environment'])}\n\n{table(words['speed.head'], rows)}"


def render_quality(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Render the figures of every method by kind of hole, and name the comparisons that are not won."""
    kinds = list(result["means"][OURS_WEIGHTS])
    rows = []
    for method, by_kind in result["means"].items():
        cells = [
            " / ".join(quality_figure(figure, by_kind[kind][figure]) for figure in QUALITY_FIGURES) for kind in kinds
        ]
        emphasis = "**" if method == OURS_WEIGHTS else ""
        title = words["quality.bare"] if method == BARE_NETWORK else METHOD_TITLES[method]
        rows.append([f"{emphasis}{title}{emphasis}", *cells])
    photos = len({record["photo"] for record in result["records"]})
    parts = [words["quality.caption"].format(photos=photos), table(words["quality.head"], rows)]
    kind_titles = dict(zip(kinds, words["quality.head"].split("|")[1:], strict=True))
    for verdict in ("open", "worse"):
        cases = [
            words["quality.case"].format(
                peer=METHOD_TITLES[row["peer"]], kind=kind_titles[row["kind"]], figure=FIGURE_TITLES[row["figure"]]
            )
            for row in result["differences"]
            if row["verdict"] == verdict and row["figure"] in QUALITY_FIGURES and row["peer"] != BARE_NETWORK
        ]
        if cases:
            parts.append(words[f"quality.{verdict}"].format(cases=words["quality.comma"].join(cases)))
    return "\n\n".join(parts if len(parts) > 2 else [*parts, words["quality.won"]])


def quality_figure(name: str, value: float) -> str:
    """Return PSNR with one digit, the others with two."""
    return f"{value:.1f}" if name == "psnr" else f"{value:.2f}"


def render_click(result: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Render the wait of a person on a machine without a GPU, a row per size of photo."""
    found = result["environment"]
    caption = words["click.caption"].format(
        cores=found["cores"],
        cpu=found["cpu"],
        device=found["device"],
        date=found["date"],
        before=f"{found['load before']:.1f}",
        after=f"{found['load after']:.1f}",
    )
    rows = []
    for size, measured in result["sizes"].items():
        clicks = [click["click"] for click in measured["rounds"]]
        median, first = statistics.median(clicks), measured["first"]["click"]
        spread = f"{min(clicks):.0f} – {max(clicks):.0f}"
        rows.append([size, f"**{median:.0f}**", spread, f"{first:.0f}", str(measured["body_bytes"])])
    starts_s = result["starts_s"]
    after = words["click.after"].format(
        start=f"{statistics.median(starts_s):.1f}", starts=len(starts_s), peak=result["peak_mib"]
    )
    return f"{caption}\n\n{table(words['click.head'], rows)}\n\n{after}"


Render = Callable[[Mapping[str, Any], Mapping[str, str]], str]
TABLES: Mapping[str, tuple[str, Render]] = {
    "repair": ("speed-repair-5-h200.json", render_repair),
    "speed": ("speed-model-h200.json", render_speed),
    "quality": ("quality-network-lama-compact.json", render_quality),
    "click": ("click-cpu.json", render_click),
}


def table(head: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; `head` has its cells separated by bars."""
    cells = head.split("|")
    lines = [cells, ["---"] * len(cells), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_page(text: str, language: str, results: Path = RESULTS) -> str:
    """Return the page's text with every table between markers rendered anew; ValueError for a name without a table."""

    def fill(marker: re.Match[str]) -> str:
        name = marker["name"]
        if name not in TABLES:
            raise ValueError(f"no table {name!r}; there are {', '.join(TABLES)}")
        file, render = TABLES[name]
        path = results / file
        if not path.exists():
            return f"<!-- table:{name} -->\n<!-- /table:{name} -->"
        rendered = render(json.loads(path.read_text(encoding="utf-8")), WORDS[language])
        return f"<!-- table:{name} -->\n{rendered}\n<!-- /table:{name} -->"

    return re.sub(r"<!-- table:(?P<name>[\w-]+) -->.*?<!-- /table:(?P=name) -->", fill, text, flags=re.DOTALL)


def main() -> int:
    """Write the pages, or tell which of them are stale."""
    parser = argparse.ArgumentParser(description="Render the READMEs' tables from bench/results.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    options = parser.parse_args()
    stale = 0
    for name, language in PAGES.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        rendered = render_page(text, language)
        if rendered == text:
            continue
        stale += 1
        print(f"{name}: {'stale; run docs/make_tables.py' if options.check else 'written'}")
        if not options.check:
            path.write_text(rendered, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
