"""How many tokens a request will use, from its bytes and from the answers seen so far.

One `Estimator` for each model and batch, and one for the model over all batches, with which a new
batch begins: else its requests would count for more than those of a batch that has learned what
they take, and it would get less than its share of the lane. While a limit of tokens is known, a
request is estimated anew until it goes: what is read ahead before the first answer would hold back
all that follows, if it has images in it, by a hundred times what it takes. Not `max_tokens`: most
answers stay far below it, and a limit that is kept by it stands mostly unused.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchwright.domain.limits import Cost, Tokens

TOKENS_PER_BYTE = 0.25  # of English text, before anything is seen
OUTPUT_TOKENS = 100.0
MEMORY = 50  # answers, of those looked at, over which the means run
_TRUST = 4  # answers that what other batches have seen is worth to a new one
_TOKENS_PER_BYTE_MAX = 2.0  # more is an error of the provider's figures
_OUTPUT_TOKENS_MAX = 1e7


@dataclass(slots=True)
class Estimator:
    """Running means."""

    model: str = ""
    tokens_per_byte: float = TOKENS_PER_BYTE
    output_tokens: float = OUTPUT_TOKENS
    answers: int = 0  # looked at, and sound
    seen: int = 0
    of_model: Estimator | None = None  # learns from what this one looks at


def for_batch(of_model: Estimator) -> Estimator:
    """What a new batch begins with: the means of its model, soon outweighed by its own."""
    return Estimator(
        of_model.model,
        of_model.tokens_per_byte,
        of_model.output_tokens,
        answers=min(of_model.answers, _TRUST),
        of_model=of_model,
    )


def estimate(estimator: Estimator, size_bytes: int, output_tokens_max: int | None = None) -> Cost:
    """The expected cost of a request with a body of so many bytes.

    `output_tokens_max` is the request's own cap, where it is known.
    """
    output_tokens = estimator.output_tokens
    if output_tokens_max is not None and output_tokens_max >= 0:
        output_tokens = min(output_tokens, output_tokens_max)
    input_tokens = max(round(size_bytes * estimator.tokens_per_byte), 1)
    return Cost(input_tokens, round(output_tokens), estimator.model)


def learn(estimator: Estimator, size_bytes: int, used: Tokens) -> None:
    """Take in the real usage of an answer; figures that make no sense are left out.

    Once the means stand, one answer in eight is looked at: every request comes through here.
    """
    estimator.seen += 1
    if estimator.answers >= MEMORY and estimator.seen & 7:
        return
    share = 1 / min(estimator.answers + 1, MEMORY)
    if used.input_tokens > 0 and size_bytes > 0:
        ratio = min(used.input_tokens / size_bytes, _TOKENS_PER_BYTE_MAX)
        estimator.tokens_per_byte += share * (ratio - estimator.tokens_per_byte)
        if used.output_tokens >= 0:  # embeddings have none
            output = min(float(used.output_tokens), _OUTPUT_TOKENS_MAX)
            estimator.output_tokens += share * (output - estimator.output_tokens)
        estimator.answers += 1
        if estimator.of_model is not None:
            learn(estimator.of_model, size_bytes, used)
