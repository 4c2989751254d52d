"""What the server can be told, with its defaults."""

from __future__ import annotations

from dataclasses import dataclass

from batchwright.domain.file import UPLOAD_PURPOSES
from batchwright.domain.lines import LINE_BYTES_MAX
from batchwright.domain.upload import PART_BYTES_MAX, UPLOAD_BYTES_MAX

FILE_BYTES_MAX = 200 * 2**20  # an input file of a batch
OTHER_FILE_BYTES_MAX = 512 * 2**20  # any other file

STORED_BYTES_MAX = 50 * 2**30  # of one tenant, result files too

CONNECTIONS_PER_ADDRESS_MAX = 100

BATCH_ENDPOINTS = (
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
)
"""The endpoints of a batch (OpenAI reference, "Create batch")."""

PASS_THROUGH_ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/responses",
)
"""The endpoints whose calls are handed through one by one."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and switches of the HTTP API. None means no limit."""

    file_bytes_max: int = FILE_BYTES_MAX
    other_file_bytes_max: int = OTHER_FILE_BYTES_MAX
    upload_bytes_max: int = UPLOAD_BYTES_MAX
    part_bytes_max: int = PART_BYTES_MAX
    json_body_bytes_max: int = 2**20
    call_body_bytes_max: int = LINE_BYTES_MAX  # the body of a pass-through call
    purposes: tuple[str, ...] = UPLOAD_PURPOSES
    extra_endpoints: tuple[str, ...] = ()  # further JSON endpoints, in batches and pass-through
    rehearse: bool = False  # every model is played by the sandbox; the root page says so
    public_url: str | None = None  # shown on the root page; None: what the client called
    header_bytes_max: int = 16 * 2**10
    header_count_max: int = 100
    requests_per_s_per_tenant: float | None = 60.0  # all but pass-through calls
    open_batches_per_tenant: int | None = 100
    stored_bytes_per_tenant: int | None = STORED_BYTES_MAX
    live_calls_per_tenant: int | None = 500  # that wait or are under way
    live_bytes_per_tenant: int | None = 256 * 2**20  # of the bodies of these
    failed_auth_per_minute: int = 10  # for each client address
    address_is_client: bool = True  # False behind a proxy, whose address is that of all clients
    head_s: float = 10.0  # a request has its headers complete so long after its first byte
    connections_max: int = 1_000
    connections_per_address_max: int | None = CONNECTIONS_PER_ADDRESS_MAX

    @property
    def batch_endpoints(self) -> tuple[str, ...]:
        return BATCH_ENDPOINTS + self.extra_endpoints

    @property
    def pass_through_endpoints(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(PASS_THROUGH_ENDPOINTS + self.extra_endpoints))
