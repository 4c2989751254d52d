"""What the sandbox reads of a request body, and OpenAI's 400 for what it cannot read.

Only the fields that shape an answer are decoded; the rest of a body is accepted unseen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import msgspec

from batchwright.domain.errors import UsageError

EMBEDDING_INPUTS_MAX = 2048
EMBEDDING_INPUT_TOKENS_MAX = 8192
EMBEDDING_TOKENS_MAX = 300_000
CHOICES_MAX = 128
IMAGES_MAX = 10

Prompt = str | list[Any]  # a text, texts, token ids, or lists of token ids


class Message(msgspec.Struct, gc=False):
    """One message of a conversation; parts other than text weigh a fixed number of tokens."""

    role: str = "user"
    content: str | list[Any] | None = None


class ChatBody(msgspec.Struct, gc=False):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: list[Message]
    n: int | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    stream_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


class CompletionBody(msgspec.Struct, gc=False):
    """The body of POST /v1/completions."""

    model: str
    prompt: Prompt
    n: int | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    stream_options: dict[str, Any] | None = None


class EmbeddingBody(msgspec.Struct, gc=False):
    """The body of POST /v1/embeddings."""

    model: str
    input: Prompt
    dimensions: int | None = None
    encoding_format: str | None = None


class ResponseBody(msgspec.Struct, gc=False):
    """The body of POST /v1/responses."""

    model: str
    input: str | list[Any]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class ModerationBody(msgspec.Struct, gc=False):
    """The body of POST /v1/moderations."""

    input: str | list[Any]
    model: str | None = None


class ImageBody(msgspec.Struct, gc=False):
    """The body of POST /v1/images/generations and of POST /v1/images/edits."""

    prompt: str
    model: str | None = None
    n: int | None = None
    size: str | None = None
    response_format: str | None = None


class VideoBody(msgspec.Struct, gc=False):
    """The body of POST /v1/videos."""

    prompt: str
    model: str | None = None
    seconds: str | int | None = None
    size: str | None = None


B = TypeVar(
    "B",
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    ResponseBody,
    ModerationBody,
    ImageBody,
    VideoBody,
)


def reader(kind: type[B]) -> Callable[[bytes], B]:
    """A function that decodes a body of this kind; it raises `UsageError` with OpenAI's words."""
    decode = msgspec.json.Decoder(kind).decode

    def read(body: bytes) -> B:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            _refuse_shape(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                "We could not parse the JSON body of your request. (HINT: This likely means you "
                "aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, "
                "but what was sent was not valid JSON.)"
            ) from error

    return read


def check_sampling(
    model: str, n: int | None, temperature: float | None, max_tokens: int | None, name: str
) -> None:
    """Refuse what OpenAI refuses of the usual sampling parameters; `name` is that of the cap."""
    if n is not None and not 1 <= n <= CHOICES_MAX:
        _refuse_range("n", n, 1, CHOICES_MAX)
    if max_tokens is not None and max_tokens < 1:
        _refuse_range(name, max_tokens, 1, None)
    if temperature is None:
        return
    if not 0 <= temperature <= 2:
        _refuse_range("temperature", temperature, 0, 2)
    if temperature != 1 and is_reasoning(model):
        raise UsageError(
            f"Unsupported value: 'temperature' does not support {temperature:g} with this model. "
            "Only the default (1) value is supported.",
            param="temperature",
            code="unsupported_value",
        )


def check_reasoning_cap(body: ChatBody) -> None:
    """Reasoning models refuse `max_tokens`, as OpenAI's do."""
    if body.max_tokens is not None and is_reasoning(body.model):
        raise UsageError(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )


@lru_cache(maxsize=1024)
def is_reasoning(model: str) -> bool:
    """Whether OpenAI's model of this name reasons before it answers."""
    return _REASONING.match(model) is not None


def check_not_empty(name: str, value: str | list[Any]) -> None:
    """Refuse an empty text, an empty list and a list with an empty text in it."""
    if isinstance(value, list) and not value:
        raise UsageError(
            f"Invalid '{name}': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
            param=name,
            code="empty_array",
        )
    if value == "" or (isinstance(value, list) and ("" in value or [] in value)):
        raise _invalid_input(name)


