"""Data sets by name: the only place that parses `--data`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from trajseg.data.dataset import Dataset
from trajseg.data.dataset_samples import DatasetSamples
from trajseg.data.samples import Source
from trajseg.errors import InputError

GROUP = "trajseg.datasets"
"""Entry points of other packages: a name, and "module:factory" as below."""


class DatasetEntry(NamedTuple):
    """A named data set.

    Args:
        factory: "module:function", called with (argument, options); a string, so that nothing is imported before it is
            used.
        usage: how to name it, for error messages.
        source: "module:function" of the same form that returns a training Source of its own; by default samples are
            drawn from the data set.
    """

    factory: str
    usage: str
    source: str = ""


@dataclass(frozen=True)
class DatasetOptions:
    """What the command line adds to a name; a data set reads what applies to it and rejects the rest.

    Args:
        count: maximum number of clips; None: all of the data set, or 50 of an endless one.
        seed: of the first clip, for rendered clips.
        height: rows of the frames, for rendered clips; None: the data set's own.
        per_kind: expressions per kind and clip, if they are generated; None: the data set's own.
        if_drawn: other data sets ignore options for rendered clips instead of rejecting them.
    """

    count: int | None = None
    seed: int | None = None
    height: int | None = None
    per_kind: int | None = None
    if_drawn: bool = False

    def refuse(self, data: str, *names: str) -> None:
        """Raises InputError if one of these options is set although `data` has no use for it."""
        for name in names:
            if getattr(self, name) is not None and not self.if_drawn:
                raise InputError(
                    f"The data set {data} has no --{name.replace('_', '-')}.", "It applies only to rendered clips."
                )


PLAIN = DatasetOptions()

DATASETS: Mapping[str, DatasetEntry] = {
    "shapes": DatasetEntry(
        "trajseg.shapes.dataset:open_shapes",
        "shapes:test, shapes:val, shapes:train, or shapes:FOLDER of written clips; shapes:turned, to train on",
        source="trajseg.shapes.samples:open_source",
    ),
    "posters": DatasetEntry("trajseg.shapes.dataset:open_posters", "posters:test, posters:val, posters:train"),
    "corrections": DatasetEntry(
        "trajseg.data.corrections:open_corrections",
        "corrections:12 (a project's number), or corrections:FOLDER of `trajseg export --format trajseg`",
        source="trajseg.data.corrections:open_source",
    ),
    "engine": DatasetEntry(
        "trajseg.data.engine_tracks:open_engine_tracks",
        "engine:FOLDER of `trajseg export --format trajseg`, to train on",
        source="trajseg.data.engine_tracks:open_source",
    ),
    "ref-youtube-vos": DatasetEntry(
        "trajseg.data.ref_youtube_vos:open_ref_youtube_vos", "ref-youtube-vos:FOLDER of a split, such as .../valid"
    ),
}


def open_dataset(data: str, options: DatasetOptions = PLAIN) -> Dataset:
    """The data set named by `data`, as "name" or "name:argument".

    Raises:
        InputError: the name is unknown, its argument or an option is invalid, or its files are missing.
    """
    entry, argument = _entry(data)
    dataset: Dataset = _loaded(entry.factory)(argument, options)
    return dataset


def open_source(data: str) -> Source:
    """The Source of joint-training samples (see trajseg.data.samples) from the data set named by `data`.

    Raises:
        InputError: as for `open_dataset`; or the data set has nothing that training can use.
    """
    entry, argument = _entry(data)
    if entry.source:
        source: Source = _loaded(entry.source)(argument)
        return source
    return DatasetSamples(_loaded(entry.factory)(argument, PLAIN))


def known_datasets() -> dict[str, DatasetEntry]:
    """Built-in data sets and those of installed packages, by name; a package cannot replace a built-in one."""
    brought = {point.name: DatasetEntry(point.value, f"{point.name}:...") for point in entry_points(group=GROUP)}
    return {**brought, **DATASETS}


def _entry(data: str) -> tuple[DatasetEntry, str]:
    name, _, argument = data.partition(":")
    known = known_datasets()
    if name not in known:
        usages = "; ".join(known[each].usage for each in sorted(known))
        raise InputError(f"There is no data set {data!r}.", f"Known are: {usages}.")
    return known[name], argument


def _loaded(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"The data set's factory {name} cannot be imported ({error}).", "Install its package, or fix its name."
        ) from error
