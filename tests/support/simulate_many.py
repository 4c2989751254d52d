"""Many random histories of the whole engine: batches, faults, crashes, power cuts, full disks,
cancels and stops from one seed each, checked against what every batch promises.

    PYTHONPATH=src:tests/support python tests/support/simulate_many.py --seeds 5000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import structlog

from batchwright.domain.batch import Batch, Status
from batchwright.domain.errors import Ambiguous, Conflict, NoSpace, StorageError
from batchwright.engine.lane import LaneLimits
from batchwright.engine.limiter import Declared
from batchwright.engine.packed_run import LIMITS
from batchwright.engine.packing import EMBEDDINGS_URL
from batchwright.engine.settings import EngineSettings
from batchwright.providers.base import Answer, Call
from mortal import WideWorld
from simulation import TENANT, ScriptedNetwork, simulate, texts_of

CHAT_URL = "/v1/chat/completions"
CUT_SHORT = ("batch_expired", "batch_cancelled")
FREE = (429, 500)  # answers of the scripted network that cost nothing


class LedgerNetwork(ScriptedNetwork):
    """Counts for each request how often it may have been paid, and hangs now and then."""

    def __init__(self, random: Random, *, fault_rate: float, hang_rate: float) -> None:
        super().__init__(random, fault_rate=fault_rate)
        self.paid: Counter[str] = Counter()
        self.hang_rate = hang_rate

    async def send(self, call: Call) -> Answer:
        received = len(self.ledger)
        texts = texts_of(call.body)
        if self._random.random() < self.hang_rate:
            self.ledger += texts
            self.paid.update(texts)
            await asyncio.sleep(600)
            raise Ambiguous("no answer within 600 s")
        sending = super().send(call)
        self.paid.update(texts)
        try:
            answer = await sending
        except Ambiguous:
            raise
        except Exception:
            self.paid.subtract(texts)  # refused before it was sent
            raise
        if answer.status in FREE:
            self.paid.subtract(texts)
        assert received <= len(self.ledger)
        return answer


@dataclass(slots=True)
class Watched:
    """A batch of the history, and what was seen of it."""

    id: str
    names: list[str]  # of its requests, by physical line - 1; empty for a blank line
    texts: dict[str, str]  # what each says, by name
    is_deduped: bool = False  # then several may say the same
    is_cached: bool = False  # then other batches may say the same
    may_be_cut_short: bool = False  # cancelled, or a short window
    cursor: str | None = None
    seen: list[bytes] = field(default_factory=list)  # result lines, page by page
    settled: int = 0


@dataclass(slots=True)
class Outcome:
    """What a history did, for the report."""

    seed: int
    lines: int = 0
    calls: int = 0
    crashes: int = 0
    copied: int = 0  # within a batch
    cached: int = 0  # from an earlier one
    statuses: Counter[str] = field(default_factory=Counter)


class History:
    """One random history."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.outcome = Outcome(seed)
        self.world = WideWorld(
            seed,
            limits=LaneLimits(
                max_concurrency=random.choice([1, 3, 10, 50]),
                declared=Declared(
                    requests_per_minute=random.choice([None, None, 3_000.0]),
                    tokens_per_minute=random.choice([None, None, 200_000.0]),
                ),
            ),
            settings=EngineSettings(reserve_bytes=0),
        )
        self.world.network = self.network = LedgerNetwork(
            self.world.random,
            fault_rate=random.choice([0.0, 0.1, 0.2, 0.4]),
            hang_rate=random.choice([0.0, 0.0, 0.005]),
        )
        self.batches: list[Watched] = []
        self.power_cuts = 0

    async def run(self) -> Outcome:
        random = self.random
        await self.world.boot()
        for _ in range(random.choice([1, 1, 2, 4])):
            await self._create()
        for _ in range(random.randrange(7)):
            await asyncio.sleep(random.expovariate(0.4))
            await random.choice(
                [
                    *(self._crash, self._crash, self._stop, self._fill_disk),
                    *(self._cancel, self._page, self._create, self._create_later),
                ]
            )()
        for watched in self.batches:
            await self._end(watched)
        assert self.world.engine is not None
        for watched in self.batches:
            await self._check(watched)
        await asyncio.sleep(1_000)  # calls that a cancel gave up on have ended too
        await self.world.engine.stop()
        assert self.world.engine.failure is None
        for lane in self.world.engine.router.lanes:
            assert (lane.in_flight, lane._slots_taken) == (0, 0)
            assert not lane._queue
        self.outcome.calls = len(self.network.ledger)
        return self.outcome

    async def _end(self, watched: Watched) -> None:
        assert self.world.engine is not None
        async with asyncio.timeout(10**6):
            await self.world.engine.wait(watched.id)
        if await self._was_failed():
            await self._end(watched)

    async def _was_failed(self) -> bool:
        """Restart an engine that ended because the sync of an older segment failed."""
        assert self.world.engine is not None
        failure = self.world.engine.failure
        if failure is None:
            return False
        assert isinstance(failure, StorageError), failure
        assert "failed before" in str(failure), failure
        self.outcome.crashes += 1
        await self.world.crash()
        await self.world.boot()
        return True

    # Events

    async def _create_later(self) -> None:
        """Once some others have ended, whose answers it may take."""
        await asyncio.sleep(self.random.choice([60, 3_600]))
        await self._create()

    async def _create(self) -> None:
        random, number = self.random, len(self.batches)
        names = [f"batch {number} line {n}" for n in range(1, random.choice([2, 20, 90, 300]))]
        for at in random.sample(range(len(names)), len(names) // 10):
            names[at] = ""
        if not any(names):
            names[0] = "the only one"
        texts = {name: name for name in names if name}
        is_deduped = random.random() < 0.4
        if is_deduped:
            texts = {name: f"batch {number} says {random.randrange(40)}" for name in texts}
        is_cached = random.random() < 0.3
        if is_cached:
            texts = {name: f"all say {random.randrange(100)}" for name in texts}
        window = random.choice(["24h", "24h", "24h", "1m"])
        models = "m" if is_cached else random.choice(["m", "n", "mn"])
        request = random.choice([_chat, _chat, _embedding])
        of_text = {text: random.choice(models) for text in texts.values()}
        options: dict[str, Any] = {"dedupe": is_deduped}
        if is_cached:
            options["cache"] = {"max_age_s": 86_400}
        data = "\n".join(
            request(name, texts[name], of_text[texts[name]]) if name else "" for name in names
        )
        endpoint = EMBEDDINGS_URL if request is _embedding else CHAT_URL
        batch = await self.world.create_batch(
            data.encode(), window, endpoint=endpoint, options=options
        )
        watched = Watched(batch.id, names, texts, is_deduped, is_cached, window == "1m")
        self.batches.append(watched)
        self.outcome.lines += len(texts)

    async def _crash(self) -> None:
        is_power_cut = self.random.random() < 0.4
        self.power_cuts += is_power_cut
        self.outcome.crashes += 1
        recorded, sent = self._recorded(), len(self.network.ledger)
        await self.world.crash(power_cut=is_power_cut)
        await asyncio.sleep(self.random.random())
        await self.world.boot()
        for watched in self.batches:
            watched.settled = 0
        await asyncio.sleep(3)
        assert not set(recorded) & set(self.network.ledger[sent:]), "bought again"

    async def _stop(self) -> None:
        assert self.world.engine is not None
        await self.world.engine.stop()
        if not await self._was_failed():
            await self.world.boot()
        for watched in self.batches:
            watched.settled = 0

    async def _fill_disk(self) -> None:
        self.world.blobs.fail_next_append(NoSpace("no space left on device"))
        await asyncio.sleep(self.random.random() * 10)
        self.world.blobs._append_failures.clear()

    async def _cancel(self) -> None:
        assert self.world.engine is not None
        watched = self.random.choice(self.batches)
        try:
            await self.world.engine.cancel_batch(TENANT, watched.id)
        except Conflict:
            return
        watched.may_be_cut_short = True

    async def _page(self) -> None:
        for watched in self.batches:
            await self._read_page(watched)
            batch = await self.world.get_batch(watched.id)
            settled = batch.counts.completed + batch.counts.failed
            assert settled >= watched.settled, "counts went back"
            watched.settled = settled

    # Checks

    def _recorded(self) -> list[str]:
        """The requests whose results are durable now."""
        assert self.world.engine is not None
        found = []
        for watched in self.batches:
            supervisor = self.world.engine.supervisor(watched.id)
            if watched.is_cached:
                continue  # another batch may ask the same
            if supervisor is not None and supervisor.current is not None:
                is_done = supervisor.current.tally.is_done
                found += [
                    watched.texts[name]
                    for n, name in enumerate(watched.names, 1)
                    if name and is_done(n)
                ]
        return found

    async def _read_page(self, watched: Watched) -> bool:
        assert self.world.engine is not None
        page = await self.world.engine.results(
            TENANT, watched.id, cursor=watched.cursor, limit=self.random.choice([1, 7, 1000])
        )
        watched.cursor = page.cursor
        watched.seen += page.lines
        return page.has_more

    async def _check(self, watched: Watched) -> None:
        batch = await self.world.get_batch(watched.id)
        assert batch.is_terminal, batch.status
        assert batch.status is Status.COMPLETED or watched.may_be_cut_short, batch.status
        self.outcome.statuses[batch.status] += 1
        wanted = sorted(watched.texts)
        output = (await self.world.read_file(batch.output_file_id)).splitlines(True)
        errors = (await self.world.read_file(batch.error_file_id)).splitlines(True)
        assert sorted(map(_name, output + errors)) == wanted, "not one line per request"
        assert (batch.counts.completed, batch.counts.failed) == (len(output), len(errors))
        assert batch.counts.total == len(wanted)
        texts = watched.texts
        assert all(_answer(line) == "echo: " + texts[_name(line)] for line in output), "mixed up"
        bought = self._check_copies(watched, batch, output, errors)
        # What is left of a call that a crash cut through keeps its share, by bytes, of the usage.
        tolerance = bought if self.outcome.crashes else 0
        assert abs(batch.closing.usage.input_tokens - 5 * bought) <= tolerance
        assert sum(batch.closing.codes.values()) == len(errors)
        assert "worker_lost" not in batch.closing.codes, "no request caused any of the crashes"
        while await self._read_page(watched):
            pass
        assert sorted(watched.seen) == sorted(output + errors), "the pages miss or repeat lines"
        self._check_listed(watched, batch)

    def _check_copies(
        self, watched: Watched, batch: Batch, output: list[bytes], errors: list[bytes]
    ) -> int:
        """A copy says what the first line with its text says; returns how many answers are none."""
        results = {_name(line): json.loads(line) for line in output + errors}
        first: dict[str, str] = {}
        copies = 0
        by_id = {each.id: each for each in self.batches}
        for name in filter(None, watched.names):
            result = results[name]
            leader = results[first.setdefault(watched.texts[name], name)]
            copied_from = result["batchwright"].get("copied_from")
            cached_from = result["batchwright"].get("cached_from")
            if cached_from is not None:
                source = by_id[cached_from["batch"]]
                assert watched.is_cached and source.is_cached  # noqa: PT018
                assert source.texts[source.names[cached_from["line"] - 1]] == watched.texts[name]
                self.outcome.cached += 1
                copies += 1
                continue
            if copied_from is None:
                # Only what ends a leader without a word of its own ends a follower so, too.
                was_sent = not watched.is_deduped or result is leader
                assert was_sent or (_is_cut_short(result) and _is_cut_short(leader))
                continue
            self.outcome.copied += 1
            copies += 1
            assert watched.names[copied_from["line"] - 1] == leader["custom_id"]
            assert "copied_from" not in leader["batchwright"]
            assert all(result[part] == leader[part] for part in ("response", "error"))
        assert batch.closing.savings.requests == copies
        return sum(b'"copied_from"' not in line and b'"cached_from"' not in line for line in output)

    def _check_listed(self, watched: Watched, batch: Batch) -> None:
        """Whatever may have been paid twice is listed, but for what a power cut made unknown."""
        if watched.is_cached:
            return  # what it asked was paid for by others as well
        listed = batch.closing.possibly_paid_twice_lines
        unlisted = [
            number
            for number, text in self._sent(watched)
            if self.network.paid[text] > 1 and number not in listed
        ]
        slots = sum(lane.slots for lane in self.world.engine.router.lanes)  # type: ignore[union-attr]
        slots *= LIMITS.inputs_max
        assert len(unlisted) <= self.power_cuts * slots, f"paid twice, not listed: {unlisted}"

    def _sent(self, watched: Watched) -> list[tuple[int, str]]:
        """The lines that may be sent, and what they say: the first of each text."""
        first: dict[str, int] = {}
        for number, name in enumerate(watched.names, 1):
            if name:
                first.setdefault(watched.texts[name], number)
        return [(number, text) for text, number in first.items()]


def _chat(name: str, text: str, model: str) -> str:
    return _request(name, CHAT_URL, model=model, messages=[{"role": "user", "content": text}])


def _embedding(name: str, text: str, model: str) -> str:
    return _request(name, EMBEDDINGS_URL, model=model, input=text)


def _request(name: str, url: str, **body: Any) -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body})


