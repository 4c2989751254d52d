"""Where the server is and which key opens it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from batchwright.data_directory import owned_since_ns, rehearsal_of
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
    `batchwright serve` keeps in `data_dir` while it runs: its address and the admin key.
    That folder is `BATCHWRIGHT_DATA_DIR`, else `batchwright-data` here, where it is not passed;
    where no server runs over it but one rehearses, that one's.
    Without an address there it is `default_url`, else `http://127.0.0.1:8000/v1`.
    The key of the data directory is sent to this machine only, and only while a server runs over
    that folder: anybody may listen where one listened before. To an address that is only a default
    it is not sent.
    Raises `ConfigError` for a base URL that is not one.
    """
    env = os.environ if environ is None else environ
    folder = Path(data_dir or env.get("BATCHWRIGHT_DATA_DIR") or DEFAULT_DATA_DIR).expanduser()
    since_ns = owned_since_ns(folder)
    if since_ns is None and (rehearsing := owned_since_ns(rehearsal_of(folder))) is not None:
        folder, since_ns = rehearsal_of(folder), rehearsing
    known = base_url or env.get("BATCHWRIGHT_BASE_URL") or _announced(folder, since_ns)
    url = (known or default_url or DEFAULT_BASE_URL).strip().rstrip("/")
    _check_url(url)
    key = api_key or env.get("BATCHWRIGHT_API_KEY") or None
    endpoint = Endpoint(url, key.strip() if key else None)
    is_ours = known and since_ns is not None and endpoint.is_loopback
    if endpoint.api_key is None and is_ours:
        return Endpoint(url, _kept(folder / KEY_FILE_NAME))
    return endpoint


def _announced(folder: Path, since_ns: int | None) -> str | None:
    """The address of the server that has owned the folder since then, not of one before it."""
    path = folder / BASE_URL_NAME
    try:
        is_its_own = since_ns is not None and path.stat().st_mtime_ns >= since_ns
    except OSError:
        return None
    return _kept(path) if is_its_own else None


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
