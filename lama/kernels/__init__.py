"""The kernels of the inference form on CUDA.

All of them work on rows: feature maps are (B, H, W, C) float16, a pixel's channels contiguous, sums in float32.

In Triton, for any card, each beside the plain PyTorch expression that defines it: `convolution` has the 3x3 and 1x1
convolutions of the trunk and the downsamplings, `upsampling` the transposed ones, `fourier` the transforms,
`spectral_path` the 1x1s around them, `stem_head` the two 7x7 convolutions, `tiles` the table of block shapes.

For Hopper cards alone, in place of some of these: the `hopper_*` modules. Those in Gluon build on `hopper_steps`; those
in CUDA C++ are a `.cu` file and the Python file of the same name, build on `hopper_pieces`, and are compiled and
launched by `cuda_kernel`. `hopper_card` says whether a card can run them.

Importing these modules needs Triton. Their functions launch on the current CUDA stream; those in Triton also run in its
interpreter on the CPU.
"""
