"""A set of line numbers that takes one bit for each line of its file."""

from __future__ import annotations

_GROWTH_BYTES = 1024


class LineSet:
    """Line numbers from 0 on. It grows to the largest one and never shrinks."""

    __slots__ = ("_bits", "_count")

    def __init__(self) -> None:
        self._bits = bytearray()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, line: int) -> bool:
        byte = line >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (line & 7) & 1)

    def add(self, line: int) -> bool:
        """Add a line; False where it is there already."""
        byte, bit = line >> 3, 1 << (line & 7)
        bits = self._bits
        if byte >= len(bits):
            bits.extend(bytes(max(_GROWTH_BYTES, byte + 1 - len(bits))))
        if bits[byte] & bit:
            return False
        bits[byte] |= bit
        self._count += 1
        return True
