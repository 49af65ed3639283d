"""What a process tells Triton before its first kernel.

The name of a compiled kernel in Triton's cache holds a digest of Triton itself, for which every process reads its
library of 400 MB: a third of a second of a start. Here the digest is kept with the sizes and times of the files that it
is of, beside the kernels that Triton compiled, and made again when one of them has changed. Whatever fails leaves
Triton as it was.

Every kernel was measured with multiplications and additions fused. Triton 3.9 warns each process that 3.10 will not
fuse them unasked; here it is asked, unless TRITON_DEFAULT_FP_FUSION says otherwise.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

HASHED = ("compiler", "backends", "language")  # folders whose sources Triton reads for it
NAME = "digest-of-triton.json"
FP_FUSION = "TRITON_DEFAULT_FP_FUSION"


@functools.cache
def prepare_triton() -> None:
    """Ask for fusing, and have Triton take its digest of itself from its cache's folder, or put it there; done once."""
    try:
        from triton import knobs
        from triton.runtime import cache

        if FP_FUSION not in os.environ:
            knobs.language.default_fp_fusion = True
        use_kept_key(cache, Path(knobs.cache.dir))
    except (ImportError, AttributeError, OSError, TypeError, ValueError):
        return  # another Triton, or a folder that can't be written: it makes its digest when it needs it


def use_kept_key(cache: ModuleType, folder: Path) -> None:
    """Give Triton's `cache` module a `triton_key` that need not read its library.

    Args:
        cache: Triton's module of that name; its function is replaced.
        folder: where the digest is kept.

    Raises:
        OSError: the files can't be looked at, or the digest can't be kept.
        AttributeError: this Triton has no such function.
    """
    make, state = cache.triton_key, _state_of(Path(str(cache.__file__)).parents[1])
    kept = folder / NAME
    key = _read(kept, state)
    if key is None:
        key = make()
        from imaging.atomic_write import write_atomically  # late: where the digest is kept it is not needed

        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps({"state": state, "key": key}).encode())
    cache.triton_key = lambda: key  # type: ignore[attr-defined]


def _read(kept: Path, state: str) -> str | None:
    """Return the digest that was kept of files in this state, or None."""
    try:
        found = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("state") != state or not isinstance(found.get("key"), str):
        return None
    return str(found["key"])


def _state_of(triton: Path) -> str:
    """Return what changes when one of the files of the digest does."""
    described = [
        f"{path.relative_to(triton)} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        for path, stat in ((path, path.stat()) for path in _files(triton))
    ]
    return hashlib.sha256("\n".join([str(triton), *sorted(described)]).encode()).hexdigest()


def _files(triton: Path) -> Iterator[Path]:
    yield triton / "runtime" / "cache.py"
    yield from (triton / "_C").glob("libtriton.*")
    for folder in HASHED:
        for parent, _, names in os.walk(triton / folder):
            yield from (Path(parent, name) for name in names if name.endswith(".py"))
