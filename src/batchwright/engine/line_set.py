"""A set of line numbers that takes one bit for each line of its file."""

from __future__ import annotations

from collections.abc import Sequence

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
        return self.add_all((line,)) is None

    def add_all(self, lines: Sequence[int]) -> int | None:
        """Add lines, one after the other up to one that is there already, which is returned."""
        bits = self._bits
        byte = max(lines, default=0) >> 3
        if byte >= len(bits):
            bits.extend(bytes(max(_GROWTH_BYTES, byte + 1 - len(bits))))
        for line in lines:
            byte, bit = line >> 3, 1 << (line & 7)
            if bits[byte] & bit:
                return line
            bits[byte] |= bit
            self._count += 1
        return None
