"""Bytes: input files and journals. `base` is the interface, beside its implementations."""
