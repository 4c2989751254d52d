"""`/`: a plain page with the base URL and a snippet that is ready to run."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from html import escape

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchwright.server.context import services_of
from batchwright.server.settings import ServerSettings

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem }
pre { background: #f4f4f4; color: #111; padding: 1rem; overflow-x: auto }
"""

_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>batchwright</title><style>{style}</style></head>
<body>
<h1>batchwright</h1>
<p>A file of AI requests in, a file of answers out. {note}</p>
<p>Base URL: <code>{base_url}</code></p>
<pre>from openai import OpenAI

client = OpenAI(base_url="{base_url}", api_key="YOUR KEY")

with open("requests.jsonl", "rb") as requests:
    file = client.files.create(file=requests, purpose="batch")
batch = client.batches.create(
    input_file_id=file.id,
    endpoint="/v1/chat/completions",
    completion_window="24h",
)
print(client.batches.retrieve(batch.id).request_counts)</pre>
<p>Health: <a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>,
<a href="/metrics">/metrics</a>.</p>
</body>
</html>
"""

_REHEARSAL = (
    "This server rehearses: every model is played by a sandbox, nothing is sent to a provider."
)

router = APIRouter()


@router.get("/")
@router.head("/")
async def root(request: Request) -> Response:
    """The page for a person who opens the server's address."""
    settings = services_of(request).settings
    page = _PAGE.format(
        style=_STYLE,
        note=_REHEARSAL if settings.rehearse else "",
        base_url=escape(_base_url(request, settings)),
    )
    return Response(page, headers=_HEADERS, media_type="text/html")


def _base_url(request: Request, settings: ServerSettings) -> str:
    """Shown only: nothing is decided by the host that a client names."""
    origin = settings.public_url or f"{request.url.scheme}://{request.url.netloc}"
    return origin.rstrip("/").removesuffix("/v1") + "/v1"
