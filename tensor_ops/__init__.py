"""Small tensor operations in PyTorch, some with a Triton twin in `kernels/`. Knows no network and no files."""
