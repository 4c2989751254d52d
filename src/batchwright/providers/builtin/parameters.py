"""The parameters that the builtin models take, endpoint by endpoint.

Four kinds: those that shape the answer, those that a program may send to any model and that
change nothing here (`temperature`, `seed`), those that are fine with the one value that asks
for nothing (`n: 1`, `tools: []`), and the rest, which is refused: a program that relies on a
parameter must not be answered as if it had been heard.
Null is the same as absent, as at OpenAI. Messages and codes are modelled on OpenAI's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchwright.domain.errors import UsageError
from batchwright.providers.builtin import embedding
from batchwright.providers.builtin.models import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES

Body = Mapping[str, Any]
_Rule = Callable[[str, Any], None]  # raises `UsageError` for a value that is not allowed

_STOPS_MAX = 4
_METADATA_PAIRS_MAX = 16


def check_parameters(endpoint: str, body: Body) -> None:
    """Raise `UsageError`, naming the parameter, for the first that is wrong or not supported."""
    rules = _RULES[endpoint]
    for name, value in body.items():
        rule = rules.get(name)
        if rule is None:
            raise _unknown(name)
        if value is not None:
            rule(name, value)
    if body.get("stream_options") is not None and not body.get("stream"):
        raise UsageError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
            code="invalid_value",
        )


def missing(param: str) -> UsageError:
    """The error for a parameter that must be there."""
    return UsageError(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def invalid_type(param: str, expected: str, value: Any) -> UsageError:
    """The error for a value of the wrong type; `expected` has its article."""
    return UsageError(
        f"Invalid type for '{param}': expected {expected}, but got {_kind_of(value)} instead.",
        param=param,
        code="invalid_type",
    )


def invalid_value(param: str, value: Any, supported: str) -> UsageError:
    """The error for a value that is none of the `supported` ones."""
    return UsageError(
        f"Invalid value: {_shown(value)}. Supported values are: {supported}.",
        param=param,
        code="invalid_value",
    )


def _unknown(name: str) -> UsageError:
    if name in _REFUSED:
        return UsageError(
            f"Unsupported parameter: '{name}' is not supported with the builtin models.",
            param=name,
            code="unsupported_parameter",
        )
    return UsageError(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def _kind_of(value: Any) -> str:
    kinds = {bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string"}
    kinds |= {list: "an array", dict: "an object"}
    return kinds.get(type(value), "null")


def _shown(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _decimal(low: float, high: float) -> _Rule:
    def rule(name: str, value: Any) -> None:
        if type(value) not in (int, float):
            raise invalid_type(name, "a decimal number", value)
        _check_range("decimal", name, value, low, high)

    return rule


def _integer(low: int, high: int) -> _Rule:
    def rule(name: str, value: Any) -> None:
        if type(value) is not int:
            raise invalid_type(name, "an integer", value)
        _check_range("integer", name, value, low, high)

    return rule


def _check_range(kind: str, name: str, value: float, low: float, high: float) -> None:
    if value < low:
        side, bound, limit = "below_min", ">=", low
    elif value > high:
        side, bound, limit = "above_max", "<=", high
    else:
        return
    words = side.replace("min", "minimum").replace("max", "maximum").replace("_", " ")
    raise UsageError(
        f"Invalid '{name}': {kind} {words} value. "
        f"Expected a value {bound} {limit}, but got {value} instead.",
        param=name,
        code=f"{kind}_{side}_value",
    )


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise invalid_type(name, "a string", value)


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise invalid_type(name, "a boolean", value)


def _one_of(*values: str) -> _Rule:
    supported = ", ".join(f"'{value}'" for value in values)

    def rule(name: str, value: Any) -> None:
        _text(name, value)
        if value not in values:
            raise invalid_value(name, value, supported)

    return rule


def _only(*values: Any) -> _Rule:
    """A parameter that a builtin model has no use for: only values that ask for nothing."""
    supported = " or ".join(map(_shown, values))

    def rule(name: str, value: Any) -> None:
        # The type too: 1 and true are equal in Python, not in JSON.
        if not any(type(value) is type(one) and value == one for one in values):
            raise UsageError(
                f"Unsupported value: '{name}' does not support {_shown(value)} with the builtin "
                f"models. Only {supported} is supported.",
                param=name,
                code="unsupported_value",
            )

    return rule


def _object_of(**rules: _Rule) -> _Rule:
    def rule(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise invalid_type(name, "an object", value)
        for key, inner in value.items():
            if key not in rules:
                raise _unknown(f"{name}.{key}")
            if inner is not None:
                rules[key](f"{name}.{key}", inner)

    return rule


def _metadata(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid_type(name, "an object", value)
    for key, inner in value.items():
        if not isinstance(inner, str):
            raise invalid_type(f"{name}.{key}", "a string", inner)
    if len(value) > _METADATA_PAIRS_MAX:
        raise UsageError(
            f"Invalid '{name}': too many properties. Expected at most {_METADATA_PAIRS_MAX}, "
            f"but got {len(value)} instead.",
            param=name,
            code="object_above_max_properties",
        )


def _stop(name: str, value: Any) -> None:
    stops = value if isinstance(value, list) else [value]
    if not all(isinstance(stop, str) for stop in stops):
        raise invalid_type(name, "a string or an array of strings", value)
    if len(stops) > _STOPS_MAX:
        raise UsageError(
            f"Invalid '{name}': array too long. Expected at most {_STOPS_MAX} sequences, "
            f"but got {len(stops)} instead.",
            param=name,
            code="array_above_max_length",
        )


def _anything(name: str, value: Any) -> None:
    """Checked where it is read."""


_TOKENS = _integer(1, 2**31 - 1)
_TIER = _one_of("auto", "default", "flex", "priority", "scale", "fast")
_STREAM_OPTIONS = _object_of(include_usage=_boolean, include_obfuscation=_boolean)
_TEXT_FORMAT = _object_of(type=_only("text"))
_NO_TOOLS: dict[str, _Rule] = {
    "tools": _only([]),
    "tool_choice": _only("none", "auto"),
    "parallel_tool_calls": _boolean,
}
_COMMON: dict[str, _Rule] = {
    "model": _text,
    "stream": _boolean,
    "temperature": _decimal(0, 2),
    "top_p": _decimal(0, 1),
    "user": _text,
}
_CACHING: dict[str, _Rule] = {
    "metadata": _metadata,
    "store": _boolean,
    "service_tier": _TIER,
    "safety_identifier": _text,
    "prompt_cache_key": _text,
    "prompt_cache_retention": _text,
}
_SAMPLING: dict[str, _Rule] = {
    "frequency_penalty": _decimal(-2, 2),
    "presence_penalty": _decimal(-2, 2),
    "logit_bias": _only({}),
    "max_tokens": _TOKENS,
    "n": _only(1),
    "seed": _integer(-(2**63), 2**63 - 1),
    "stop": _stop,
    "stream_options": _STREAM_OPTIONS,
}
_RULES: dict[str, dict[str, _Rule]] = {
    CHAT: {
        **_COMMON,
        **_CACHING,
        **_SAMPLING,
        **_NO_TOOLS,
        "messages": _anything,
        "max_completion_tokens": _TOKENS,
        "logprobs": _only(False),
        "modalities": _only(["text"]),
        "reasoning_effort": _only("none"),
        "response_format": _TEXT_FORMAT,
        "verbosity": _one_of("low", "medium", "high"),
    },
    RESPONSES: {
        **_COMMON,
        **_CACHING,
        **_NO_TOOLS,
        "input": _anything,
        "instructions": _text,
        "max_output_tokens": _TOKENS,
        "background": _only(False),
        "include": _only([]),
        "reasoning": _object_of(effort=_only("none"), summary=_anything),
        "stream_options": _object_of(include_obfuscation=_boolean),
        "text": _object_of(format=_TEXT_FORMAT, verbosity=_one_of("low", "medium", "high")),
        "truncation": _one_of("auto", "disabled"),
    },
    COMPLETIONS: {
        **_COMMON,
        **_SAMPLING,
        "prompt": _anything,
        "best_of": _only(1),
        "echo": _only(False),
        "suffix": _only(""),
    },
    EMBEDDINGS: {
        "model": _text,
        "input": _anything,
        "dimensions": _integer(1, embedding.DIMENSIONS_MAX),
        "encoding_format": _one_of("float", "base64"),
        "user": _text,
    },
}
# Known at OpenAI, not here: said so, rather than calling them unknown.
_REFUSED_NAMES = (
    "audio background_options context_management conversation function_call functions logprobs"
    " max_tool_calls moderation prediction previous_response_id prompt prompt_cache_options"
    " top_logprobs web_search_options max_completion_tokens response_format tools"
)
_REFUSED = frozenset(_REFUSED_NAMES.split())
