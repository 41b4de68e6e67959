"""The laboratory: everything that knows only the shapes world. Nothing outside imports it."""
