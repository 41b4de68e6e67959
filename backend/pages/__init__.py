"""The jobs page: what people see of the store in a browser, and what they can do there."""

from backend.pages.routes import blueprint

__all__ = ["blueprint"]
