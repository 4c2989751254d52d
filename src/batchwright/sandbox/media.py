"""The sandbox's pictures and videos: the objects as OpenAI has them, with next to nothing in them.

A picture is a PNG of one pixel, whatever size was asked for, in a colour that follows from the
request. A video is a job that has ended, of which there is nothing to be fetched.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Any
from zlib import compress, crc32

from batchwright.sandbox.bodies import ImageBody, VideoBody
from batchwright.sandbox.tokens import IMAGE_TOKENS, text_tokens

_PNG = b"\x89PNG\r\n\x1a\n"
_ONE_PIXEL = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)  # eight bits each of red, green, blue


def images_payload(body: ImageBody, digest: bytes, created: int) -> dict[str, Any]:
    """The answer of /v1/images/generations and /v1/images/edits."""
    count = body.n or 1
    pictures = [_picture(body, digest, place) for place in range(count)]
    texts, made = text_tokens(body.prompt), count * IMAGE_TOKENS
    usage = {
        "input_tokens": texts,
        "input_tokens_details": {"text_tokens": texts, "image_tokens": 0},
        "output_tokens": made,
        "total_tokens": texts + made,
    }
    size = body.size if body.size not in (None, "auto") else "1024x1024"
    return {
        "created": created,
        "background": "opaque",
        "data": pictures,
        "output_format": "png",
        "quality": "medium",
        "size": size,
        "usage": usage,
    }


def _picture(body: ImageBody, digest: bytes, place: int) -> dict[str, Any]:
    """By URL where OpenAI gives one, that is for `dall-e` unless the bytes are asked for."""
    if (body.model or "").startswith("dall-e") and body.response_format != "b64_json":
        return {"url": f"https://sandbox.invalid/{digest.hex()[:32]}-{place}.png"}
    start = 3 * place % 30
    return {"b64_json": b64encode(_png(digest[start : start + 3])).decode()}


def _png(colour: bytes) -> bytes:
    """PNG (ISO/IEC 15948) of one pixel: header, the one row without a filter, end."""
    chunks = ((b"IHDR", _ONE_PIXEL), (b"IDAT", compress(b"\0" + colour)), (b"IEND", b""))
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))
        for kind, data in chunks
    )


def video_payload(body: VideoBody, digest: bytes, created: int) -> dict[str, Any]:
    """The answer of POST /v1/videos."""
    return {
        "id": "video_" + digest.hex()[:48],
        "object": "video",
        "created_at": created,
        "completed_at": created,
        "expires_at": None,
        "status": "completed",
        "progress": 100,
        "model": body.model or "sora-2",
        "prompt": body.prompt,
        "seconds": str(body.seconds or "4"),
        "size": body.size or "720x1280",
        "remixed_from_video_id": None,
        "error": None,
    }
