"""A value that fits a JSON schema, so that programs with structured output can be rehearsed."""

from __future__ import annotations

from typing import Any

DEPTH_MAX = 32

_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "sandbox@example.com",
    "hostname": "sandbox.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/sandbox",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: object, pick: int) -> Any:
    """A value that fits `schema`; `pick` decides between the members of an `enum`.

    Covers the subset of JSON Schema that OpenAI's structured outputs allow, except `pattern`.
    Optional properties are filled too.
    """
    root = schema if isinstance(schema, dict) else {}
    return _example(root, root, pick, 0)


def _example(schema: Any, root: dict[str, Any], pick: int, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return None
    if "const" in schema:
        return schema["const"]
    if options := schema.get("enum"):
        return options[pick % len(options)]
    if reference := schema.get("$ref"):
        return _example(_resolve(str(reference), root), root, pick, depth + 1)
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return _example(_shallowest(choices, depth), root, pick, depth + 1)
    return _by_type(_type_of(schema), schema, root, pick, depth)


def _by_type(kind: str, schema: dict[str, Any], root: dict[str, Any], pick: int, depth: int) -> Any:
    match kind:
        case "object":
            properties = schema.get("properties") or {}
            return {k: _example(v, root, pick, depth + 1) for k, v in properties.items()}
        case "array":
            # A nested list may refer to its own type, so it stays as short as it may be.
            count = max(int(schema.get("minItems", 0)), 0 if depth > 4 else 1)
            count = min(count, int(schema.get("maxItems", count)))
            item = schema.get("items") or {"type": "string"}
            return [_example(item, root, pick + i, depth + 1) for i in range(count)]
        case "integer":
            return int(_number(schema, pick))
        case "number":
            return _number(schema, pick)
        case "boolean":
            return pick % 2 == 0
        case "null":
            return None
    return _text(schema)


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "string"


def _shallowest(choices: list[Any], depth: int) -> Any:
    """The first choice; deep inside a recursive schema the null one, which ends it."""
    if depth > 4:
        return next((c for c in choices if isinstance(c, dict) and c.get("type") == "null"), None)
    return choices[0]


def _resolve(reference: str, root: dict[str, Any]) -> Any:
    place: Any = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        if name and isinstance(place, dict):
            place = place.get(name.replace("~1", "/").replace("~0", "~"))
    return place


def _number(schema: dict[str, Any], pick: int) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        return pick % 10 if high is None else high - 1
    if "exclusiveMinimum" in schema and "minimum" not in schema:
        low += 1 if high is None or high - low > 1 else (high - low) / 2
    step = schema.get("multipleOf")
    return low if not step else -(-low // step) * step  # type: ignore[no-any-return]


def _text(schema: dict[str, Any]) -> str:
    text = _FORMATS.get(schema.get("format", ""), "sandbox")
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema.get("maxLength", len(text)))]
