"""The service between Label Studio and the model: HTTP, store, queue and delivery. Never imports torch."""
