"""Masks and boxes with NumPy and OpenCV alone: what is repaired, and on which crops. Knows no torch."""
