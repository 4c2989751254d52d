"""The calls of one peer; `peers.py` starts this with the interpreter of `.venv-peers`.

    .venv-peers/bin/python benchmarks/peer_calls.py WAY BASE_URL COUNT IN_FLIGHT PROMPT_BYTES [RPM]

Each way is written as its documentation shows it for many calls, on uvloop, and keeps every answer.
RPM is a limit of requests a minute that it is told to keep, if it can. Some calls go ahead to warm
it up. Prints one JSON object: `seconds` from the first call to the last answer, and `version`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from random import random
from time import perf_counter

import uvloop

MODEL = "bench"
WARM_UP_CALLS = 50

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch the prices from the network
os.environ["PEER_KEY"] = "none"
os.environ["OPENAI_API_KEY"] = "none"

NO_RPM = 10**9  # for those that must be told a limit


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked, where, and within which bounds."""

    base_url: str
    prompts: Sequence[str]
    in_flight: int
    requests_per_minute: int | None = None


AskAll = Callable[[Work], Awaitable[Sequence[object]]]


async def with_aiohttp(work: Work) -> Sequence[object]:
    import aiohttp

    semaphore = asyncio.Semaphore(work.in_flight)
    url = f"{work.base_url}/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(prompt: str) -> object:
            body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
            async with semaphore, session.post(url, json=body) as answer:
                found = await answer.json()
                return found["choices"][0]["message"]["content"]

        return await asyncio.gather(*map(ask, work.prompts))


async def with_backoff(work: Work) -> Sequence[object]:
    """As the above, and after a 429 again, as OpenAI's cookbook has it: exponential, at random."""
    import aiohttp

    semaphore = asyncio.Semaphore(work.in_flight)
    url = f"{work.base_url}/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(prompt: str) -> object:
            body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
            wait_s = 1.0
            async with semaphore:
                while True:
                    async with session.post(url, json=body) as answer:
                        found = await answer.json()
                        if answer.status != 429:
                            return found["choices"][0]["message"]["content"]
                    await asyncio.sleep(random() * wait_s)
                    wait_s = min(2 * wait_s, 60.0)

        return await asyncio.gather(*map(ask, work.prompts))


async def with_openai(work: Work) -> Sequence[object]:
    import httpx
    import openai

    semaphore = asyncio.Semaphore(work.in_flight)
    limits = httpx.Limits(max_connections=work.in_flight, max_keepalive_connections=work.in_flight)
    http_client = openai.DefaultAsyncHttpxClient(limits=limits)
    async with openai.AsyncOpenAI(
        api_key="none", base_url=work.base_url, http_client=http_client
    ) as client:

        async def ask(prompt: str) -> object:
            async with semaphore:
                answer = await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": prompt}]
                )
                return answer.choices[0].message.content

        return await asyncio.gather(*map(ask, work.prompts))


async def with_litellm(work: Work) -> Sequence[object]:
    import litellm

    semaphore = asyncio.Semaphore(work.in_flight)

    async def ask(prompt: str) -> object:
        async with semaphore:
            answer = await litellm.acompletion(
                model=f"openai/{MODEL}",
                messages=[{"role": "user", "content": prompt}],
                api_base=work.base_url,
                api_key="none",
            )
            return answer.choices[0].message.content

    return await asyncio.gather(*map(ask, work.prompts))


async def with_lm_deluge(work: Work) -> Sequence[object]:
    from lm_deluge import LLMClient
    from lm_deluge.models import register_model

    register_model(MODEL, MODEL, work.base_url, "PEER_KEY")
    client = LLMClient(
        MODEL,
        max_requests_per_minute=work.requests_per_minute or NO_RPM,
        max_tokens_per_minute=10**12,
        max_concurrent_requests=work.in_flight,
    )
    return await client.process_prompts_async(
        list(work.prompts), return_completions_only=True, show_progress=False
    )


async def with_flexllm(work: Work) -> Sequence[object]:
    from flexllm import LLMClient

    async with LLMClient(
        model=MODEL,
        base_url=work.base_url,
        api_key="none",
        concurrency_limit=work.in_flight,
        max_qps=(work.requests_per_minute or NO_RPM) / 60,
    ) as client:
        answers = await client.chat_batch(
            [[{"role": "user", "content": prompt}] for prompt in work.prompts], show_progress=False
        )
        return [answer.content for answer in answers]


async def with_async_batch_llm(work: Work) -> Sequence[object]:
    from async_batch_llm import ProcessorConfig, llm, process_prompts

    model = llm(f"openai-compatible:{MODEL}", base_url=work.base_url, api_key="none")
    config = ProcessorConfig(
        concurrency=work.in_flight, max_requests_per_minute=work.requests_per_minute
    )
    done = await process_prompts(model, list(work.prompts), config=config)
    return [result.output for result in done.results]


async def with_langchain(work: Work) -> Sequence[object]:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=work.base_url, api_key="none")
    answers = await model.abatch(list(work.prompts), {"max_concurrency": work.in_flight})
    return [answer.content for answer in answers]


WAYS: dict[str, tuple[AskAll, str]] = {
    "aiohttp": (with_aiohttp, "aiohttp"),
    "backoff": (with_backoff, "aiohttp"),
    "lm-deluge": (with_lm_deluge, "lm-deluge"),
    "flexllm": (with_flexllm, "flexllm"),
    "openai": (with_openai, "openai"),
    "async-batch-llm": (with_async_batch_llm, "async-batch-llm"),
    "langchain": (with_langchain, "langchain-openai"),
    "litellm": (with_litellm, "litellm"),
}


def main() -> None:
    way, base_url, *numbers = sys.argv[1:]
    count, in_flight, prompt_bytes, *limit = map(int, numbers)
    ask_all, package = WAYS[way]
    prompts = [
        f"Is review {number} good or bad?".ljust(prompt_bytes, "x") for number in range(count)
    ]
    ahead = [f"Hello {number}" for number in range(WARM_UP_CALLS)]
    rpm = limit[0] if limit else None

    async def measured() -> float:
        await ask_all(Work(base_url, ahead, min(in_flight, WARM_UP_CALLS), rpm))
        started = perf_counter()
        answers = await ask_all(Work(base_url, prompts, in_flight, rpm))
        taken_s = perf_counter() - started
        missing = sum(not isinstance(answer, str) for answer in answers)
        if missing or len(answers) != len(prompts):
            raise SystemExit(f"{way}: {missing} of {len(prompts)} were not answered")
        return taken_s

    print(json.dumps({"seconds": uvloop.run(measured()), "version": version(package)}))


if __name__ == "__main__":
    main()
