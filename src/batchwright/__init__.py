"""batchwright: a file of AI requests in, a file of answers out."""
