"""The embeddings of one peer; `packing.py` starts this with the interpreter of `.venv-peers`.

    .venv-peers/bin/python benchmarks/peer_embeddings.py WAY BASE_URL COUNT IN_FLIGHT LIST_SIZE

Every way sends lists of texts, as many lists at a time as it is told and can, on uvloop, and keeps
every vector as floats. `openai`, and what builds on it, asks for base64 by itself and decodes it.
One list goes ahead to warm it up. Prints one JSON object: `seconds` from the first call to the last
answer, and `version`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from array import array
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import chain
from time import perf_counter

import uvloop

MODEL = "bench"
DIMENSIONS = 256

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch the prices from the network
os.environ["OPENAI_API_KEY"] = "none"

Vectors = Sequence[Sequence[float]]
EmbedAll = Callable[[str, Sequence[str], int, int], Awaitable[Vectors]]


def lists(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[at : at + size] for at in range(0, len(texts), size))


async def gathered(
    embed: Callable[[Sequence[str]], Awaitable[Vectors]],
    texts: Sequence[str],
    in_flight: int,
    size: int,
) -> Vectors:
    """What `embed` makes of each list, so many at a time."""
    semaphore = asyncio.Semaphore(in_flight)

    async def in_turn(part: Sequence[str]) -> Vectors:
        async with semaphore:
            return await embed(part)

    return list(chain.from_iterable(await asyncio.gather(*map(in_turn, lists(texts, size)))))


async def with_aiohttp(base_url: str, texts: Sequence[str], in_flight: int, size: int) -> Vectors:
    return await _with_aiohttp(base_url, texts, in_flight, size, "float")


async def with_aiohttp_base64(
    base_url: str, texts: Sequence[str], in_flight: int, size: int
) -> Vectors:
    return await _with_aiohttp(base_url, texts, in_flight, size, "base64")


async def _with_aiohttp(
    base_url: str, texts: Sequence[str], in_flight: int, size: int, form: str
) -> Vectors:
    import aiohttp

    # As floats are the default, they are not named.
    named = {} if form == "float" else {"encoding_format": form}

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def embed(part: Sequence[str]) -> Vectors:
            body = {"model": MODEL, "input": part, "dimensions": DIMENSIONS, **named}
            async with session.post(f"{base_url}/embeddings", json=body) as answer:
                found = [item["embedding"] for item in (await answer.json())["data"]]
            return found if form == "float" else [array("f", b64decode(text)) for text in found]

        return await gathered(embed, texts, in_flight, size)


async def with_openai(base_url: str, texts: Sequence[str], in_flight: int, size: int) -> Vectors:
    import openai

    async with openai.AsyncOpenAI(base_url=base_url) as client:

        async def embed(part: Sequence[str]) -> Vectors:
            answer = await client.embeddings.create(
                model=MODEL, input=list(part), dimensions=DIMENSIONS
            )
            return [item.embedding for item in answer.data]

        return await gathered(embed, texts, in_flight, size)


async def with_litellm(base_url: str, texts: Sequence[str], in_flight: int, size: int) -> Vectors:
    import litellm

    async def embed(part: Sequence[str]) -> Vectors:
        answer = await litellm.aembedding(
            model=f"openai/{MODEL}",
            input=list(part),
            dimensions=DIMENSIONS,
            api_base=base_url,
            api_key="none",
            allowed_openai_params=["dimensions"],
        )
        return [item["embedding"] for item in answer.data]

    return await gathered(embed, texts, in_flight, size)


async def with_langchain(base_url: str, texts: Sequence[str], in_flight: int, size: int) -> Vectors:
    """It sends one list after the other by itself, so each list is a call of its own."""
    from langchain_openai import OpenAIEmbeddings

    model = OpenAIEmbeddings(
        model=MODEL,
        dimensions=DIMENSIONS,
        base_url=base_url,
        chunk_size=size,
        check_embedding_ctx_length=False,  # else it fetches a tokenizer from the network
    )

    async def embed(part: Sequence[str]) -> Vectors:
        return await model.aembed_documents(list(part))

    return await gathered(embed, texts, in_flight, size)


async def with_lm_deluge(base_url: str, texts: Sequence[str], in_flight: int, size: int) -> Vectors:
    """It knows the address and the models of OpenAI alone; both are replaced."""
    from lm_deluge import embed

    build = embed._build_request
    embed.REGISTRY[MODEL] = {"provider": "openai", "cost_per_million": 0.0}

    def with_address(*arguments: object) -> tuple[str, object, object]:
        _, headers, body = build(*arguments)
        return f"{base_url}/embeddings", headers, body

    embed._build_request = with_address
    try:
        answers = await embed.embed_parallel_async(
            list(texts),
            MODEL,
            max_requests_per_minute=10**9,
            max_tokens_per_minute=10**12,
            max_concurrent_requests=in_flight,
            batch_size=min(size, embed.MAX_BATCH_SIZE),
            show_progress=False,
            dimensions=DIMENSIONS,
        )
    finally:
        embed._build_request = build
    return list(chain.from_iterable(answer.embeddings for answer in answers))


WAYS: dict[str, tuple[EmbedAll, str]] = {
    "aiohttp": (with_aiohttp, "aiohttp"),
    "aiohttp-base64": (with_aiohttp_base64, "aiohttp"),
    "openai": (with_openai, "openai"),
    "langchain": (with_langchain, "langchain-openai"),
    "litellm": (with_litellm, "litellm"),
    "lm-deluge": (with_lm_deluge, "lm-deluge"),
}


def main() -> None:
    way, base_url, *numbers = sys.argv[1:]
    count, in_flight, size = map(int, numbers)
    embed_all, package = WAYS[way]
    texts = [f"Review {number}: it does what it says." for number in range(count)]

    async def measured() -> float:
        await embed_all(base_url, texts[:size], in_flight, size)
        started = perf_counter()
        vectors = await embed_all(base_url, texts, in_flight, size)
        taken_s = perf_counter() - started
        if [len(vector) for vector in vectors] != [DIMENSIONS] * count:
            raise SystemExit(f"{way}: not every text was answered")
        return taken_s

    print(json.dumps({"seconds": uvloop.run(measured()), "version": version(package)}))


if __name__ == "__main__":
    main()
