"""The kinds of job that a worker runs: one module per kind, each with a function `do`; see worker.kinds.base."""
