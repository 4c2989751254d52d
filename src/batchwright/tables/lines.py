"""Lines of a file, split on the byte `\\n` alone.

`str.splitlines` also splits on U+2028, U+0085 and more, which JSON strings may hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchwright.domain.errors import UsageError
from batchwright.tables.inputs import LINE_BYTES_MAX

_UTF8_BOM = b"\xef\xbb\xbf"
_BUFFER_BYTES = 2**18  # of the usual 8 kB, lines of 4 kB took three times as long


def read_lines(path: Path, *, keep_blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """Each line with its 1-based number, without its line end; blank ones only if asked for.

    A byte order mark at the start and one `\\r` at the end are taken off.
    Raises `UsageError` for a line longer than `LINE_BYTES_MAX`.
    """
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > LINE_BYTES_MAX:
                raise UsageError(
                    f"{path}: line {number} is longer than {LINE_BYTES_MAX // 2**20} MiB"
                )
            if number == 1:
                line = line.removeprefix(_UTF8_BOM)
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if keep_blank or line.strip():
                yield number, line
