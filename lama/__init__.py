"""The LaMa network and its weights.

`generator` is the network as published, `fast_generator` its inference form, with `kernels` for CUDA. `checkpoint`
reads and writes weight files, `catalogue` fetches published ones.

Knows nothing of photos, crops, jobs, settings or people.
"""
