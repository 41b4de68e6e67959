"""Active learning: rounds of choosing tasks, waiting for corrections, training and relabelling."""
