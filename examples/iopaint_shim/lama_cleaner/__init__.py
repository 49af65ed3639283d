"""Stands in for the package `lama_cleaner`, IOPaint's name until 1.2: the same classes under their old names."""

__version__ = "1.2.5"  # the version whose interface this is
