"""Open a photo and write it again, bounded in processor time: `read_photo.py FILE PLAIN CPU_LIMIT_S FORMATS`.

PLAIN is read and written first, so that what is loaded once is not counted. Prints one JSON object: what FILE was
refused with, or its size and notes, and what it took of time and memory.
"""

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from imaging import ImagingError, encode_photo, open_photo


def main(arguments: Sequence[str]) -> int:
    """Do as the command line says."""
    file, plain, limit_s, formats = arguments
    encode_photo(open_photo(Path(plain).read_bytes()))
    data = Path(file).read_bytes()
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s)))
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        photo = open_photo(data)
    except ImagingError as error:
        print(json.dumps({"refused": error.code}))
        return 0
    for name in formats.split(","):
        encode_photo(photo, format=name)
    after = resource.getrusage(resource.RUSAGE_SELF)
    said = {
        "size": photo.image.shape, "notes": [note.code for note in photo.notes],
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "mib": (after.ru_maxrss - before.ru_maxrss) / 1024,
    }  # fmt: skip
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
