"""What things are: files, batches and their states, requests, results. No I/O."""
