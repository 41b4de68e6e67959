"""Words for people: numbers with their noun."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 task", "2 tasks", "0 deliveries".

    Args:
        plural: if it is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
