"""What is written to Label Studio: predictions, pictures, task states."""
