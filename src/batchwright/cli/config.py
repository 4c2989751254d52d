"""`batchwright config`: every setting in force and where it came from."""

from __future__ import annotations

import json
from typing import Any

from batchwright.cli.exits import Exit
from batchwright.cli.options import ConfigFile, Json
from batchwright.cli.terminal import note, say_json, say_table


def config(*, config: ConfigFile = None, as_json: Json = False) -> int:
    """Show every setting in force and where it came from; secrets are masked.

    It checks them all, as `serve` and `run` do before anything starts.
    """
    from batchwright.config import effective_settings, load_config

    loaded = load_config(config)
    settings = list(effective_settings(loaded))
    if as_json:
        values = {each.key: {"value": each.value, "origin": each.origin} for each in settings}
        say_json({"file": None if loaded.file is None else str(loaded.file), "settings": values})
        return Exit.OK
    note(f"file: {loaded.file or 'none'}")
    rows = [(each.key, _shown(each.value), each.origin) for each in settings]
    say_table(("setting", "value", "from"), rows)
    return Exit.OK


def _shown(value: Any) -> str:
    """A value as TOML would write it, as nearly as it matters."""
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
