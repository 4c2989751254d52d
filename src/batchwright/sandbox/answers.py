"""The sandbox's answers: a pure function of the request and a seed, in OpenAI's exact shapes.

Every answer says that it is a sandbox's: in its text where it has one, and by
`"system_fingerprint": "sandbox"` at its top.

An embedding depends on its own text alone, not on the other inputs of the call, so that a packed
call gives each input the vector that it would have got by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.sandbox.bodies import (
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    ImageBody,
    ModerationBody,
    ResponseBody,
    VideoBody,
    check_embedding,
    check_images,
    check_not_empty,
    check_reasoning_cap,
    check_sampling,
    prompts_of,
    reader,
)
from batchwright.sandbox.embeddings import vector_base64, vector_json
from batchwright.sandbox.media import images_payload, video_payload
from batchwright.sandbox.texts import answer_text, chat_schema, json_text, response_schema
from batchwright.sandbox.tokens import (
    MESSAGE_TOKENS,
    cached_tokens,
    input_tokens,
    message_tokens,
    reasoning_tokens,
    text_tokens,
)

MODELS = (
    "gpt-5-mini",
    "gpt-5",
    "gpt-4.1-mini",
    "gpt-4o-mini",
    "gpt-3.5-turbo-instruct",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "omni-moderation-latest",
    "gpt-image-1",
    "sora-2",
)
CHAT_PATH = "/v1/chat/completions"
FINGERPRINT = "sandbox"
ANSWER_TOKENS = 3
COMPLETION_TOKENS_MAX = 16  # of /v1/completions where the body names no cap

encode = msgspec.json.Encoder().encode


class Composed(msgspec.Struct, frozen=True, gc=False):
    """An answer before it is written out."""

    status: int
    payload: dict[str, Any]
    model: str = ""
    tokens_estimated: int = 0  # what a limiter reserves: the prompt and the cap on the answer
    tokens_used: int = 0
    is_stream: bool = False
    with_usage: bool = True  # whether a stream of chunks ends with a usage chunk


def answer(path: str, body: bytes, seed: int = 0) -> tuple[int, bytes]:
    """Status and JSON body for a request, the same each time; `stream` in a body is ignored.

    `path` is that of a batch line (`/v1/chat/completions`); an empty body at `/v1/models`
    lists the example models.
    """
    composed = compose(path, body, request_hash(path, body, seed))
    return composed.status, encode(composed.payload)


def request_hash(path: str, body: bytes, seed: int = 0) -> bytes:
    """The SHA-256 of seed, path and body, from which everything about an answer follows."""
    return sha256(b"%d %b\n%b" % (seed, path.encode(), body)).digest()


def compose(path: str, body: bytes, digest: bytes) -> Composed:
    """The answer to a request whose hash is `digest`; a bad one gets OpenAI's 400 or 404."""
    maker = _MAKERS.get(path)
    if maker is None:
        return _elsewhere(path)
    try:
        return maker(body, digest)
    except UsageError as error:
        return Composed(400, error_payload(error.message, param=error.param, code=error.code))


def error_payload(
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """OpenAI's error body; all four keys are always there."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def models_payload(names: Iterable[str] = MODELS) -> dict[str, Any]:
    """The answer of GET /v1/models."""
    data = [
        {"id": name, "object": "model", "created": _EPOCH, "owned_by": "sandbox"} for name in names
    ]
    return {"object": "list", "data": data}


def is_endpoint(path: str) -> bool:
    """Whether `path` takes a POST."""
    return path in _MAKERS


def _elsewhere(path: str) -> Composed:
    if path == "/v1/models":
        return Composed(200, models_payload())
    if path.startswith("/v1/models/"):
        name = path.removeprefix("/v1/models/")
        return Composed(200, {**models_payload([name])["data"][0]})
    return Composed(404, error_payload(f"Invalid URL (POST {path})"))


# --- chat and completions ------------------------------------------------------------------


_read_chat = reader(ChatBody)
_read_completion = reader(CompletionBody)


def _chat(raw: bytes, digest: bytes) -> Composed:
    body = _read_chat(raw)
    check_not_empty("messages", body.messages)
    cap, cap_name = body.max_completion_tokens, "max_completion_tokens"
    if cap is None:
        cap, cap_name = body.max_tokens, "max_tokens"
    check_sampling(body.model, body.n, body.temperature, cap, cap_name)
    check_reasoning_cap(body)
    prompt = ANSWER_TOKENS
    for message in body.messages:
        prompt += message_tokens(message.content)
    choices, visible = [], 0
    for index in range(body.n or 1):
        choice, tokens = _chat_choice(body, digest, index, cap)
        choices.append(choice)
        visible += tokens
    reasoning = reasoning_tokens(body.model, digest, cap)
    payload = {
        "id": "chatcmpl-" + digest.hex()[:29],
        "object": "chat.completion",
        "created": created(digest),
        "model": body.model,
        "choices": choices,
        "usage": _chat_usage(prompt, visible + reasoning, reasoning),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }
    used = prompt + visible + reasoning
    reserved = prompt + (cap or 0) * len(choices)
    with_usage = _wants_usage(body.stream_options)
    return Composed(200, payload, body.model, reserved, used, body.stream is True, with_usage)


def _chat_choice(
    body: ChatBody, digest: bytes, index: int, cap: int | None
) -> tuple[dict[str, Any], int]:
    """One choice and its tokens: a tool call where one is demanded, else a text."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
    }
    if tool := _demanded_tool(body.tools, body.tool_choice):
        function = _dict(tool.get("function"))
        arguments = json_text(function.get("parameters"), digest, index)
        call = {"name": function.get("name", ""), "arguments": arguments}
        call_id = f"call_{digest.hex()[:22]}{index:02d}"
        message["tool_calls"] = [{"id": call_id, "type": "function", "function": call}]
        finish, tokens = "tool_calls", text_tokens(arguments)
    else:
        schema = chat_schema(body.response_format)
        message["content"], finish = answer_text(digest, index, cap, schema)
        tokens = text_tokens(message["content"])
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}, tokens


