"""Reading the fields of a JSON body: each missing or wrong one is a 400 that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchwright.domain.errors import UsageError

TTL_S_MIN = 3_600
TTL_S_MAX = 2_592_000
METADATA_PAIRS_MAX = 16
METADATA_KEY_LENGTH_MAX = 64
METADATA_VALUE_LENGTH_MAX = 512

_TYPE_NAMES: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def required(body: Mapping[str, Any], name: str) -> Any:
    """The value of a field that must be there."""
    if body.get(name) is None:
        raise UsageError(
            f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
        )
    return body[name]


def required_text(body: Mapping[str, Any], name: str) -> str:
    """The text of a field that must be there."""
    return text(required(body, name), name)


def text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    return value


def boolean(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(param, "a boolean", value)
    return value


def whole_number(value: Any, param: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(param, "an integer", value)
    return value


def wrong_type(param: str, expected: str, value: Any) -> UsageError:
    got = _TYPE_NAMES.get(type(value), "something else")
    return UsageError(
        f"Invalid type for '{param}': expected {expected}, but got {got} instead.",
        param=param,
        code="invalid_type",
    )


def wrong_value(param: str, value: str, supported: str) -> UsageError:
    return UsageError(
        f"Invalid value: '{value[:200]}'. Supported values are: {supported}.",
        param=param,
        code="invalid_value",
    )


def metadata(body: Mapping[str, Any]) -> dict[str, str] | None:
    """The `metadata` of a body: at most 16 pairs of short texts."""
    given = body.get("metadata")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise wrong_type("metadata", "an object", given)
    if len(given) > METADATA_PAIRS_MAX:
        raise _too_long("metadata", f"at most {METADATA_PAIRS_MAX} pairs", len(given))
    for key, value in given.items():
        if len(key) > METADATA_KEY_LENGTH_MAX:
            raise _too_long(
                f"metadata.{key[:METADATA_KEY_LENGTH_MAX]}",
                f"a key of at most {METADATA_KEY_LENGTH_MAX} characters",
                len(key),
            )
        if len(text(value, f"metadata.{key}")) > METADATA_VALUE_LENGTH_MAX:
            raise _too_long(
                f"metadata.{key}",
                f"a value of at most {METADATA_VALUE_LENGTH_MAX} characters",
                len(value),
            )
    return given


def _too_long(param: str, expected: str, got: int) -> UsageError:
    return UsageError(
        f"Invalid '{param}': expected {expected}, but got {got}.",
        param=param,
        code="invalid_value",
    )


def ttl_s(given: Any, name: str) -> int | None:
    """The seconds of an `expires_after` or `output_expires_after`; None where there is none."""
    if given is None:
        return None
    if not isinstance(given, dict):
        raise wrong_type(name, "an object", given)
    for part in ("anchor", "seconds"):
        if given.get(part) is None:
            path = f"{name}.{part}"
            raise UsageError(
                f"Missing required parameter: '{path}'.",
                param=path,
                code="missing_required_parameter",
            )
    anchor = text(given["anchor"], f"{name}.anchor")
    if anchor != "created_at":
        raise wrong_value(f"{name}.anchor", anchor, "'created_at'")
    seconds = whole_number(given["seconds"], f"{name}.seconds")
    if not TTL_S_MIN <= seconds <= TTL_S_MAX:
        raise UsageError(
            f"Invalid '{name}.seconds': expected {TTL_S_MIN} to {TTL_S_MAX}, but got {seconds}.",
            param=f"{name}.seconds",
            code="invalid_value",
        )
    return seconds


def page_limit(limit: int | None, default: int, most: int) -> int:
    """The size of a page; one out of range is brought into it."""
    return default if limit is None else min(max(limit, 1), most)
