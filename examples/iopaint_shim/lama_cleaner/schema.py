"""`Config`, which became `InpaintRequest`, and its choices."""

from iopaint.schema import CV2Flag, HDStrategy, InpaintRequest, LDMSampler

__all__ = ["CV2Flag", "Config", "HDStrategy", "LDMSampler"]

Config = InpaintRequest
