"""The jobs page: shows the store in a browser, with actions on jobs."""

from backend.pages.routes import blueprint

__all__ = ["blueprint"]
