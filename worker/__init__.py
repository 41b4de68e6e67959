"""The worker: takes jobs off the queue, runs an engine on them, and keeps the model loaded between them."""
