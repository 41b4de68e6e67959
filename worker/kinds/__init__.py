"""The kinds of job that a worker runs: one module a kind, each with a function `do`; see worker.kinds.base."""