def _completion(raw: bytes, digest: bytes) -> Composed:
    body = _read_completion(raw)
    prompts = prompts_of("prompt", body.prompt)
    check_sampling(body.model, body.n, body.temperature, body.max_tokens, "max_tokens")
    cap = COMPLETION_TOKENS_MAX if body.max_tokens is None else body.max_tokens
    prompt = sum(input_tokens(p) for p in prompts)
    choices, visible = [], 0
    for index in range(len(prompts) * (body.n or 1)):
        text, finish = answer_text(digest, index, cap, None)
        choices.append({"text": text, "index": index, "logprobs": None, "finish_reason": finish})
        visible += text_tokens(text)
    payload = {
        "id": "cmpl-" + digest.hex()[:29],
        "object": "text_completion",
        "created": created(digest),
        "model": body.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": visible,
            "total_tokens": prompt + visible,
        },
        "system_fingerprint": FINGERPRINT,
    }
    used, reserved = prompt + visible, prompt + cap * len(choices)
    with_usage = _wants_usage(body.stream_options)
    return Composed(200, payload, body.model, reserved, used, body.stream is True, with_usage)


def _wants_usage(stream_options: dict[str, Any] | None) -> bool:
    return stream_options is not None and stream_options.get("include_usage") is True


def _chat_usage(prompt: int, completion: int, reasoning: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached_tokens(prompt), "audio_tokens": 0},
        "completion_tokens_details": _completion_details(reasoning),
    }


@lru_cache(maxsize=16)
def _completion_details(reasoning: int) -> dict[str, int]:
    return {
        "reasoning_tokens": reasoning,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }


# --- responses -----------------------------------------------------------------------------


_read_response = reader(ResponseBody)


def _response(raw: bytes, digest: bytes) -> Composed:
    body = _read_response(raw)
    cap = body.max_output_tokens
    check_sampling(body.model, None, body.temperature, cap, "max_output_tokens")
    prompt = _response_tokens(body)
    output, visible, is_cut = _response_output(body, digest, cap)
    reasoning = reasoning_tokens(body.model, digest, cap)
    payload = {
        "id": "resp_" + digest.hex()[:48],
        "object": "response",
        "created_at": created(digest),
        "status": "incomplete" if is_cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": body.instructions,
        "max_output_tokens": cap,
        "model": body.model,
        "output": [output],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {
                "cached_tokens": cached_tokens(prompt),
                "cache_write_tokens": 0,
            },
            "output_tokens": visible + reasoning,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": prompt + visible + reasoning,
        },
        "user": None,
        "metadata": body.metadata or {},
        "system_fingerprint": FINGERPRINT,
    }
    used = prompt + visible + reasoning
    return Composed(200, payload, body.model, prompt + (cap or 0), used, body.stream is True)


def _response_output(
    body: ResponseBody, digest: bytes, cap: int | None
) -> tuple[dict[str, Any], int, bool]:
    """The output item, its tokens, and whether the cap cut it."""
    if tool := _demanded_tool(body.tools, body.tool_choice):
        arguments = json_text(tool.get("parameters"), digest, 0)
        item = {
            "id": "fc_" + digest.hex()[:48],
            "type": "function_call",
            "status": "completed",
            "arguments": arguments,
            "call_id": "call_" + digest.hex()[:24],
            "name": tool.get("name", ""),
        }
        return item, text_tokens(arguments), False
    wanted = _dict(_dict(body.text).get("format"))
    text, finish = answer_text(digest, 0, cap, response_schema(wanted))
    is_cut = finish == "length"
    item = {
        "id": "msg_" + digest.hex()[:48],
        "type": "message",
        "status": "incomplete" if is_cut else "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}],
    }
    return item, text_tokens(text), is_cut


