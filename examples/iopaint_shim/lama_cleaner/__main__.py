"""`python -m lama_cleaner …`, and the command `lama-cleaner`: starts fftlama's server with the old options."""

import sys

from iopaint.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["start", *sys.argv[1:]]))
