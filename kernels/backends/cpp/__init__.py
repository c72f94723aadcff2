"""The native CPU kernel: C++ that is built on first use and needs a compiler, nothing else."""
