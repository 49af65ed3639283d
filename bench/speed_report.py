"""A report of `bench/speed.py` as Markdown: a table for every section, the environment last."""

from typing import Any

LONGEST_TEXT = 60  # in a cell


def render(report: dict[str, Any]) -> str:
    """Return the report as Markdown: a list of rows becomes a table, a single row one with a line for each figure."""
    lines = ["# Speed", ""]
    for section, found in report.items():
        if section == "environment":
            continue
        lines += [f"## {section}", ""]
        if isinstance(found, list):
            lines += _table(found)
        elif isinstance(found, dict):
            lines += ["| | |", "|---|---|", *(f"| {key} | {_text(value)} |" for key, value in found.items())]
        else:
            lines.append(_text(found))
        lines.append("")
    lines += ["## Environment", "", *(f"- {key}: {value}" for key, value in report["environment"].items()), ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return head + ["| " + " | ".join(_text(row.get(key, "")) for key in columns) + " |" for row in rows]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_text(part) for part in value)
    return str(value).replace("\n", " ").replace("|", "/")[:LONGEST_TEXT]
