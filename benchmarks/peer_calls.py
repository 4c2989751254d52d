"""The calls of one peer; `peers.py` starts this with the interpreter of `.venv-peers`.

    .venv-peers/bin/python benchmarks/peer_calls.py WAY BASE_URL COUNT IN_FLIGHT PROMPT_BYTES

Each way is written as its documentation shows it for many calls, on uvloop, and keeps every answer.
Some calls go ahead to warm it up. Prints one JSON object: `seconds` from the first call to the last
answer, and `version`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from time import perf_counter

import uvloop

MODEL = "bench"
WARM_UP_CALLS = 50

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch the prices from the network
os.environ["PEER_KEY"] = "none"
os.environ["OPENAI_API_KEY"] = "none"

AskAll = Callable[[str, Sequence[str], int], Awaitable[Sequence[object]]]


async def with_aiohttp(base_url: str, prompts: Sequence[str], in_flight: int) -> Sequence[object]:
    import aiohttp

    semaphore = asyncio.Semaphore(in_flight)
    url = f"{base_url}/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(prompt: str) -> object:
            body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
            async with semaphore, session.post(url, json=body) as answer:
                found = await answer.json()
                return found["choices"][0]["message"]["content"]

        return await asyncio.gather(*map(ask, prompts))


async def with_openai(base_url: str, prompts: Sequence[str], in_flight: int) -> Sequence[object]:
    import httpx
    import openai

    semaphore = asyncio.Semaphore(in_flight)
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    http_client = openai.DefaultAsyncHttpxClient(limits=limits)
    async with openai.AsyncOpenAI(
        api_key="none", base_url=base_url, http_client=http_client
    ) as client:

        async def ask(prompt: str) -> object:
            async with semaphore:
                answer = await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": prompt}]
                )
                return answer.choices[0].message.content

        return await asyncio.gather(*map(ask, prompts))


async def with_litellm(base_url: str, prompts: Sequence[str], in_flight: int) -> Sequence[object]:
    import litellm

    semaphore = asyncio.Semaphore(in_flight)

    async def ask(prompt: str) -> object:
        async with semaphore:
            answer = await litellm.acompletion(
                model=f"openai/{MODEL}",
                messages=[{"role": "user", "content": prompt}],
                api_base=base_url,
                api_key="none",
            )
            return answer.choices[0].message.content

    return await asyncio.gather(*map(ask, prompts))


async def with_lm_deluge(base_url: str, prompts: Sequence[str], in_flight: int) -> Sequence[object]:
    from lm_deluge import LLMClient
    from lm_deluge.models import register_model

    register_model(MODEL, MODEL, base_url, "PEER_KEY")
    client = LLMClient(
        MODEL,
        max_requests_per_minute=10**9,
        max_tokens_per_minute=10**12,
        max_concurrent_requests=in_flight,
    )
    return await client.process_prompts_async(
        list(prompts), return_completions_only=True, show_progress=False
    )


async def with_flexllm(base_url: str, prompts: Sequence[str], in_flight: int) -> Sequence[object]:
    from flexllm import LLMClient

    async with LLMClient(
        model=MODEL, base_url=base_url, api_key="none", concurrency_limit=in_flight, max_qps=10**6
    ) as client:
        answers = await client.chat_batch(
            [[{"role": "user", "content": prompt}] for prompt in prompts], show_progress=False
        )
        return [answer.content for answer in answers]


async def with_async_batch_llm(
    base_url: str, prompts: Sequence[str], in_flight: int
) -> Sequence[object]:
    from async_batch_llm import llm, process_prompts

    model = llm(f"openai-compatible:{MODEL}", base_url=base_url, api_key="none")
    done = await process_prompts(model, list(prompts), concurrency=in_flight)
    return [result.output for result in done.results]


async def with_langchain(base_url: str, prompts: Sequence[str], in_flight: int) -> Sequence[object]:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=base_url, api_key="none")
    answers = await model.abatch(list(prompts), {"max_concurrency": in_flight})
    return [answer.content for answer in answers]


WAYS: dict[str, tuple[AskAll, str]] = {
    "aiohttp": (with_aiohttp, "aiohttp"),
    "lm-deluge": (with_lm_deluge, "lm-deluge"),
    "flexllm": (with_flexllm, "flexllm"),
    "openai": (with_openai, "openai"),
    "async-batch-llm": (with_async_batch_llm, "async-batch-llm"),
    "langchain": (with_langchain, "langchain-openai"),
    "litellm": (with_litellm, "litellm"),
}


def main() -> None:
    way, base_url, count, in_flight, prompt_bytes = sys.argv[1:]
    ask_all, package = WAYS[way]
    prompts = [
        f"Is review {number} good or bad?".ljust(int(prompt_bytes), "x")
        for number in range(int(count))
    ]

    async def measured() -> float:
        ahead = [f"Hello {number}" for number in range(WARM_UP_CALLS)]
        await ask_all(base_url, ahead, min(int(in_flight), WARM_UP_CALLS))
        started = perf_counter()
        answers = await ask_all(base_url, prompts, int(in_flight))
        taken_s = perf_counter() - started
        missing = sum(not isinstance(answer, str) for answer in answers)
        if missing or len(answers) != len(prompts):
            raise SystemExit(f"{way}: {missing} of {len(prompts)} were not answered")
        return taken_s

    print(json.dumps({"seconds": uvloop.run(measured()), "version": version(package)}))


if __name__ == "__main__":
    main()
