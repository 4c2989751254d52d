"""The composition root: the only place that picks implementations and puts them together.

What a configuration does not use is not imported.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

from batchwright import data_directory
from batchwright.blobs.base import Blobs
from batchwright.blobs.local import LocalBlobs
from batchwright.config import BUILTIN, Config, LimitsConfig, ProviderConfig
from batchwright.domain.errors import ConfigError
from batchwright.domain.key import DEFAULT_TENANT, Key, digest_of, lookup_id, make_token
from batchwright.engine.engine import Engine
from batchwright.engine.lane import Lane, LaneLimits
from batchwright.engine.limiter import Declared
from batchwright.engine.routing import Account, Rates, RatesLookup, Router
from batchwright.engine.runtime import Runtime
from batchwright.engine.settings import EngineSettings
from batchwright.providers.base import Provider, Transport
from batchwright.providers.catalog import catalog
from batchwright.store.sql import SqlStore
from batchwright.system import SystemRuntime

REHEARSAL = "sandbox"
BUILTIN_CONCURRENCY = 50  # its work is done here: more at once is not quicker
REHEARSAL_CONCURRENCY = 256
ADMIN = "admin"
FIRST_KEY_NAME = "first start"
GIVEN_KEY_NAME = "BATCHWRIGHT_ADMIN_KEY"

_KEY_RANDOM_BYTES = 40  # what `make_token` takes


@dataclass(frozen=True, slots=True)
class Node:
    """One batchwright over one data directory. The engine is not started yet."""

    engine: Engine
    store: SqlStore
    blobs: Blobs
    runtime: Runtime
    config: Config
    pepper: bytes = field(repr=False)


@asynccontextmanager
async def open_node(config: Config, *, rehearse: bool = False) -> AsyncIterator[Node]:
    """Own the data directory and build everything over it; closed on leaving.

    The caller starts and stops the engine. With `rehearse` every model name is answered by a
    sandbox in this process and no provider is called.
    Raises `ConfigError`, `Locked` (naming the other owner) and `StorageError`.
    """
    folder = data_directory.prepare(config.data_dir)
    with data_directory.locked(folder):
        pepper = data_directory.pepper(folder)
        async with AsyncExitStack() as stack:
            blobs = LocalBlobs(folder / data_directory.BLOBS_NAME)
            stack.push_async_callback(blobs.close)
            # Quoted, as a `%` or `?` in the folder's name means something in a URL.
            database = quote(str(folder / data_directory.DATABASE_NAME))
            store = await SqlStore.open(f"sqlite:///{database}")
            stack.push_async_callback(store.close)
            runtime = SystemRuntime()
            accounts = _accounts(config, runtime, rehearse)
            for account in accounts:
                stack.push_async_callback(account.provider.transport.close)
            engine = Engine(
                tenants=store,
                store=store,
                blobs=blobs,
                runtime=runtime,
                router=_router(config, accounts),
                settings=engine_settings(config.limits),
            )
            yield Node(engine, store, blobs, runtime, config, pepper)


def engine_settings(limits: LimitsConfig) -> EngineSettings:
    """What the engine is told of `[limits]`."""
    return EngineSettings(
        requests_per_batch=limits.requests_per_batch,
        embedding_inputs_per_batch=limits.embedding_inputs_per_batch,
        line_bytes_max=limits.line_mb * 2**20,
        one_model_per_file=limits.one_model_per_file,
        extra_endpoints=limits.extra_endpoints,
        pack_embeddings=limits.pack_embeddings,
        max_attempts=limits.max_attempts,
        grace_s=limits.grace_s,
        held_bytes_max=limits.held_mb * 2**20,
        reserve_bytes=limits.reserve_mb * 2**20,
        result_ttl_s=None if limits.result_days is None else limits.result_days * 86_400,
    )


# The first key


async def ensure_admin_key(node: Node) -> str | None:
    """See that there is an admin key; returns its text where it was made now, to be printed once.

    `BATCHWRIGHT_ADMIN_KEY` is taken where it is set, in place of the one that it held before.
    Else the first start makes one and leaves it 0600 in the data directory.
    """
    given = node.config.admin_key
    token = None if given is None else given.value
    await _revoke_given_keys(node, but=token)
    if token is None:
        return await _ensure_own_key(node)
    await _take_given_key(node, token)
    return None


async def _revoke_given_keys(node: Node, *, but: str | None) -> None:
    """A key that the environment held before, and no longer holds, opens nothing any more."""
    kept = None if but is None else lookup_id(but)
    for key in await node.store.list_keys(DEFAULT_TENANT):
        if key.name == GIVEN_KEY_NAME and key.id != kept and key.revoked_at is None:
            await node.store.revoke_key(DEFAULT_TENANT, key.id, node.runtime.now())


async def _take_given_key(node: Node, token: str) -> None:
    key = _admin_key(node, token, GIVEN_KEY_NAME)
    found = await node.store.find_key(key.id)
    if found is None or found.digest != key.digest or found.revoked_at is not None:
        await node.store.put_key(key)


async def _ensure_own_key(node: Node) -> str | None:
    keys = await node.store.list_keys(DEFAULT_TENANT)
    if any(key.role == ADMIN and key.revoked_at is None for key in keys):
        return None
    # The file comes first: a start that is killed in between is made good by the next one.
    path = node.config.data_dir.absolute() / data_directory.ADMIN_KEY_NAME
    token = (data_directory.read_private(path) or b"").decode("ascii", "ignore").strip()
    if not token or any(key.id == lookup_id(token) for key in keys):
        token = make_token(node.runtime.token(_KEY_RANDOM_BYTES))
        data_directory.write_private(path, token.encode() + b"\n")
    await node.store.put_key(_admin_key(node, token, FIRST_KEY_NAME))
    return token


def _admin_key(node: Node, token: str, name: str) -> Key:
    return Key(
        id=lookup_id(token),
        tenant=DEFAULT_TENANT,
        role=ADMIN,
        name=name,
        digest=digest_of(node.pepper, token),
        created_at=node.runtime.now(),
    )


# Providers


def _accounts(config: Config, runtime: Runtime, rehearse: bool) -> list[Account]:
    if rehearse:
        return [_builtin(runtime), _rehearsal(runtime)]
    configured = [_configured(provider, runtime) for provider in config.providers.values()]
    return [_builtin(runtime), *configured]


def _builtin(runtime: Runtime) -> Account:
    from batchwright.providers.builtin import MODELS, BuiltinProvider, BuiltinTransport

    provider = BuiltinProvider(BuiltinTransport(wall_clock=time.time))
    limits = LaneLimits(max_concurrency=BUILTIN_CONCURRENCY)
    lane = Lane(BUILTIN, limits=limits, runtime=runtime)
    return Account(provider, lane, models=tuple(MODELS))


def _rehearsal(runtime: Runtime) -> Account:
    from batchwright.sandbox.transport import SandboxTransport

    played = ProviderConfig(name=REHEARSAL, base_url="http://sandbox.invalid/v1")
    provider = _openai(played, SandboxTransport())
    limits = LaneLimits(max_concurrency=REHEARSAL_CONCURRENCY)
    return Account(provider, Lane(REHEARSAL, limits=limits, runtime=runtime), serves_any=True)


def _configured(provider: ProviderConfig, runtime: Runtime) -> Account:
    made = _KINDS[catalog()[provider.kind].kind](provider, _transport(provider))
    declared = Declared(
        requests_per_minute=provider.requests_per_minute,
        tokens_per_minute=provider.tokens_per_minute,
    )
    limits = LaneLimits(provider.max_concurrency, declared, provider.max_attempts)
    upstream = provider.base_url.rstrip("/")
    lane = Lane(provider.name, limits=limits, runtime=runtime, upstream=upstream)
    return Account(made, lane, models=provider.models)


def _transport(provider: ProviderConfig) -> Transport:
    """The HTTP client of a provider: the quick one where plain HTTP is all that is needed."""
    from batchwright.providers.http1 import Http1Transport
    from batchwright.providers.reqwest import ReqwestTransport

    proxy = None if provider.proxy is None else provider.proxy.value
    try:
        if provider.base_url.lower().startswith("http://") and proxy is None:
            return Http1Transport()
        return ReqwestTransport(ca_file=provider.ca_file, proxy=proxy)
    except ConfigError as error:
        raise ConfigError(f"providers.{provider.name}.{error}", param=error.param) from error


def _openai(provider: ProviderConfig, transport: Transport) -> Provider:
    from batchwright.providers.openai import OpenAIProvider

    return OpenAIProvider(
        name=provider.name,
        base_url=provider.base_url,
        api_key=None if provider.api_key is None else provider.api_key.value,
        transport=transport,
        models=provider.models,
        timeout_s=provider.timeout_s,
        headers={name: secret.value for name, secret in provider.headers.items()},
    )


_KINDS: dict[str, Callable[[ProviderConfig, Transport], Provider]] = {"openai": _openai}


# Routing


def _router(config: Config, accounts: list[Account]) -> Router:
    return Router(
        accounts,
        preferences={name: model.routes for name, model in config.models.items() if model.routes},
        hints=_hints(config),
        rates=_rates(config),
    )


def _rates(config: Config) -> RatesLookup:
    urls = {name: provider.base_url for name, provider in config.providers.items()}

    def look_up(provider: str, model: str) -> Rates | None:
        from batchwright.pricing.lookup import rates

        return rates(provider, model, urls.get(provider))

    return look_up


_MODELS_OF = {
    "openai": (
        *("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "codex-*", "text-embedding-3-*"),
        *("text-embedding-ada-*", "omni-moderation-*", "text-moderation-*", "dall-e-*", "tts-*"),
    ),
    "gemini": ("gemini-*", "gemma-*"),
    "deepseek": ("deepseek-*",),
    "mistral": ("mistral-*", "ministral-*", "magistral-*", "codestral-*", "devstral-*"),
    "xai": ("grok-*",),
    "qwen": ("qwen-*", "qwen3-*", "qwq-*"),
    "glm": ("glm-*",),
}


def _hints(config: Config) -> dict[str, str]:
    """By the look of a model's name: what would bring it."""
    return {
        glob: _hint(config, provider)
        for provider, globs in _MODELS_OF.items()
        for glob in (*globs, f"{provider}/*")
    }


def _hint(config: Config, provider: str) -> str:
    entry = catalog()[provider]
    if provider in config.providers:
        return (
            f"The provider '{provider}' does not list it: check the name, or add it to "
            f"[providers.{provider}] models (batchwright models shows what a server knows)."
        )
    if config.providers and not config.providers_from_environment:
        return f"Add [providers.{provider}] to the configuration ({entry.title})."
    return f"Set {entry.api_key_env[0]} ({entry.title}) and start again."
