"""How a batch gets done. Pure: clock, randomness, disk, store and network come from outside."""
