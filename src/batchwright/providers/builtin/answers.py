"""Answers in OpenAI's shapes, whole.

Source: https://platform.openai.com/docs/api-reference (chat, completions, responses,
embeddings), field for field, with null where a field is required and does not apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchwright.domain.errors import UsageError
from batchwright.providers.builtin import embedding
from batchwright.providers.builtin.bodies import EmbeddingRequest, TextRequest
from batchwright.providers.builtin.models import CHAT, COMPLETIONS, RESPONSES
from batchwright.providers.builtin.tokens import split_tokens

Json = dict[str, Any]
FINGERPRINT = "fp_builtin"


@dataclass(frozen=True, slots=True)
class Text:
    """An answered text request: what every shape of answer is made from."""

    request: TextRequest
    key: str  # of the request's bytes; ids are made from it
    created: int  # seconds since the epoch
    pieces: list[str]  # the answer's tokens; joined they are its text
    is_cut: bool  # by the limit on tokens

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def finish_reason(self) -> str:
        return "length" if self.is_cut else "stop"


def answer_text(request: TextRequest, key: str, created: int) -> Text:
    """Ask the model, and cut its answer at the first stop sequence and at the token limit."""
    if request.model.reply is None:  # `find_model` gives none such to a text endpoint
        raise TypeError(f"{request.model.name} does not answer with text")
    text = request.model.reply(request.prompt)
    ends = [end for stop in request.stops if (end := text.find(stop)) >= 0]
    pieces = split_tokens(text[: min(ends)] if ends else text)
    limit = len(pieces) if request.output_tokens_max is None else request.output_tokens_max
    return Text(request, key, created, pieces[:limit], is_cut=len(pieces) > limit)


def text_body(text: Text) -> Json:
    """The whole answer to a text request."""
    return _TEXT_BODIES[text.request.endpoint](text)


def chat_usage(text: Text) -> Json:
    """The `usage` of chat completions and completions."""
    return {
        "prompt_tokens": text.request.input_tokens,
        "completion_tokens": len(text.pieces),
        "total_tokens": text.request.input_tokens + len(text.pieces),
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _chat_body(text: Text) -> Json:
    message: Json = {"role": "assistant", "content": text.text, "refusal": None, "annotations": []}
    return {
        "id": f"chatcmpl-{text.key}",
        "object": "chat.completion",
        "created": text.created,
        "model": text.request.model.name,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": text.finish_reason,
            }
        ],
        "usage": chat_usage(text),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _completion_body(text: Text) -> Json:
    return {
        "id": f"cmpl-{text.key}",
        "object": "text_completion",
        "created": text.created,
        "model": text.request.model.name,
        "choices": [
            {
                "text": text.text,
                "index": 0,
                "logprobs": None,
                "finish_reason": text.finish_reason,
            }
        ],
        "usage": chat_usage(text),
        "system_fingerprint": FINGERPRINT,
    }


def _response_body(text: Text) -> Json:
    return response_with(text, "incomplete" if text.is_cut else "completed")


_TEXT_BODIES = {CHAT: _chat_body, COMPLETIONS: _completion_body, RESPONSES: _response_body}


def response_with(text: Text, status: str) -> Json:
    """A `response` object; in progress it has no output and no usage yet."""
    is_done = status != "in_progress"
    body = text.request.body
    verbosity = (body.get("text") or {}).get("verbosity") or "medium"
    return {
        "id": f"resp_{text.key}",
        "object": "response",
        "created_at": text.created,
        "status": status,
        "background": False,
        "completed_at": text.created if status == "completed" else None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "model": text.request.model.name,
        "output": [output_message(text, status)] if is_done else [],
        "parallel_tool_calls": _given(body.get("parallel_tool_calls"), True),
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": "default",
        "store": False,  # nothing is kept to be asked for later
        "temperature": _given(body.get("temperature"), 1.0),
        "text": {"format": {"type": "text"}, "verbosity": verbosity},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": _given(body.get("top_p"), 1.0),
        "truncation": body.get("truncation") or "disabled",
        "usage": _response_usage(text) if is_done else None,
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }


def output_message(text: Text, status: str) -> Json:
    """The one output item of a response; in progress it is empty."""
    content = [] if status == "in_progress" else [output_part(text.text)]
    return {
        "id": f"msg_{text.key}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def output_part(text: str) -> Json:
    """The one content part of an output item."""
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _response_usage(text: Text) -> Json:
    return {
        "input_tokens": text.request.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": len(text.pieces),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": text.request.input_tokens + len(text.pieces),
    }


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def embedding_body(request: EmbeddingRequest) -> Json:
    """A `list` of `embedding` objects in the order of the inputs."""
    vectors = (embedding.embed(text, request.dimensions) for text in request.inputs)
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": embedding.to_base64(vector) if request.is_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": request.model.name,
        "usage": {"prompt_tokens": request.input_tokens, "total_tokens": request.input_tokens},
    }


def error_body(error: UsageError) -> Json:
    """OpenAI's error object, all four keys."""
    return {
        "error": {
            "message": error.message,
            "type": "invalid_request_error",
            "param": error.param,
            "code": error.code,
        }
    }
