"""The errors that trajseg raises at its edges.

TrajSegError                     anything that trajseg refuses or cannot do
├── InputError                   the request is invalid; the command line exits with 2, HTTP answers 4xx
│   ├── VideoError               the video is missing, unreadable, empty, has no pictures, or is cut off
│   ├── InstructionError         the instruction is empty or too long
│   ├── TaskError                a Label Studio task lacks what its project needs
│   ├── LabelConfigError         a labelling configuration has no tag that trajseg can fill
│   └── UnknownProjectError      a project that is not connected to trajseg
├── CheckpointError              a folder is not a TrajSeg checkpoint, or not one for this engine
├── ServiceError                 something that trajseg needs does not answer
│   ├── StoreError               the store's database cannot be reached, or is locked
│   ├── QueueError               Redis or Valkey cannot be reached
│   └── LabelStudioError         Label Studio cannot be reached, or refused
└── CancelledError               a person cancelled the job; raised out of a progress callback
"""

from __future__ import annotations

import re
from collections.abc import Callable

from trajseg.files import printable

_USER = re.compile(r"([a-z][a-z0-9+.-]*:/+)[^\s/'\"<>]*@", re.IGNORECASE)
_QUERY = re.compile(r"([a-z][a-z0-9+.-]*:/+[^\s?#'\"<>]+)[?#][^\s'\"<>]*", re.IGNORECASE)
_redact: Callable[[str], str] | None = None


def redact_with(redact: Callable[[str], str]) -> None:
    """Makes `shown` redact secrets; called when settings with secrets are loaded."""
    global _redact
    _redact = redact


def shown(text: str) -> str:
    """A text safe for the terminal: without the secrets of the loaded settings, and with addresses stripped of user,
    password and query. Also handles an address treated as a path, which has one slash (`https:/host`)."""
    text = text if _redact is None else _redact(text)
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))


class TrajSegError(Exception):
    """An error with a sentence on what is wrong, and one on what to do about it.

    Both can always be printed and stored: see `trajseg.files.printable`.

    Args:
        message: what is wrong, naming the thing.
        remedy: what a person can do; empty if nothing.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = printable(message)
        self.remedy = printable(remedy)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class InputError(TrajSegError):
    """The request is invalid."""


class VideoError(InputError):
    """The video is missing, unreadable, empty, has no pictures, or is cut off."""


class InstructionError(InputError):
    """The instruction is empty or too long."""


class TaskError(InputError):
    """A Label Studio task lacks what its project needs."""


class LabelConfigError(InputError):
    """A labelling configuration has no tag that trajseg can fill."""


class UnknownProjectError(InputError):
    """A project that is not connected to trajseg."""


class CheckpointError(TrajSegError):
    """A folder is not a TrajSeg checkpoint, or not one for this engine."""


class ServiceError(TrajSegError):
    """Something that trajseg needs does not answer."""


class StoreError(ServiceError):
    """The store's database cannot be reached, or is locked."""


class QueueError(ServiceError):
    """Redis or Valkey cannot be reached."""


class LabelStudioError(ServiceError):
    """Label Studio cannot be reached, or refused."""


class CancelledError(TrajSegError):
    """A person cancelled the job."""


def hidden_exit(error: BaseException) -> bool:
    """Whether this error replaced a signal's SystemExit, as in a library's clean-up."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SystemExit):
            return True
        cause = cause.__context__
    return False
