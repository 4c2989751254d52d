"""Metadata: files, batches, uploads, keys. `base` is the interface, beside its implementations."""
