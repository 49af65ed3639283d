"""The photos one can try the page on: files in `static/samples/`, with who made them (`static/samples/CREDITS.md`)."""

from __future__ import annotations

SAMPLES = (
    {"key": "street", "author": "18F / GSA", "licence": "CC0 1.0"},
    {"key": "pump", "author": "18F / GSA", "licence": "CC0 1.0"},
    {"key": "bird", "author": "FaunaMap contributors", "licence": "CC0 1.0"},
)


def describe_samples() -> list[dict[str, str]]:
    """Return each sample's key, files (the photo, a small picture of it), name, author and licence."""
    return [
        {
            **sample,
            "file": f"{sample['key']}.jpg",
            "small": f"{sample['key']}-small.webp",
            "name": f"{sample['key']}.jpg",
        }
        for sample in SAMPLES
    ]