def _name(line: bytes) -> str:
    return str(json.loads(line)["custom_id"])


def _is_cut_short(result: dict[str, Any]) -> bool:
    return result["error"] is not None and result["error"]["code"] in CUT_SHORT


def _answer(line: bytes) -> str:
    body = json.loads(line)["response"]["body"]
    if "data" in body:
        (only,) = body["data"]
        assert only["index"] == 0
        return str(only["embedding"])
    return str(body["choices"][0]["message"]["content"])


def simulate_seed(seed: int) -> Outcome:
    """Run the history of a seed. Raises `AssertionError` where a promise is broken."""

    async def whole() -> Outcome:
        return await History(seed).run()

    return simulate(whole())


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate random histories of the engine.")
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    began, done, failed = time.perf_counter(), [], []
    for seed in range(options.first, options.first + options.seeds):
        try:
            done.append(simulate_seed(seed))
        except Exception:
            failed.append(seed)
            print(f"seed {seed}:\n{traceback.format_exc(limit=-3)}", flush=True)
    elapsed_s = time.perf_counter() - began
    statuses = sum((one.statuses for one in done), Counter())
    print(f"{len(done)} histories held, {len(failed)} did not {failed[:20]} in {elapsed_s:.1f} s")
    print(
        f"{sum(one.lines for one in done)} requests, {sum(one.calls for one in done)} calls, "
        f"{sum(one.copied for one in done)} copies, {sum(one.cached for one in done)} from "
        f"earlier batches, {sum(one.crashes for one in done)} crashes, batches: {dict(statuses)}"
    )
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