def _response_tokens(body: ResponseBody) -> int:
    tokens = text_tokens(body.instructions or "") + ANSWER_TOKENS
    if isinstance(body.input, str):
        return tokens + MESSAGE_TOKENS + text_tokens(body.input)
    contents = (item.get("content") if isinstance(item, dict) else None for item in body.input)
    return tokens + sum(message_tokens(content) for content in contents)


# --- embeddings and moderations ------------------------------------------------------------


_read_embedding = reader(EmbeddingBody)
_read_moderation = reader(ModerationBody)


def _embedding(raw: bytes, digest: bytes) -> Composed:
    body = _read_embedding(raw)
    inputs = prompts_of("input", body.input)
    counts = [input_tokens(item) for item in inputs]
    check_embedding(body, counts)
    size = body.dimensions or (3072 if body.model.endswith("3-large") else 1536)
    make = vector_base64 if body.encoding_format == "base64" else vector_json
    data = [
        {"object": "embedding", "index": index, "embedding": make(body.model, item, size)}
        for index, item in enumerate(inputs)
    ]
    tokens = sum(counts)
    payload = {
        "object": "list",
        "data": data,
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "system_fingerprint": FINGERPRINT,
    }
    return Composed(200, payload, body.model, tokens, tokens)


def _moderation(raw: bytes, digest: bytes) -> Composed:
    body = _read_moderation(raw)
    check_not_empty("input", body.input)
    inputs = body.input if isinstance(body.input, list) else [body.input]
    if all(isinstance(item, dict) for item in inputs):
        inputs = [inputs]  # parts of one input, not several inputs
    model = body.model or "omni-moderation-latest"
    payload = {
        "id": "modr-" + digest.hex()[:32],
        "model": model,
        "results": [_moderated(digest, index) for index in range(len(inputs))],
        "system_fingerprint": FINGERPRINT,
    }
    tokens = sum(message_tokens(i if isinstance(i, (str, list)) else [i]) for i in inputs)
    return Composed(200, payload, model, tokens, tokens)


def _moderated(digest: bytes, index: int) -> dict[str, Any]:
    """One result; about one input in sixteen is flagged, for harassment."""
    is_flagged = digest[index % 32] < 16
    scores = {name: digest[(index + place) % 32] / 25600 for place, name in enumerate(_CATEGORIES)}
    if is_flagged:
        scores["harassment"] = 0.9
    return {
        "flagged": is_flagged,
        "categories": {name: score > 0.5 for name, score in scores.items()},
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }


_read_image = reader(ImageBody)
_read_video = reader(VideoBody)


def _images(raw: bytes, digest: bytes) -> Composed:
    body = _read_image(raw)
    check_images(body)
    payload = images_payload(body, digest, created(digest)) | {"system_fingerprint": FINGERPRINT}
    tokens = payload["usage"]["total_tokens"]
    return Composed(200, payload, body.model or "gpt-image-1", tokens, tokens)


def _video(raw: bytes, digest: bytes) -> Composed:
    body = _read_video(raw)
    check_not_empty("prompt", body.prompt)
    payload = video_payload(body, digest, created(digest)) | {"system_fingerprint": FINGERPRINT}
    tokens = text_tokens(body.prompt)
    return Composed(200, payload, payload["model"], tokens, tokens)


# --- parts ---------------------------------------------------------------------------------


_EPOCH = 1_767_225_600  # 2026-01-01: `created` follows from the request, not from the clock


def created(digest: bytes) -> int:
    """The time of an answer, which follows from the request too."""
    return _EPOCH + int.from_bytes(digest[:3], "big")


def _demanded_tool(
    tools: list[dict[str, Any]] | None, choice: str | dict[str, Any] | None
) -> dict[str, Any] | None:
    """The tool that must be called. Where the model may choose, the sandbox answers in words,
    so that a loop over tool calls ends."""
    if not tools or choice in (None, "auto", "none"):
        return None
    if isinstance(choice, dict):
        name = _tool_name(choice)
        return next((tool for tool in tools if _tool_name(tool) == name), None)
    return tools[0]


def _tool_name(tool: dict[str, Any]) -> Any:
    """Chat nests it in `function`, Responses does not."""
    return (_dict(tool.get("function")) or tool).get("name")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)

_MAKERS: dict[str, Callable[[bytes, bytes], Composed]] = {
    CHAT_PATH: _chat,
    "/v1/completions": _completion,
    "/v1/embeddings": _embedding,
    "/v1/responses": _response,
    "/v1/moderations": _moderation,
    "/v1/images/generations": _images,
    "/v1/images/edits": _images,
    "/v1/videos": _video,
}
