"""The kinds of job that a worker runs."""
