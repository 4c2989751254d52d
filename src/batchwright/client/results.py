"""Result lines of batches as results of a job.

A **job** is what the caller sees as one thing: the batches that a large input was cut into,
and the batches that repeated its failed requests later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from batchwright.client.errors import RequestFailure
from batchwright.client.items import answer_of, tokens_of
from batchwright.domain.errors import BatchwrightError


class Result(TypedDict):
    """The result of one item. Exactly one of `response` and `error` is None."""

    id: str  # the custom_id of the request
    response: Any  # text, vector or body, see `answer_of`; None if it failed
    tokens: int | None  # in and out together, as the provider counted
    error: RequestFailure | None


Results = dict[str, Result]  # by custom_id, in the order of the input


def custom_id(number: int, total: int) -> str:
    """The id of the request `number` (from 1) of `total`; ids sort as the requests do."""
    return f"request-{number:0{len(str(total))}d}"


def read_result(line: bytes, endpoint: str) -> Result:
    """The result in one line of an output or error file.

    A success has a 2xx status, no `error`, and no error in its body; all else is a failure. So is
    an answer that was refused or cut off before its first word (`refused`, `no_answer`).
    Raises `BatchwrightError` for a line that is not a result line.
    """
    try:
        value = json.loads(line)
        name, response, error = value["custom_id"], value.get("response"), value.get("error")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise BatchwrightError(
            f"the server sent a result line that cannot be read: {line[:200]!r}"
        ) from cause
    failure = _failure(response, error)
    if failure is not None:
        return failed(str(name), failure)
    body = response["body"]
    answer = answer_of(body, endpoint)
    if isinstance(answer, RequestFailure):
        return {"id": str(name), "response": None, "tokens": tokens_of(body), "error": answer}
    return {"id": str(name), "response": answer, "tokens": tokens_of(body), "error": None}


def failed(name: str, failure: RequestFailure) -> Result:
    """The result of a request that failed."""
    return {"id": name, "response": None, "tokens": None, "error": failure}


def _failure(response: Any, error: Any) -> RequestFailure | None:
    status, body = _status_and_body(response)
    if error:
        return failure_from(error, status)
    if status is None:
        return RequestFailure("no_response", "the result line has neither response nor error")
    inner = body.get("error") if isinstance(body, dict) else None
    if inner or not 200 <= status < 300:
        return failure_from(inner or body, status)
    return None


def _status_and_body(response: Any) -> tuple[int | None, Any]:
    if not isinstance(response, Mapping) or "body" not in response:
        return None, None
    status = response.get("status_code", 200)
    return (status if isinstance(status, int) else 200), response["body"]


def failure_from(error: Any, status: int | None) -> RequestFailure:
    """A failure from an error object of the wire, whatever its shape."""
    fallback = f"http_{status}" if status is not None else "request_failed"
    if isinstance(error, Mapping):
        code = error.get("code") or error.get("type") or fallback
        message = error.get("message") or json.dumps(dict(error))
        return RequestFailure(str(code), str(message), status)
    message = error if isinstance(error, str) and error else f"the request failed: {error!r}"
    return RequestFailure(fallback, message, status)


# --- order and merging


def in_order_of(names: Iterable[str], results: Results, missing: RequestFailure) -> Results:
    """`results` in the order of `names`; one that has no result gets `missing`."""
    ordered = {name: results.get(name) or failed(name, missing) for name in names}
    return ordered | {name: result for name, result in results.items() if name not in ordered}


def failed_ids(results: Results) -> list[str]:
    """The ids of the requests that failed, in order; not of those whose answer holds none."""
    return [name for name, result in results.items() if _is_failed(result)]


@dataclass(frozen=True, slots=True)
class Job:
    """The batches of one job, by their place in the row that they came in, and its results."""

    results: Results
    members: list[int]


def merge(batches: Iterable[Results]) -> list[Job]:
    """The jobs that a row of batches amounts to.

    A batch whose ids are all among the failed ones of a job repeats these and replaces their
    results. One with new ids continues the job before it. One with ids that are taken is
    another job.
    """
    jobs: list[Job] = []
    for place, batch in enumerate(batches):
        job = next((job for job in jobs if batch and _repeats(batch, job.results)), None)
        if job is None and jobs and jobs[-1].results.keys().isdisjoint(batch):
            job = jobs[-1]
        if job is None:
            job = Job({}, [])
            jobs.append(job)
        job.results.update(batch)
        job.members.append(place)
    return jobs


def _is_failed(result: Result) -> bool:
    return result["error"] is not None and result["error"].code not in ("refused", "no_answer")


def _repeats(batch: Results, results: Results) -> bool:
    return all(name in results and results[name]["error"] is not None for name in batch)
