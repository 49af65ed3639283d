"""`ModelManager`, as it was called then too."""

from iopaint.model_manager import ModelManager

__all__ = ["ModelManager"]
