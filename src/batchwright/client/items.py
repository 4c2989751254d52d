"""What a caller hands in, as request bodies; what a server answers, as plain answers.

An **item** is a string, a list of chat messages, or a dictionary:

- `"text"`: the user message (the input, the prompt) of the request;
- `[{"role": "user", "content": …}, …]`: the whole conversation;
- `{"id": …, "content": …}`: the same as the text, with an id of your own;
- `{"id": …, "messages": […]}` or any other fields of the endpoint's body.

What else a dictionary contains goes into the body of this one request and wins over the
parameters of all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from batchwright.client.errors import RequestFailure
from batchwright.domain.answer_text import EMBEDDINGS_URL, Said, is_text_url, said_by, vectors_of
from batchwright.domain.errors import UsageError

Item: TypeAlias = Any  # str | list of messages | dict, see above
Body = dict[str, Any]

CHAT = "/chat/completions"
EMBEDDINGS = "/embeddings"
RESPONSES = "/responses"

# Where the text of an item goes in the bodies of the other endpoints.
_TEXT_FIELDS = {
    EMBEDDINGS: "input",
    RESPONSES: "input",
    "/completions": "prompt",
    "/moderations": "input",
    "/images/generations": "prompt",
    "/audio/speech": "input",
    "/videos": "prompt",
}
_FORMS = 'a string, a list of messages, or a dict with "content", "messages" or fields of the body'


def plain_endpoint(endpoint: str) -> str:
    """`/v1/embeddings`, `embeddings` and `/embeddings` alike as `/embeddings`."""
    path = "/" + endpoint.strip("/")
    return path.removeprefix("/v1") if path.startswith("/v1/") else path


def require_list(items: object) -> None:
    """Raise `UsageError` for one item in the place of a list: its letters would be the items."""
    if isinstance(items, str | bytes | dict):
        raise UsageError(
            f"items must be a list of items, not one {type(items).__name__}", param="items"
        )


def require_no_options(params: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """Raise `UsageError` for a parameter that is an option of a batch: it would go into every body,
    where it does nothing. `where` says of each what to do with it instead."""
    for name in params:
        if name in where:
            raise UsageError(
                f"{name}: an option of the batch and no field of a request; {where[name]}",
                param=name,
            )


def body_of(
    item: Item,
    *,
    endpoint: str = CHAT,
    model: str | None = None,
    system_prompt: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> Body:
    """The request body for `item`; it contains only what was given.

    `endpoint` is in the form of `plain_endpoint`. Raises `UsageError` for an item that is
    none of the forms above, and where no model is named.
    """
    head: Body = {"model": model} if model is not None else {}
    own = dict(item) if isinstance(item, Mapping) else {}
    own.pop("id", None)
    content = _content(item, own, endpoint)
    body = {**head, **(params or {}), **content, **own}
    if system_prompt is not None:
        _add_system_prompt(body, system_prompt, endpoint)
    if not body.get("model"):
        raise UsageError('no model is named: pass model="…"', param="model")
    return body


def _content(item: Item, own: Body, endpoint: str) -> Body:
    """The part of the body that the item's text or messages become."""
    if endpoint == CHAT:
        return {"messages": _messages(item, own)}
    if isinstance(item, Mapping):
        text = own.pop("content", None)
        return {} if text is None else {_text_field(endpoint): text}
    if isinstance(item, str) or (isinstance(item, Sequence) and item):
        return {_text_field(endpoint): item if isinstance(item, str) else list(item)}
    raise _wrong_item(item)


def _messages(item: Item, own: Body) -> list[Any]:
    if isinstance(item, str):
        return [{"role": "user", "content": item}]
    if isinstance(item, Mapping):
        if "messages" in own:
            return list(own.pop("messages"))
        if "content" in own:
            return [{"role": own.pop("role", "user"), "content": own.pop("content")}]
    elif isinstance(item, Sequence) and item and all(isinstance(part, Mapping) for part in item):
        return list(item)
    raise _wrong_item(item)


def _add_system_prompt(body: Body, system_prompt: str, endpoint: str) -> None:
    if endpoint == CHAT:
        body["messages"] = [{"role": "system", "content": system_prompt}, *body["messages"]]
    elif endpoint == RESPONSES:
        body.setdefault("instructions", system_prompt)
    else:
        raise UsageError(f"{endpoint} takes no system prompt", param="system_prompt")


def _text_field(endpoint: str) -> str:
    try:
        return _TEXT_FIELDS[endpoint]
    except KeyError:
        raise UsageError(
            f"for {endpoint} pass dicts with the fields of its body, or body=a function "
            "that makes the body of an item",
            param="body",
        ) from None


def _wrong_item(item: Item) -> UsageError:
    shown = repr(item)
    shown = shown if len(shown) <= 60 else shown[:60] + "…"
    return UsageError(f"an item must be {_FORMS}, not {type(item).__name__} {shown}")


def encode(value: Any) -> bytes:
    """Strict JSON in UTF-8: not-a-number and half characters raise `UsageError`."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"this cannot be written as JSON: {error}") from error


# --- answers


def answer_of(body: Any, endpoint: str = CHAT) -> Any:
    """The answer inside a response body.

    Chat and completions: the text (a list of texts where `n` > 1; the whole message where it
    calls tools). Responses: the text (the body where it calls tools). Embeddings: the vector, a
    list of floats (a list of vectors where the input was a list). A `RequestFailure` for an answer
    that was refused or cut off before its first word. Anything else: the body as it came.
    """
    url = f"/v1{endpoint}"
    try:
        if url == EMBEDDINGS_URL:
            return _one_or_all(vectors_of(body))
        if is_text_url(url):
            return _said(said_by(url, body))
    except ValueError:
        return body
    return body


def tokens_of(body: Any) -> int | None:
    """The total of tokens that a response body reports, or None."""
    usage = body.get("usage") if isinstance(body, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) else None


def _said(choices: list[Said]) -> Any:
    none = choices[0].none
    if none is not None and all(choice.none for choice in choices):
        return RequestFailure(none.code, none.message)
    return _one_or_all([choice.whole if choice.calls else choice.text for choice in choices])


def _one_or_all(answers: list[Any]) -> Any:
    return answers[0] if len(answers) == 1 else answers
