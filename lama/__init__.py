"""The LaMa network: as published (`generator`), in inference form (`fused`, `kernels`), and its files (`checkpoint`).

Knows nothing of photos, crops, jobs, settings or people.
"""
