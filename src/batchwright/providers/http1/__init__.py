"""HTTP/1.1 without TLS, for upstreams that are at hand: vLLM, Ollama, llama.cpp, a gateway.

`reqwest` hands each call to a thread of its client and takes it back from there. On one core
that costs more than the call: 28 µs of processor time where a connection of the event loop itself,
with the parser of Node.js (llhttp, through `httptools`), takes 10. Calls to a model of one's own
come in tens of thousands a second, so here it counts. TLS, proxies and answers that are passed on
while they arrive are left to `reqwest`.

Rules of this module:

- One call at a time on a connection; nothing is pipelined. A connection serves a further call
  only if its last answer was whole, the server keeps it, and not a byte has come since. Any other
  end closes it, so that no answer can reach another call.
- Until a connection is there, a call was not sent. From then on it may have been.
- A cancelled call has ended as soon as its connection is closed, which is at once.
- What has the same timeout runs out in the order in which it was sent: one timer for all of it.
  Connecting, and waiting for room, are part of the time of a call.
- The answer is decoded up to a cap on the *decoded* bytes, so a gzip bomb stops there. It may have
  100 headers, and 64 KiB that bring nothing of its body: heads, trailers, extensions of chunks.
  (What arrives in one piece with a bit of the body is not counted; the event loop reads at most
  256 KiB at a time.)

Where a rare case would need much, it is left out:

- Nothing is sent again here, not even when a server closes an idle connection at the moment of a
  call (RFC 9112, section 9.5): it cannot be told from one that has taken the call and died. So an
  idle connection is used for 1.5 s only, and a call that meets its end counts as perhaps paid.
- What a server sends without being asked is told from an answer if it comes before the next
  request is written. Later it cannot be told, by any client: HTTP/1.1 has no ids.
- A host's addresses are tried in turn, not in a race (RFC 8305): the upstream is at hand.
- A body has one member of gzip, as servers send it. Each further one would cost a copy of all that
  is left, and a body can have thousands in a piece.
- `HEAD`, upgrades, folded headers, and line ends without a carriage return are refused.
"""

from __future__ import annotations

from batchwright.providers.http1.transport import Http1Transport

__all__ = ["Http1Transport"]
