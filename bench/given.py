"""Own what a command line of the benches may name: folders, files and checkouts that are there.

Each function is the `type` of an argument of argparse, which tells a person the sentence that it raises.
"""

import argparse
from pathlib import Path


def folder(text: str) -> Path:
    """Return the folder that is named; ArgumentTypeError with a sentence where there is none."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def file(text: str) -> Path:
    """Return the file that is named; ArgumentTypeError with a sentence where there is none."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def checkout(text: str) -> Path:
    """Return the folder of another commit of fftlama; ArgumentTypeError with a sentence where it is none."""
    if not (folder(text) / "app.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of fftlama: it has no app.py")
    return Path(text)
