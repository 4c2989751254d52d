"""The embedded models: what each is called and which endpoints it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchwright.domain.errors import NotFound, UsageError
from batchwright.providers.builtin import echo, sentiment

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"

_PREFIX = "builtin/"


@dataclass(frozen=True, slots=True)
class Model:
    """One embedded model."""

    name: str  # as answers show it: `builtin/echo`
    endpoints: tuple[str, ...]
    reply: Callable[[str], str] | None = None  # None: it answers with vectors, not with text


_TEXT_ENDPOINTS = (CHAT, RESPONSES, COMPLETIONS)
_MODELS = (
    Model("builtin/sentiment", _TEXT_ENDPOINTS, sentiment.classify),
    Model("builtin/embedding", (EMBEDDINGS,)),
    Model("builtin/echo", _TEXT_ENDPOINTS, echo.repeat),
)
_BY_NAME = {model.name: model for model in _MODELS}

MODELS = tuple(_BY_NAME)


def find_model(name: str, endpoint: str) -> Model:
    """The model of a body, by its name with or without `builtin/`.

    Raises `NotFound` for a name that is none of ours, `UsageError` for another model's endpoint.
    """
    model = _BY_NAME.get(name if name.startswith(_PREFIX) else _PREFIX + name)
    if model is None:
        raise NotFound(
            f"The model '{name}' does not exist; builtin serves {', '.join(MODELS)}.",
            param="model",
            code="model_not_found",
        )
    if endpoint not in model.endpoints:
        raise UsageError(
            f"The model '{model.name}' does not answer {endpoint}, "
            f"only {', '.join(model.endpoints)}.",
            param="model",
            code="unsupported_endpoint",
        )
    return model
