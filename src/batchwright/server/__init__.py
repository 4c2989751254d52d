"""The HTTP API: OpenAI's Files, Uploads, Batches and Models, the pass-through, keys and health."""
