"""The embedded provider: three small models that need no key, no network and no money.

`builtin/sentiment` tells positive from negative English with the VADER lexicon,
`builtin/embedding` turns texts into vectors by feature hashing,
`builtin/echo` answers what it was told.
They speak OpenAI's chat completions, responses, completions and embeddings.
"""

from batchwright.providers.builtin.models import MODELS
from batchwright.providers.builtin.provider import BuiltinProvider
from batchwright.providers.builtin.transport import BuiltinTransport

__all__ = ["MODELS", "BuiltinProvider", "BuiltinTransport"]
