"""A simulated OpenAI upstream: limits, latencies, faults, and answers made from the request."""
