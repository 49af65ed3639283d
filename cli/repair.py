"""`fftlama repair`: what is said of a photo or a tree of photos while they are repaired, and afterwards.

On a terminal: a bar, sentences above it, a summary. Elsewhere each photo is one line of JSON on standard output, the
summary is the last, and the sentences go to stderr. What a file is called may be anything, so JSON is written in ASCII,
and no name reaches a terminal with what it would obey.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from cli.batch import Limits, Outcome, run_tasks, settled_before
from cli.errors import EXIT_FAILED, EXIT_USAGE, CommandError, printable, sentence_of
from cli.paths import is_folder, make_writable_folder, real_path
from cli.plan import BatchError, Task, plan_tasks
from config import Settings
from imaging.atomic_write import remove_parts, write_atomically
from jobs.retention import PART_AGE_S

if TYPE_CHECKING:
    from inference import Inpainter

USUAL_SENSITIVITY = 0.5
FORMAT_NOTES = frozenset(["not_exact", "palette_converted", "heic_saved_as"])  # true of every such file: said once
WORDS = {
    "repaired": "repaired",
    "unchanged": "with nothing to repair",
    "to_repair": "to repair",
    "there_already": "there already",
    "without_mask": "without a mask",
    "failed": "failed",
}


def run_repair(settings: Settings, chosen: argparse.Namespace, load: Callable[[Settings], "Inpainter"]) -> int:
    """Repair what a command line names.

    Args:
        settings: those of the engine, and the limits of files.
        chosen: the command's arguments.
        load: returns the engine.

    Returns:
        The exit code: 1 where a photo failed.

    Raises:
        CommandError: The files do not fit together.
    """
    if chosen.find and (chosen.invert or chosen.fit_masks):
        raise CommandError("--invert and --fit-masks are about masks, and --find takes the place of masks", EXIT_USAGE)
    if chosen.sensitivity is not None and not chosen.find:
        raise CommandError("--sensitivity is about what --find looks for, and there is no --find", EXIT_USAGE)
    try:
        tasks = plan_tasks(chosen.photos, chosen.masks, chosen.out, find=chosen.find or "")
    except BatchError as error:
        raise CommandError(str(error), EXIT_USAGE) from error
    overwrite = chosen.overwrite or (
        not chosen.skip_done and len(tasks) == 1 and not is_folder(chosen.photos) and not is_folder(chosen.out)
    )
    if chosen.dry_run:
        return _tell_all(_planned(tasks, overwrite=overwrite), len(tasks), report=None)
    if chosen.report is not None:
        _check_report(chosen.report, tasks)
    if any(settled_before(task, overwrite=overwrite) is None for task in tasks):
        make_writable_folder(tasks[0].target.parent if len(tasks) == 1 else chosen.out, "OUT")
        for folder in {task.target.parent for task in tasks}:
            remove_parts(folder, age_s=PART_AGE_S)
    outcomes = run_tasks(
        tasks,
        lambda: load(settings),
        options={"dilate_px": chosen.dilate_px, "feather_px": chosen.feather_px, "quality": chosen.quality},
        limits=Limits(
            settings.max_file_mib * 2**20,
            settings.max_image_mpx * 1_000_000,
            invert=chosen.invert,
            fit=chosen.fit_masks,
            sensitivity=USUAL_SENSITIVITY if chosen.sensitivity is None else chosen.sensitivity,
        ),
        overwrite=overwrite,
        page=chosen.page,
        jobs=chosen.jobs,
    )
    return _tell_all(map(_row_of, outcomes), len(tasks), report=chosen.report)


def _row_of(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as it is told: strings and numbers by name, what is empty left out."""
    task = outcome.task
    row = {
        "photo": str(task.photo),
        "state": outcome.state,
        "mask": task.mask and str(task.mask),
        "result": outcome.result and str(outcome.result),
        "seconds": round(outcome.seconds, 3),
        "notes": [{"code": note.code, "text": str(note)} for note in outcome.notes],
        "error": outcome.error,
    }
    return {name: value for name, value in row.items() if value}


def _planned(tasks: list[Task], *, overwrite: bool) -> Iterator[dict[str, Any]]:
    """Yield what would become of each task, as `_row_of` tells what became of it."""
    for task in tasks:
        settled = settled_before(task, overwrite=overwrite)
        if settled is not None:
            yield _row_of(settled)
            continue
        # Which ending a converted file gets shows when it is read.
        target = str(task.target) if task.converted is None else f"{task.converted}.*"
        yield {"photo": str(task.photo), "state": "to_repair", "mask": str(task.mask or task.find), "result": target}


def _tell_all(rows: Iterable[dict[str, Any]], count: int, *, report: Path | None) -> int:
    """Tell each row as it comes, then the summary; write the report, also when it is stopped before the end."""
    began_s, began = time.monotonic(), datetime.now(UTC)
    for_people = sys.stdout.isatty()
    counts: Counter[str] = Counter()
    kept: list[dict[str, Any]] = []
    said: set[str] = set()
    is_told = True
    try:
        for row in tqdm(rows, total=count, unit="photo", disable=None, file=sys.stderr, leave=False):
            counts[row["state"]] += 1
            kept.append(row)
            _say(row, said)
            if not for_people:
                print(json.dumps(row), flush=True)
            elif row["state"] == "to_repair":
                tqdm.write(printable(f"{row['photo']} with {row['mask']} -> {row['result']}"))
    finally:
        seconds = time.monotonic() - began_s
        words = ", ".join(f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state])
        summary = {"summary": words or "nothing", "seconds": round(seconds, 3), **counts}
        if report is not None:
            content = {"began": began.isoformat(timespec="seconds"), **summary, "photos": kept}
            is_told = _write_report(report, content)
    print(f"{words}, in {tqdm.format_interval(seconds)}" if for_people else json.dumps(summary), flush=True)
    return EXIT_FAILED if counts["failed"] or not is_told else 0


def _write_report(report: Path, content: dict[str, Any]) -> bool:
    """Write the report; where the disk has become full meanwhile, say so and return False."""
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(report, json.dumps(content, indent=1).encode())
    except OSError as error:
        tqdm.write(printable(f"--report: {sentence_of(error)}"), file=sys.stderr)
        return False
    return True


def _say(row: dict[str, Any], said: set[str]) -> None:
    """Write the sentences about a photo to stderr; what is true of every file of a format only once."""
    name = Path(row["photo"]).name
    sentences = [row["error"]] if "error" in row else []
    if row["state"] == "without_mask":
        sentences.append("no mask for it")
    for note in row.get("notes", ()):
        if note["text"] not in said:
            sentences.append(note["text"])
        if note["code"] in FORMAT_NOTES:
            said.add(note["text"])
    for sentence in sentences:
        tqdm.write(printable(f"{name}: {sentence}"), file=sys.stderr)


def _check_report(report: Path, tasks: list[Task]) -> None:
    """Refuse a report that can't be written, or would replace a photo, a mask or a result."""
    taken = {real_path(p) for task in tasks for p in (task.photo, task.mask, task.target) if p is not None}
    if is_folder(report) or real_path(report) in taken:
        what = "is a folder" if is_folder(report) else "would overwrite a photo, a mask or a result"
        raise CommandError(f"--report {report} {what}; name another file", EXIT_USAGE)
    make_writable_folder(report.parent, "--report")
