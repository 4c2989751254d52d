"""HTTP/1.1 without TLS, for upstreams that are at hand: vLLM, Ollama, llama.cpp, a gateway.

`transport` hands each call to a thread of its client and takes it back from there. On one core
that costs more than the call: 28 µs of processor time where a connection of the event loop itself,
with the parser of Node.js (llhttp, through `httptools`), takes 12. Calls to a model of one's own
come in tens of thousands a second, so here it counts. TLS, proxies and answers that are passed on
while they arrive are left to `transport`.

Rules of this module:

- One call at a time on a connection; nothing is pipelined. A connection serves a further call
  only if its last answer was whole, the server keeps it, and not a byte has come since. Any other
  end closes it, so that no answer can reach another call.
- Until a connection is there, a call was not sent. From then on it may have been.
- A cancelled call has ended as soon as its connection is closed, which is at once.
- What has the same timeout runs out in the order in which it was sent: one timer for all of it.
- The answer is decoded up to a cap on the *decoded* bytes, so a gzip bomb stops there. Its head
  may have 64 KiB and 100 headers.
"""

from __future__ import annotations

from batchwright.providers.http1.transport import Http1Transport

__all__ = ["Http1Transport"]
