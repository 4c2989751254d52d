"""Upstreams. `base` is the interface, beside its implementations."""
