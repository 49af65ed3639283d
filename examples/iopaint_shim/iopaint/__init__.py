"""Stands in for the package `iopaint`, for programs that import it: fftlama does the work.

Put this package's folder on PYTHONPATH before, or instead of, an installed IOPaint. With LAMA_SERVER_URL set, a running
server repairs, and the importing program needs NumPy and OpenCV only; without it the network is loaded into the
importing process, which then has to be fftlama's own Python (`.venv/bin/python`).
"""

__version__ = "1.6.0"  # the version whose interface this is
