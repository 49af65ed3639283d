"""Triton kernels of the training step, each beside the plain PyTorch expression that defines it and stands in where
Triton can't run.
"""
