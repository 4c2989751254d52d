"""Kind `openai`: every endpoint that speaks OpenAI's API.

OpenAI itself, and vLLM, Ollama, llama.cpp, DeepSeek, Qwen, GLM, Groq, Together, Mistral,
OpenRouter, Gemini's compatible endpoint and many more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from urllib.parse import urlsplit

import msgspec

from batchwright.domain.errors import Ambiguous, ConfigError
from batchwright.domain.result import ANSWER_BYTES_MAX
from batchwright.providers.base import Call, Transport
from batchwright.providers.rate_limits import RateLimitReader

TIMEOUT_S = 600.0
MODELS_TIMEOUT_S = 30.0
MODELS_BYTES_MAX = 4 * 2**20

_WIRE_PREFIX = "/v1"  # what the path of a batch line begins with
_GLOB = frozenset("*?[")
_HEADERS_OF_OURS = frozenset({"content-type", "content-length", "host", "transfer-encoding"})


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class OpenAIProvider:
    """An account at an endpoint that speaks OpenAI's API.

    `base_url` takes the place of `/v1` in the path of a request, whatever version it ends in:
    `https://api.openai.com/v1`, `https://host/v1beta/openai/`. A base URL without any path
    stands for its `/v1`. `models` are names or globs; where there are none, or a glob, the
    upstream is asked. Raises `ConfigError` for a URL, key or header that cannot be sent.
    """

    kind = "openai"

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str | None,
        transport: Transport,
        models: Sequence[str] = (),
        *,
        timeout_s: float = TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> None:
        self.name = name
        self.transport = transport
        self.base_url = _checked_base_url(name, base_url)
        self.models = tuple(models)
        self._has_key = api_key is not None
        self._headers = _checked_headers(name, api_key, headers or {})
        self._timeout_s = timeout_s
        self._answer_bytes_max = answer_bytes_max
        self.read_limits = RateLimitReader().read  # every answer comes through here
        self._urls: dict[str, str] = {}  # one entry for each endpoint, of which there are few

    def __repr__(self) -> str:
        key = "'***'" if self._has_key else None
        return f"OpenAIProvider(name={self.name!r}, base_url={self.base_url!r}, api_key={key})"

    def prepare(self, url: str, body: bytes) -> Call:
        """The call for a request to the endpoint `url` (`/v1/chat/completions`)."""
        absolute = self._urls.get(url)
        if absolute is None:
            absolute = self._urls[url] = self._absolute(url)
        return Call("POST", absolute, self._headers, body, self._timeout_s, self._answer_bytes_max)

    async def list_models(self) -> list[str]:
        """The names of the models served, asked for where `models` does not name them all.

        Raises `TransportError`, also where the upstream answers with no list of models.
        """
        if self.models and not any(_GLOB & set(name) for name in self.models):
            return list(self.models)
        return [name for name in await self._ask_models() if self.is_allowed(name)]

    def is_allowed(self, model: str) -> bool:
        """Whether the configuration lets this account serve the model; true where it is silent."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)

    async def _ask_models(self) -> list[str]:
        url = self._absolute("/v1/models")
        answer = await self.transport.send(
            Call("GET", url, self._headers, b"", MODELS_TIMEOUT_S, MODELS_BYTES_MAX)
        )
        if answer.status != 200:
            raise Ambiguous(f"{self.name}: asking for its models was answered {answer.status}")
        try:
            listed = msgspec.json.decode(answer.body, type=_Models)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Ambiguous(f"{self.name}: its list of models cannot be read") from error
        # Gemini's endpoint lists `models/gemini-…` but takes the bare name.
        return list(dict.fromkeys(model.id.removeprefix("models/") for model in listed.data))

    def _absolute(self, url: str) -> str:
        path = url.removeprefix(_WIRE_PREFIX) if url.startswith(_WIRE_PREFIX + "/") else url
        return self.base_url + path


def _checked_base_url(name: str, base_url: str) -> str:
    """The base URL without its last slash; that of a bare host with `/v1`."""
    try:
        parts = urlsplit(base_url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_complete = is_complete and parts.port != 0
    except ValueError:
        is_complete = False
    if not is_complete or parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigError(
            f"providers.{name}.base_url: expected a URL such as https://api.openai.com/v1, "
            "without user, query and fragment",
            param=f"providers.{name}.base_url",
        )
    stripped = base_url.rstrip("/")
    return stripped if parts.path.strip("/") else stripped + _WIRE_PREFIX


def _checked_headers(name: str, api_key: str | None, extra: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of every call. A configured `authorization` takes the place of the key's."""
    headers = {"content-type": "application/json"}
    if api_key is not None:
        if not _is_sendable(api_key):
            raise ConfigError(
                f"providers.{name}.api_key: expected printable ASCII without spaces",
                param=f"providers.{name}.api_key",
            )
        headers["authorization"] = f"Bearer {api_key}"
    for header, value in extra.items():
        param = f"providers.{name}.headers.{header}"
        if header.lower() in _HEADERS_OF_OURS:
            raise ConfigError(f"{param}: this header is set by the client", param=param)
        if not _is_sendable(header) or not value.isascii() or not value.isprintable():
            raise ConfigError(f"{param}: expected printable ASCII", param=param)
        headers[header.lower()] = value
    return MappingProxyType(headers)


def _is_sendable(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
