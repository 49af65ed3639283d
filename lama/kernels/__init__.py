"""Triton kernels of the inference form, each beside the plain PyTorch expression that defines it.

All of them work on rows: feature maps are (B, H, W, C) float16, a pixel's channels contiguous, sums in float32.
`convolution` has the 3x3 and 1x1 convolutions of the trunk and the downsamplings, `upsampling` the transposed ones,
`fourier` the transforms, `spectral_path` the 1x1s around them, `ends` the two 7x7 convolutions, `tiles` the table of
block shapes. Importing this room needs Triton; a module's functions launch on the current CUDA stream, or run in
Triton's interpreter on the CPU.
"""
