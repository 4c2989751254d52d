"""Request bodies, read: which model, which text, how much of an answer and in which form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from batchwright.domain.errors import NotFound, UsageError
from batchwright.providers.builtin.embedding import DIMENSIONS_DEFAULT
from batchwright.providers.builtin.models import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    Model,
    find_model,
)
from batchwright.providers.builtin.parameters import (
    Body,
    check_parameters,
    invalid_type,
    invalid_value,
    missing,
)
from batchwright.providers.builtin.tokens import count_tokens

INPUTS_MAX = 2048
INPUT_TOKENS_MAX = 8192

_MESSAGE_TOKENS = 3  # what a message costs beside its text, as at OpenAI
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request for a text, of any of the three endpoints that give one."""

    endpoint: str
    model: Model
    prompt: str  # what the model is asked: the last user message
    input_tokens: int
    output_tokens_max: int | None
    stops: tuple[str, ...]
    is_streamed: bool
    includes_usage: bool  # a streamed answer ends with its usage
    body: Body  # as it came, for what an answer repeats


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request for vectors, one per input."""

    model: Model
    inputs: tuple[str, ...]
    input_tokens: int
    dimensions: int
    is_base64: bool


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    text: str


def read_request(endpoint: str, raw: bytes) -> TextRequest | EmbeddingRequest:
    """The request in a body. Raises `UsageError` or `NotFound` for what cannot be answered."""
    if endpoint not in (CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS):
        raise NotFound(f"Invalid URL (POST {endpoint}): builtin does not have this endpoint.")
    body = _decode(raw)
    name = body.get("model")
    if not isinstance(name, str):
        raise missing("model") if name is None else invalid_type("model", "a string", name)
    model = find_model(name, endpoint)
    check_parameters(endpoint, body)
    if endpoint == EMBEDDINGS:
        return _read_embedding(model, body)
    return _read_text(endpoint, model, body)


def _decode(raw: bytes) -> Body:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"We could not parse the JSON body of your request: {error}.") from error
    if not isinstance(body, dict):
        raise UsageError("The body of a request must be a JSON object.")
    return body


def _read_text(endpoint: str, model: Model, body: Body) -> TextRequest:
    messages = _MESSAGES[endpoint](body)
    prompts = [message.text for message in messages if message.role == "user"]
    if not prompts:
        param = "input" if endpoint == RESPONSES else "messages"
        raise UsageError(
            f"Invalid '{param}': {model.name} answers the last user message, and there is none.",
            param=param,
            code="invalid_value",
        )
    stop = body.get("stop") or ()
    return TextRequest(
        endpoint=endpoint,
        model=model,
        prompt=prompts[-1],
        input_tokens=_count_prompt(endpoint, messages),
        output_tokens_max=_output_tokens_max(body),
        stops=tuple(s for s in ((stop,) if isinstance(stop, str) else stop) if s),
        is_streamed=bool(body.get("stream")),
        includes_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        body=body,
    )


def _count_prompt(endpoint: str, messages: list[_Message]) -> int:
    """The tokens of every message, and 3 for each but in the bare text of completions."""
    framing = 0 if endpoint == COMPLETIONS else _MESSAGE_TOKENS
    return sum(count_tokens(message.text) + framing for message in messages)


def _output_tokens_max(body: Body) -> int | None:
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    return next((body[name] for name in names if body.get(name) is not None), None)


def _chat_messages(body: Body) -> list[_Message]:
    return _read_messages("messages", body.get("messages"))


def _response_messages(body: Body) -> list[_Message]:
    instructions = [_Message("system", body["instructions"])] if body.get("instructions") else []
    given = body.get("input")
    if isinstance(given, str):
        return [*instructions, _Message("user", given)]
    return instructions + _read_messages("input", given)


def _completion_messages(body: Body) -> list[_Message]:
    prompt = body.get("prompt")
    if prompt is None:
        raise missing("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise invalid_type("prompt", "a string (the builtin models read no token ids)", prompt)
    return [_Message("user", prompt)]


_MESSAGES = {CHAT: _chat_messages, RESPONSES: _response_messages, COMPLETIONS: _completion_messages}


def _read_messages(param: str, given: Any) -> list[_Message]:
    if given is None:
        raise missing(param)
    if not isinstance(given, list):
        raise invalid_type(param, "an array of messages", given)
    if not given:
        raise UsageError(
            f"Invalid '{param}': empty array. Expected at least one message.",
            param=param,
            code="empty_array",
        )
    return [_read_message(f"{param}[{i}]", item) for i, item in enumerate(given)]


def _read_message(param: str, item: Any) -> _Message:
    if not isinstance(item, dict):
        raise invalid_type(param, "an object", item)
    kind = item.get("type", "message")
    if kind != "message":
        raise invalid_value(f"{param}.type", kind, "'message' (the builtin models read only text)")
    role = item.get("role")
    if role not in _ROLES:
        if role is None:
            raise missing(f"{param}.role")
        raise invalid_value(f"{param}.role", role, ", ".join(f"'{one}'" for one in _ROLES))
    return _Message(role, _read_content(f"{param}.content", role, item.get("content")))


def _read_content(param: str, role: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":  # one that only called tools
        return ""
    if content is None:
        raise missing(param)
    if not isinstance(content, list):
        raise invalid_type(param, "a string or an array of content parts", content)
    return "\n".join(_read_part(f"{param}[{i}]", part) for i, part in enumerate(content))


def _read_part(param: str, part: Any) -> str:
    if not isinstance(part, dict):
        raise invalid_type(param, "an object", part)
    kind = part.get("type")
    if kind not in _TEXT_PARTS:
        raise invalid_value(f"{param}.type", kind, "'text' (the builtin models read only text)")
    key = "refusal" if kind == "refusal" else "text"
    text = part.get(key)
    if not isinstance(text, str):
        raise invalid_type(f"{param}.{key}", "a string", text)
    return text


def _read_embedding(model: Model, body: Body) -> EmbeddingRequest:
    inputs = _read_inputs(body.get("input"))
    counts = [count_tokens(text) for text in inputs]
    if max(counts) > INPUT_TOKENS_MAX:
        raise UsageError(
            f"{model.name} takes at most {INPUT_TOKENS_MAX} tokens an input, "
            f"however you requested {max(counts)} tokens (input {counts.index(max(counts))}).",
            param="input",
            code="context_length_exceeded",
        )
    return EmbeddingRequest(
        model=model,
        inputs=tuple(inputs),
        input_tokens=sum(counts),
        dimensions=body.get("dimensions") or DIMENSIONS_DEFAULT,
        is_base64=body.get("encoding_format") == "base64",
    )


def _read_inputs(given: Any) -> list[str]:
    if given is None:
        raise missing("input")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list):
        raise invalid_type("input", "a string or an array of strings", given)
    if not 1 <= len(inputs) <= INPUTS_MAX:
        raise UsageError(
            f"Invalid 'input': expected 1 to {INPUTS_MAX} inputs, but got {len(inputs)}.",
            param="input",
            code="array_above_max_length" if inputs else "empty_array",
        )
    for index, text in enumerate(inputs):
        _check_input(f"input[{index}]" if inputs is given else "input", text)
    return inputs


def _check_input(where: str, text: Any) -> None:
    if isinstance(text, int | list):
        raise UsageError(
            "Invalid 'input': builtin/embedding takes a string or an array of strings; "
            "it has no vocabulary of token ids.",
            param="input",
            code="unsupported_value",
        )
    if not isinstance(text, str):
        raise invalid_type(where, "a string", text)
    if not text:
        raise UsageError(
            f"Invalid '{where}': an input cannot be an empty string.",
            param="input",
            code="invalid_value",
        )
