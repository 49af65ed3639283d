"""Where text and marks are in a photo, and what a click on it selects: arrays in, mask out.

An image is (H, W, 3) uint8 or uint16 RGB, a mask (H, W) bool, True = found, a box (left, top, right, bottom), half-open
and in image pixels. Knows no files (except the text detector's own), no HTTP and no settings; loads nothing heavy until
it is asked to find text.
"""
