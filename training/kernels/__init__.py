"""Triton kernels of the training step.

Each stands beside the plain PyTorch expression that defines it and replaces it where Triton can't run.
"""
