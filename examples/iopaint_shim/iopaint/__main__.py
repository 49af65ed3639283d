"""`python -m iopaint start|run|download|list …`: the same with fftlama, in its own Python wherever this one is."""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
COMMANDS = ("start", "run", "download", "list")
OWN_NAMES = {"lama": "big-lama"}  # of the networks that can be fetched


def words_for_fftlama(arguments: list[str]) -> list[str]:
    """Return the words of a command line of `iopaint` as fftlama takes them; SystemExit for other commands."""
    command, *rest = arguments or [""]
    if command in ("start", "run"):
        return arguments
    if command == "list":
        return ["weights", "list"]
    if command == "download":
        # --model NAME or --model=NAME; where the network goes is fftlama's own folder.
        words = " ".join(rest).replace("=", " ").split()
        name = words[words.index("--model") + 1] if "--model" in words[:-1] else "lama"
        return ["weights", "get", OWN_NAMES.get(name, name)]
    sys.exit(f"iopaint: there is no command {command!r} here; there are: {', '.join(COMMANDS)}")


def main(arguments: list[str]) -> int:
    """Run one command line; where fftlama has a Python of its own, this process becomes it."""
    words = words_for_fftlama(arguments)
    script = CHECKOUT / ".venv" / "bin" / "fftlama"
    if script.is_file():
        os.execv(script, [str(script), *words])
    if not (CHECKOUT / "cli" / "main.py").is_file():
        sys.exit(f"iopaint: {CHECKOUT} is not fftlama's folder; this one is not copied from it but named where it lies")
    sys.path.insert(0, str(CHECKOUT))
    from cli.main import main as run

    return run(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
