"""The settings: each has its default, its reader and one sentence for the documentation."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from batchwright.config.values import (
    Secret,
    number,
    read_endpoints,
    read_file_path,
    read_flag,
    read_headers,
    read_names,
    read_path,
    read_proxy,
    read_routes,
    read_secret,
    read_text,
    read_url,
    setting,
    whole,
)

ADMIN_KEY = "BATCHWRIGHT_ADMIN_KEY"
DATA_DIR = "batchwright-data"
COUNT_MAX = 10**9
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """`[server]`: where `batchwright serve` listens."""

    host: str = setting("127.0.0.1", read_text, "Address to listen on.")
    port: int = setting(8000, whole(0, 65_535), "Port to listen on; 0 takes a free one.")
    tls_cert_file: str | None = setting(
        None, read_file_path, "PEM file with the server's certificate; with it, HTTPS is spoken."
    )
    tls_key_file: str | None = setting(
        None, read_file_path, "PEM file with the private key of the certificate."
    )
    behind_proxy: bool = setting(
        False,
        read_flag,
        "Plain HTTP on an address that other machines reach is meant: a proxy adds TLS.",
    )
    public_url: str | None = setting(
        None, read_url, "Base URL to show to users, where it is not the one that they call."
    )

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """`[limits]`: what a batch, a file and the disk may take."""

    requests_per_batch: int | None = setting(
        50_000, whole(1, COUNT_MAX, or_none=True), "Requests in one batch; 0: no limit."
    )
    embedding_inputs_per_batch: int | None = setting(
        50_000,
        whole(1, COUNT_MAX, or_none=True),
        "Embedding inputs in one batch, over all its requests; 0: no limit.",
    )
    file_mb: int = setting(200, whole(1, 1_000_000), "Size of an uploaded input file, in MiB.")
    line_mb: int = setting(16, whole(1, 512), "Size of one line of an input file, in MiB.")
    one_model_per_file: bool = setting(
        False, read_flag, "Refuse a file whose requests name different models, as OpenAI does."
    )
    extra_endpoints: tuple[str, ...] = setting(
        (), read_endpoints, "Further JSON endpoints to allow, such as `/v1/images/generations`."
    )
    requests_per_s: float | None = setting(
        60.0,
        number(0.1, 1_000_000, or_none=True),
        "API requests per second and tenant, pass-through calls apart; 0: no limit.",
    )
    stored_gb: int | None = setting(
        50,
        whole(1, 1_000_000, or_none=True),
        "Files that a tenant may store, result files too, in GiB; 0: no limit.",
    )
    live_calls: int | None = setting(
        500,
        whole(1, COUNT_MAX, or_none=True),
        "Pass-through calls of a tenant at a time, those that wait too; 0: no limit.",
    )
    live_mb: int | None = setting(
        256,
        whole(1, 1_000_000, or_none=True),
        "Bodies of these calls of a tenant, held in memory, in MiB; 0: no limit.",
    )
    pack_embeddings: bool = setting(
        True,
        read_flag,
        "Send embedding requests of a batch that differ only in `input` in shared calls.",
    )
    max_attempts: int = setting(
        5, whole(1, 100), "How often a request is tried before it counts as failed."
    )
    grace_s: float = setting(
        30.0, number(0, 3600), "How long calls in flight may go on at a stop, cancel or expiry."
    )
    held_mb: int = setting(
        128,
        whole(1, 1_000_000),
        "Request bodies, and answers not stored yet, held in memory per batch, in MiB.",
    )
    reserve_mb: int = setting(
        1024, whole(0, 1_000_000_000), "Free disk space below which nothing is sent, in MiB."
    )
    result_days: int | None = setting(
        30, whole(1, 36_500, or_none=True), "Days that result files are kept; 0: for ever."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """`[providers.NAME]`: an account at an upstream."""

    name: str
    kind: str = setting(
        "openai",
        read_text,
        "What it speaks or is; the name where that is a known kind, else `openai`.",
    )
    base_url: str = setting(
        "", read_url, "Where its API is; a known kind brings its own, others need it."
    )
    api_key: Secret | None = setting(
        None,
        read_secret,
        "`env:NAME` or `file:PATH`. Absent: the usual variable of a known kind at its own "
        "address, else no key is sent.",
    )
    models: tuple[str, ...] = setting(
        (), read_names, "Names or globs of the models to use it for; absent: ask its `/models`."
    )
    requests_per_minute: int | None = setting(
        None,
        whole(1, COUNT_MAX),
        "A cap of your own on its requests; absent: only the provider's limit.",
    )
    tokens_per_minute: int | None = setting(
        None,
        whole(1, 10**12),
        "A cap of your own on its tokens; absent: only the provider's limit.",
    )
    max_concurrency: int = setting(
        2_000, whole(1, 10_000), "A ceiling on the calls in flight; it begins at 50."
    )
    timeout_s: float = setting(600.0, number(1, 86_400), "Time that one call may take.")
    max_attempts: int | None = setting(
        None, whole(1, 100), "As `limits.max_attempts`, for this provider."
    )
    headers: Mapping[str, Secret] = setting(
        dict,
        read_headers,
        "Further headers of every call; a value may be `env:NAME` or `file:PATH`.",
    )
    ca_file: str | None = setting(
        None, read_file_path, "PEM file with further roots to trust (an internal CA)."
    )
    proxy: Secret | None = setting(
        None, read_proxy, "URL of the proxy for its calls; the proxy variables are not used."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """`[models."NAME"]`: how one model name is answered."""

    routes: tuple[str, ...] = setting(
        (),
        read_routes,
        'Where requests for this name go, as "provider/model". The first is taken; the others '
        "are not yet used where it fails.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every effective setting; `origins` tells for each key where its value came from."""

    data_dir: Path = setting(
        Path(DATA_DIR), read_path, "Folder of the database, the files and the keys."
    )
    providers_from_environment: bool | None = setting(
        None,
        read_flag,
        "Whether every known provider whose key is in the environment is on; absent: only "
        "where no provider is configured.",
    )
    server: ServerConfig = field(default_factory=ServerConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    providers: Mapping[str, ProviderConfig] = field(default_factory=dict)
    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    admin_key: Secret | None = None
    file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)