def prompts_of(name: str, value: Prompt) -> list[str | list[int]]:
    """The single inputs of a `prompt` or `input`: a list of token ids is one input."""
    check_not_empty(name, value)
    if isinstance(value, str):
        return [value]
    if all(type(item) is str for item in value):
        return value
    if all(type(item) is int for item in value):
        return [value]
    if all(isinstance(item, list) and all(type(i) is int for i in item) for item in value):
        return value
    raise _invalid_input(name)


def check_images(body: ImageBody) -> None:
    """Refuse an empty prompt, and more pictures than OpenAI makes in one call."""
    check_not_empty("prompt", body.prompt)
    if body.n is not None and not 1 <= body.n <= IMAGES_MAX:
        _refuse_range("n", body.n, 1, IMAGES_MAX)


def check_embedding(body: EmbeddingBody, token_counts: list[int]) -> None:
    """Refuse what is over OpenAI's limits for one call to /v1/embeddings."""
    if body.encoding_format not in (None, "float", "base64"):
        raise UsageError(
            f"Invalid value: '{body.encoding_format}'. Supported values are: 'float' and 'base64'.",
            param="encoding_format",
            code="invalid_value",
        )
    if body.dimensions is not None and not 1 <= body.dimensions <= 3072:
        _refuse_range("dimensions", body.dimensions, 1, 3072)
    if len(token_counts) > EMBEDDING_INPUTS_MAX:
        raise UsageError(
            f"Invalid 'input': array too long. Expected an array with maximum length "
            f"{EMBEDDING_INPUTS_MAX}, but got an array with length {len(token_counts)} instead.",
            param="input",
            code="array_above_max_length",
        )
    if max(token_counts) > EMBEDDING_INPUT_TOKENS_MAX:
        raise UsageError(
            f"This model's maximum context length is {EMBEDDING_INPUT_TOKENS_MAX} tokens, however "
            f"you requested {max(token_counts)} tokens. Please reduce your prompt.",
        )
    if sum(token_counts) > EMBEDDING_TOKENS_MAX:
        raise UsageError(
            f"Requested {sum(token_counts)} tokens, max {EMBEDDING_TOKENS_MAX} tokens per request",
            code="max_tokens_per_request",
        )


_REASONING = re.compile(r"(gpt-5(?!-chat)|o[134](-|$))")
_SHAPE = re.compile(r"Expected `(?P<want>[^`]+)`, got `(?P<got>[^`]+)`(?: - at `(?P<where>.+)`)?")
_MISSING = re.compile(r"missing required field `(?P<name>.+?)`(?: - at `(?P<where>.+)`)?")
_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a decimal number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def _refuse_shape(problem: str) -> NoReturn:
    """Say a problem of msgspec's in OpenAI's words."""
    if missing := _MISSING.search(problem):
        name = _field(missing["where"], missing["name"])
        text = f"Missing required parameter: '{name}'."
        if name == "model":
            text = "you must provide a model parameter"
        raise UsageError(text, param=name, code="missing_required_parameter")
    if not (wrong := _SHAPE.search(problem)):
        raise UsageError(problem, code="invalid_value")
    name = _field(wrong["where"])
    want = " or ".join(_NAMES.get(kind, kind) for kind in wrong["want"].split(" | "))
    got = _NAMES.get(wrong["got"], wrong["got"])
    raise UsageError(
        f"Invalid type for '{name}': expected {want}, but got {got} instead.",
        param=name or None,
        code="invalid_type",
    )


def _field(where: str | None, name: str = "") -> str:
    """`$.messages[0].role` as OpenAI writes it."""
    outer = (where or "$").removeprefix("$").removeprefix(".")
    return ".".join(part for part in (outer, name) if part)


def _refuse_range(name: str, value: float, low: int, high: int | None) -> NoReturn:
    below = value < low
    bound = f">= {low}" if below else f"<= {high}"
    kind = "integer" if isinstance(value, int) else "decimal"
    raise UsageError(
        f"Invalid '{name}': {kind} {'below minimum' if below else 'above maximum'} value. "
        f"Expected a value {bound}, but got {value} instead.",
        param=name,
        code=f"{kind}_{'below_min' if below else 'above_max'}_value",
    )


def _invalid_input(name: str) -> UsageError:
    return UsageError(
        f"'$.{name}' is invalid. Please check the API reference: "
        "https://platform.openai.com/docs/api-reference.",
        param=name,
    )
