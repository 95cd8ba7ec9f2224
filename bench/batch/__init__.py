"""Batches in front of Triton, beside Triton's own, in one interleaved run; `python -m bench.batch --help`."""
