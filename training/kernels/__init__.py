"""Triton kernels of the training step.

Each stands beside the plain PyTorch expression that defines it, which runs where Triton can't.
"""
