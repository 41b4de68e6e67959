"""What the backend does with Label Studio's requests."""
