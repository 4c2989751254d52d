"""A look at requests without sending any: what is wrong, how many, for which models."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from batchwright.blobs.base import CHUNK_BYTES
from batchwright.config import Config
from batchwright.domain.errors import UsageError
from batchwright.domain.lines import LineSplitter
from batchwright.domain.request import parse_request
from batchwright.engine.bodies import Bodies
from batchwright.engine.duplicates import duplicates_of
from batchwright.engine.validate import ValidationReport, ValidationRules, Validator
from batchwright.local.requests import take_chunk
from batchwright.wiring import open_node

_BYTES_PER_TOKEN = 4  # about, for English in JSON
_MODELS_MAX = 100


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A model that requests name."""

    requests: int
    served_by: str | None  # the provider; None where nobody here serves it
    hint: str | None  # then: what would bring it


@dataclass(frozen=True, slots=True)
class Inspection:
    """What requests look like before they are sent."""

    report: ValidationReport
    url: str
    first: bytes | None  # the first request
    models: Mapping[str, ModelUse]
    duplicates: int = 0  # requests that would not be sent: another before has the same body

    @property
    def estimated_input_tokens(self) -> int:
        return self.report.estimated_input_bytes // _BYTES_PER_TOKEN


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file in pieces. Raises `UsageError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


def line_chunks(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Request lines in pieces."""
    while (chunk := take_chunk(lines)).lines:
        yield chunk.content


async def inspect(
    chunks: Iterable[bytes], url: str, config: Config, *, dedupe: bool = False
) -> Inspection:
    """Validate requests for the endpoint `url`, and find out who would answer them.

    A model that nobody here serves is told, and no fault of the requests. Providers are asked for
    no more than their list of models. With `dedupe` duplicates are counted.
    """
    with tempfile.TemporaryDirectory(prefix="batchwright-") as folder:
        async with open_node(replace(config, data_dir=Path(folder))) as node:
            await node.engine.ask_models()
            bodies = Bodies(url) if dedupe else None
            look = _Look(url, node.engine.settings.line_bytes_max, bodies)
            for chunk in chunks:
                await node.blobs.offload(partial(look.feed, chunk))
            report = look.finish()
            router = node.engine.router
            models = {}
            for model, count in look.models.items():
                hint = router.explain(model)
                served_by = router.find(model).provider.name if hint is None else None
                models[model] = ModelUse(count, served_by, hint)
            duplicates = 0
            if bodies is not None:
                duplicates = (await node.blobs.offload(partial(duplicates_of, bodies))).count
            return Inspection(report, url, look.first, models, duplicates)


class _Look:
    """One pass over the requests."""

    def __init__(self, url: str, line_bytes_max: int, bodies: Bodies | None) -> None:
        rules = ValidationRules(
            url, requests_max=None, embedding_inputs_max=None, line_bytes_max=line_bytes_max
        )
        self._validator = Validator(rules, lambda _model, _endpoint: None)
        self._splitter = LineSplitter(line_bytes_max=line_bytes_max)
        self._bodies = bodies
        self.models: Counter[str] = Counter()
        self.first: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        self._validator.feed(chunk)
        for line in self._splitter.feed(chunk):
            self._note(line.number, line.content)

    def finish(self) -> ValidationReport:
        for line in self._splitter.finish():
            self._note(line.number, line.content)
        return self._validator.finish()

    def _note(self, number: int, content: bytes | None) -> None:
        if content is None:
            return
        if self.first is None:
            self.first = content
        try:
            request = parse_request(number, content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # the validator says what is wrong
        if self._bodies is not None:
            self._bodies.add(request.body, number)
        model = request.model
        if model and (model in self.models or len(self.models) < _MODELS_MAX):
            self.models[model] += 1