class EffectiveSetting(NamedTuple):
    """One line of `batchwright config`; a secret's value is masked."""

    key: str
    value: Any
    origin: str


def effective_settings(config: Config) -> Iterator[EffectiveSetting]:
    """Every setting as it is in force, in the order of the documentation."""
    sections: list[tuple[str, Any]] = [
        ("", config),
        ("server.", config.server),
        ("limits.", config.limits),
    ]
    sections += [(f"providers.{quoted(name)}.", each) for name, each in config.providers.items()]
    sections += [(f"models.{quoted(name)}.", each) for name, each in config.models.items()]
    for prefix, section in sections:
        for declared in settings_of(type(section)):
            key = prefix + declared.name
            origin = config.origins.get(key, "default")
            yield EffectiveSetting(key, _shown(getattr(section, declared.name)), origin)
    if config.admin_key is not None:
        yield EffectiveSetting(ADMIN_KEY, str(config.admin_key), "environment")


def settings_of(kind: type) -> list[Field[Any]]:
    """The fields of a section that are settings."""
    return [declared for declared in fields(kind) if "reader" in declared.metadata]


def names_of(kind: type) -> list[str]:
    """The names of the settings of a section."""
    return [declared.name for declared in settings_of(kind)]


def plain_keys() -> list[str]:
    """The dotted keys of the settings that are not named by the user."""
    return [
        *names_of(Config),
        *(f"server.{name}" for name in names_of(ServerConfig)),
        *(f"limits.{name}" for name in names_of(LimitsConfig)),
    ]


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def quoted(name: str) -> str:
    """A name as a part of a dotted TOML key."""
    return name if _BARE_KEY.fullmatch(name) else f'"{name}"'


def _shown(value: Any) -> Any:
    """A value as plain data, secrets masked."""
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {name: _shown(each) for name, each in value.items()}
    return value
