"""Where the server is and which key opens it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from batchwright.domain.errors import ConfigError

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
DEFAULT_DATA_DIR = Path("batchwright-data")
KEY_FILE_NAME = "admin.key"
BASE_URL_NAME = "base_url"  # tells where the server listens, while one runs

_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL without its last slash, and the key for it (None: no header is sent)."""

    base_url: str
    api_key: str | None = field(repr=False)

    @property
    def is_loopback(self) -> bool:
        return urlsplit(self.base_url).hostname in _LOOPBACK_HOSTS


def resolve_endpoint(
    api_key: str | None = None,
    base_url: str | None = None,
    *,
    data_dir: Path | str | None = None,
    default_url: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """The server to speak to.

    What is passed wins, then `BATCHWRIGHT_BASE_URL` and `BATCHWRIGHT_API_KEY`, then what
    `batchwright serve` left in `data_dir`: its address while it runs, and the admin key.
    That folder is `BATCHWRIGHT_DATA_DIR`, else `batchwright-data` here, where it is not passed.
    Without an address there it is `default_url`, else `http://127.0.0.1:8000/v1`.
    The key of the data directory is sent to this machine only.
    Raises `ConfigError` for a base URL that is not one.
    """
    env = os.environ if environ is None else environ
    folder = Path(data_dir or env.get("BATCHWRIGHT_DATA_DIR") or DEFAULT_DATA_DIR).expanduser()
    url = base_url or env.get("BATCHWRIGHT_BASE_URL") or _kept(folder / BASE_URL_NAME)
    url = (url or default_url or DEFAULT_BASE_URL).strip().rstrip("/")
    _check_url(url)
    key = api_key or env.get("BATCHWRIGHT_API_KEY") or None
    endpoint = Endpoint(url, key.strip() if key else None)
    if endpoint.api_key is None and endpoint.is_loopback:
        return Endpoint(url, _kept(folder / KEY_FILE_NAME))
    return endpoint


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"base_url must be a full URL such as {DEFAULT_BASE_URL}, not {url!r}",
            param="base_url",
        )


def _kept(path: Path) -> str | None:
    """The text of a file of the data directory; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
