"""Measurements of speed and quality: outside the rooms, may import any of them, imported by none."""
