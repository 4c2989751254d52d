"""What reaches the terminal: answers on stdout, everything about the work on stderr.

Names and messages come from files and servers. Their control characters are shown, not obeyed,
so that no text can move the cursor, change the colours or turn the reading direction.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_TABLE_WIDTH_MAX = 1000
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's controls, formats, surrogates, separators


def plain(value: object) -> str:
    """A text without control characters: they are written as `\\x1b` or `\\u202e`."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    if unicodedata.category(letter) not in _HIDDEN:
        return letter
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def say(text: object = "") -> None:
    """One line on stdout."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def note(text: object) -> None:
    """One line about the work, on stderr."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """One JSON document on one line of stdout, in ASCII."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def say_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout. Where that is no terminal: tab-separated rows without a head.

    A row stays a line, which the terminal wraps where it is wider.
    """
    if not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write("\t".join(plain(cell) for cell in row) + "\n")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console = _console()
    wide = console.options.update(width=_TABLE_WIDTH_MAX)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


def _console() -> Console:
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def shown_time(at: float | None) -> str:
    """Unix seconds as local time; `-` for none."""
    if at is None:
        return "-"
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def shown_span(span_s: float) -> str:
    """Seconds as `42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole_s = round(span_s)
    if whole_s < 60:
        return f"{whole_s} s"
    if whole_s < 3600:
        return f"{whole_s // 60} min {whole_s % 60:02d} s"
    return f"{whole_s // 3600} h {whole_s % 3600 // 60:02d} min"


def shown_count(count: int, word: str) -> str:
    """`1 request`, `2,000 requests`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def shown_cost(cost_usd: float | None) -> str:
    """Dollars: `$0`, `$0.000021`, `$1.50`, `$1,234.00`; without a price `unknown`."""
    if cost_usd is None:
        return "unknown (no price is known for the model)"
    if not cost_usd:
        return "$0"
    if cost_usd >= 1:
        return f"${cost_usd:,.2f}"
    text = f"{cost_usd:.6f}".rstrip("0")
    return f"${text:0<4}" if text != "0." else "less than $0.000001"


def shown_savings(requests: int, tokens: int, cost_usd: float | None) -> str:
    """`900 requests, 6,300 tokens, $0.42`; without a price no dollars."""
    cost = "" if cost_usd is None else f", {shown_cost(cost_usd)}"
    return f"{shown_count(requests, 'request')}, {tokens:,} tokens{cost}"


def shown_cached(cached_tokens: int, input_tokens: int) -> str:
    """` (1,024 cached, 12 %)`, to stand behind the tokens that came in; nothing for none."""
    if not cached_tokens or not input_tokens:
        return ""
    return f" ({cached_tokens:,} cached, {100 * cached_tokens / input_tokens:.0f} %)"


def shown_bytes(size_bytes: float) -> str:
    """A size in the unit that fits: `512 B`, `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
