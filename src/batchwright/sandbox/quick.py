"""The commonest answer, a chat completion of one text, written out without building it first.

`answers` says what the answer is; this says the same bytes sooner, so that on one core the sandbox
outruns what it measures. A test holds the two together.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from batchwright.sandbox.answers import ANSWER_TOKENS, created, encode
from batchwright.sandbox.bodies import is_reasoning
from batchwright.sandbox.texts import sentence
from batchwright.sandbox.tokens import MESSAGE_TOKENS


def quick_chat(body: bytes, digest: bytes) -> bytes | None:
    """The JSON that answers a plain chat body with this hash; None: it is not so plain."""
    try:
        chat = _read(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    cap = chat.max_tokens if chat.max_completion_tokens is None else chat.max_completion_tokens
    model = _quoted_model(chat.model)
    if model is None or not chat.messages or (cap is not None and cap < 1):
        return None
    if chat.temperature is not None and not 0 <= chat.temperature <= 2:
        return None
    prompt = ANSWER_TOKENS
    for message in chat.messages:
        prompt += MESSAGE_TOKENS + (len(message.content) + 3) // 4
    if prompt >= 1024:
        return None  # part of it counts as cached
    text, finish = sentence(digest, 0), b"stop"
    if cap is not None and len(text) > cap * 4:
        text, finish = text[: cap * 4], b"length"
    completion = (len(text) + 3) // 4
    return _TEMPLATE % (
        digest.hex()[:29].encode(),
        created(digest),
        model,
        text.encode(),
        finish,
        prompt,
        completion,
        prompt + completion,
    )


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _PlainChat(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The fields that a body has if nothing but these shapes its answer."""

    model: str
    messages: list[_Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None


_read = msgspec.json.Decoder(_PlainChat).decode

_TEMPLATE = (
    b'{"id":"chatcmpl-%b","object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b","refusal":null,"annotations":[]},'
    b'"logprobs":null,"finish_reason":"%b"}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,'
    b'"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default",'
    b'"system_fingerprint":"sandbox"}'
)


@lru_cache(maxsize=1024)
def _quoted_model(model: str) -> bytes | None:
    """A model's name as JSON; None for the models that are answered otherwise."""
    return None if is_reasoning(model) or model.startswith("sandbox/") else encode(model)
