"""A value that fits a JSON schema, so that programs with structured output can be rehearsed."""

from __future__ import annotations

from typing import Any

NODES_MAX = 10_000
TEXT_CHARS_MAX = 10_000
DEEP = 6  # from here on a recursive schema is brought to its end

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
    Optional properties are filled too. Raises `ValueError` if the schema is malformed, or only a
    value of more than 10,000 parts would fit.
    """
    try:
        return _Builder(schema, pick).build(schema, 0)
    except (AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"the schema is malformed: {error}") from error


class _Builder:
    """Walks one schema; counts what it makes, since a schema may refer to itself."""

    def __init__(self, root: Any, pick: int) -> None:
        self._root = root
        self._pick = pick
        self._nodes_left = NODES_MAX

    def build(self, schema: Any, depth: int) -> Any:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise ValueError(f"no value of up to {NODES_MAX:,} parts fits the schema")
        if not isinstance(schema, dict):
            return "sandbox"
        if "const" in schema:
            return schema["const"]
        if options := schema.get("enum"):
            return options[self._pick % len(options)]
        if reference := schema.get("$ref"):
            return self.build(self._resolve(reference), depth + 1)
        if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
            return self.build(_choose(choices, depth), depth + 1)
        return self._of_type(schema, depth)

    def _of_type(self, schema: dict[str, Any], depth: int) -> Any:
        match _type_of(schema):
            case "object":
                properties = schema.get("properties") or {}
                return {name: self.build(part, depth + 1) for name, part in properties.items()}
            case "array":
                count = max(schema.get("minItems", 0), 0 if depth >= DEEP else 1)
                count = min(count, schema.get("maxItems", count))
                return [self.build(schema.get("items"), depth + 1) for _ in range(count)]
            case "integer":
                return int(_number(schema, self._pick))
            case "number":
                return _number(schema, self._pick)
            case "boolean":
                return self._pick % 2 == 0
            case "null":
                return None
        return _text(schema)

    def _resolve(self, reference: str) -> Any:
        place = self._root
        for name in reference.removeprefix("#").strip("/").split("/"):
            if name:
                place = place.get(name.replace("~1", "/").replace("~0", "~"))
        return place


def _type_of(schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind is None:
        return "object" if "properties" in schema else "string"
    return kind


def _choose(choices: list[Any], depth: int) -> Any:
    """The first choice; deep inside a recursive schema the null one, which ends it."""
    if depth >= DEEP:
        for choice in choices:
            if choice.get("type") == "null":
                return choice
    return choices[0]


def _number(schema: dict[str, Any], pick: int) -> float:
    """A number within the bounds; of an integer's exclusive ones the next whole number."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if above is not None:
        ceiling = high if high is not None else below
        low = above + 1 if ceiling is None or ceiling - above > 1 else (above + ceiling) / 2
    if low is None:
        low = pick % 10 if high is None and below is None else _under(high, below)
    step: float | None = schema.get("multipleOf")
    return low if not step else -(-low // step) * step


def _under(high: float | None, below: float | None) -> float:
    return high if high is not None else (below or 0) - 1


def _text(schema: dict[str, Any]) -> str:
    text = _FORMATS.get(schema.get("format", ""), "sandbox")
    text = text.ljust(min(schema.get("minLength", 0), TEXT_CHARS_MAX), ".")
    return text[: schema.get("maxLength", len(text))]
