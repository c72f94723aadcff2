"""Fused attention kernels for GPUs, written in triton.

Importing this package, `launch` and `kernel` imports no triton: whoever wants the interpreter may still ask for it.
"""
