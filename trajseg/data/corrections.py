"""Corrections: a project's tracks as corrected by people, as a data set for training and scoring.

`corrections:FOLDER` is the output of `trajseg export --format trajseg`; `corrections:12` is the present state of Label
Studio's project 12, exported by the backend. The videos are split permanently into two sides (trajseg.data.sides): a
video stays on its side while the project grows, even if it returns at another address or in another task. The export's
manifest names the side of each; without it, as in earlier exports, the side is that of one of a project's first videos.
Training uses `train` and rejects the other side; scoring uses `held-out` unless `:train` is named.

A video and its copies (encoded again, scaled, cut or mirrored) count as one video, held out only if each of them is. A
copy that is added later may thus move a held-out video to `train`, but nothing ever moves the other way.

In training a mask is weighted by the trust of its frame (WEIGHTS), and frames on which no track has weight are skipped.
Held-out videos are scored only on frames that a person vouched for in every track. A caption that a person vouched for
is used as an instruction as well, if it belongs to only one track of the clip.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from trajseg.data.dataset import AnnotatedClip, AnnotatedObject, Dataset, Expression
from trajseg.data.dataset_samples import DatasetSamples
from trajseg.data.registry import DatasetOptions
from trajseg.data.sentences import plain_words
from trajseg.data.sides import SIDES, Side, side_of
from trajseg.errors import InputError
from trajseg.files import content_hash
from trajseg.siblings import stranger
from trajseg.tracks.track import MaskTrack
from trajseg.tracks.trust import BY_WORD, Trust
from trajseg.video import Clip, open_clip

GROUP = "trajseg.corrections"
"""Entry points: a function that returns the folder of a project's corrections, by Label Studio's number."""
VERSION = 1
WEIGHTS: Mapping[Trust, float] = {
    Trust.PAINTED: 1.0,
    Trust.CONFIRMED: 0.9,
    Trust.PROPAGATED: 0.6,
    Trust.ACCEPTED: 0.4,
    Trust.PREDICTED: 0.0,
    Trust.UNKNOWN: 0.0,
}
SHA256_DIGITS = 64
REMEDY = "Write it again: trajseg export --project N --format trajseg --out FOLDER."


@dataclass(frozen=True)
class CorrectedTrack:
    """A track of an export. A `rejected` one shows nothing. `trust` has one value per frame."""

    track: MaskTrack
    trust: tuple[Trust, ...]
    rejected: bool
    caption_trust: Trust


@dataclass(frozen=True)
class CorrectedClip:
    """A clip of an export, without its pictures. `intact`: its video is still the file that was exported."""

    name: str
    video: Path
    identity: str
    intact: bool
    width: int
    height: int
    frame_count: int
    tracks: tuple[CorrectedTrack, ...]
    expressions: tuple[tuple[str, tuple[str, ...], Trust], ...]

    @property
    def standing(self) -> list[CorrectedTrack]:
        """The tracks that were not rejected."""
        return [held for held in self.tracks if not held.rejected]

    @property
    def vouched_none(self) -> bool:
        """Whether a person confirmed that an instruction refers to no object."""
        return any(not uids and trust.vouched for _, uids, trust in self.expressions)


class EmptySideError(InputError):
    """An export of corrections that has no clip on the wanted side."""


class Corrections(Dataset):
    """One side of an export's clips, in the order of their names.

    Args:
        folder: the output of `trajseg export --format trajseg`, with videos.
        side: "train" or "held-out".
        count: maximum number of clips; None: all.

    Raises:
        EmptySideError: the export has no clip on this side.
        InputError: the folder is not such an export.
    """

    def __init__(self, folder: Path, side: Side, count: int | None = None) -> None:
        self.folder, self.side = folder, side
        videos = _videos(folder)
        entries = [entry for entry in _entries(folder) if videos[_text(entry, "identity", folder)].side == side]
        clips = sorted((_clip(folder, entry, videos) for entry in entries), key=lambda clip: clip.name)
        usable = [clip for clip in clips if self._known(clip)]
        self._clips = usable[:count]
        self._opened: dict[str, Clip] = {}
        if not self._clips:
            raise EmptySideError(
                f"{folder} has no {side} video with corrections.",
                f"{len(entries)} of its videos are {side}; correct and submit more tasks, then export again.",
            )

    @property
    def name(self) -> str:
        return f"corrections:{self.folder}:{self.side}"

    def corrected(self, number: int) -> CorrectedClip:
        """The clip with this number, with the trust of each track and frame."""
        return self._clips[number]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> AnnotatedClip:
        if not 0 <= number < len(self):
            raise IndexError(f"clip {number} of a data set of {len(self)}")
        corrected = self._clips[number]
        known = self._known(corrected)
        objects = []
        for held in corrected.standing:
            masks = {index: code for index in known if (code := held.track.frames[index].rle) is not None}
            if masks:
                weights = {index: self.weight(held, index) for index in known}
                worth = self.weight_of_caption(held)
                caption = held.track.caption if worth else ""
                objects.append(AnnotatedObject(held.track.uid, masks, caption, weights=weights, caption_weight=worth))
        seen = {thing.uid for thing in objects}
        expressions = []
        for text, uids, trust in corrected.expressions:
            targets = tuple(uid for uid in uids if uid in seen)
            weight = self.weight_of_words(corrected, targets, trust)
            if not weight or (uids and not targets):
                continue
            category = "none" if not targets else "several" if len(targets) > 1 else "referring"
            expressions.append(Expression(text, targets, category, weight=weight))
        expressions += self._by_caption(corrected, objects, expressions)
        whole = len(known) == corrected.frame_count
        clip = self._open(corrected)
        return AnnotatedClip(corrected.name, clip, tuple(objects), tuple(expressions), None if whole else known)

    def weight(self, held: CorrectedTrack, index: int) -> float:
        """The training weight of a track's frame, 0 to 1."""
        return WEIGHTS[held.trust[index]]

    def weight_of_caption(self, held: CorrectedTrack) -> float:
        """The weight of a track's caption, 0 to 1; at 0 it is dropped: a model must not learn from its own output."""
        return WEIGHTS[held.caption_trust]

    def weight_of_words(self, corrected: CorrectedClip, targets: Sequence[str], trust: Trust) -> float:
        """The weight of a sentence with this trust about these tracks, 0 to 1; at 0 it is dropped."""
        return WEIGHTS[trust]

    def _by_caption(
        self, corrected: CorrectedClip, objects: Sequence[AnnotatedObject], asked: Sequence[Expression]
    ) -> list[Expression]:
        """Captions that a person vouched for and that name one object of the clip, as additional expressions."""
        vouched = {held.track.uid for held in corrected.standing if held.caption_trust.vouched}
        texts = Counter(plain_words(thing.caption) for thing in objects)
        taken = {plain_words(expression.text) for expression in asked}
        return [
            Expression(thing.caption, (thing.uid,), weight=thing.caption_weight)
            for thing in objects
            if thing.uid in vouched and (text := plain_words(thing.caption)) and texts[text] == 1 and text not in taken
        ]

    def _known(self, corrected: CorrectedClip) -> tuple[int, ...]:
        """Frames that count: in training where any track has weight, held out where all were vouched for."""
        standing, frames = corrected.standing, range(corrected.frame_count)
        if not standing:
            # A person confirmed that there is no object, which holds for every frame.
            return tuple(frames) if corrected.vouched_none else ()
        if self.side == "held-out":
            return tuple(index for index in frames if all(held.trust[index].vouched for held in standing))
        return tuple(index for index in frames if any(self.weight(held, index) > 0 for held in standing))

    def _open(self, corrected: CorrectedClip) -> Clip:
        if corrected.name not in self._opened:
            clip = open_clip(corrected.video)
            size = (clip.width, clip.height, len(clip))
            if not corrected.intact or size != (corrected.width, corrected.height, corrected.frame_count):
                raise InputError(f"{corrected.video} is no longer the video that was corrected.", REMEDY)
            self._opened[corrected.name] = clip
        return self._opened[corrected.name]


def open_corrections(argument: str, options: DatasetOptions) -> Corrections:
    """The data set of "corrections:FOLDER" or "corrections:FOLDER:SIDE"; held-out by default, for scoring."""
    options.refuse(f"corrections:{argument}", "seed", "height", "per_kind")
    folder, side = named_side(argument, "held-out")
    return Corrections(folder, side, options.count)


def open_source(argument: str) -> DatasetSamples:
    """The training samples of "corrections:FOLDER": its train side only.

    Raises:
        InputError: the held-out side is named.
    """
    folder, side = named_side(argument, "train")
    if side != "train":
        raise InputError(
            f"Held-out videos are not for training: corrections:{argument}.", f"Name corrections:{folder} alone."
        )
    return DatasetSamples(Corrections(folder, "train"))


def named_side(argument: str, side: Side) -> tuple[Path, Side]:
    """The folder of an export and the side named by "FOLDER" (default `side`) or "FOLDER:SIDE"; InputError if none."""
    folder = argument
    for named in SIDES:
        if argument.endswith(f":{named}"):
            folder, side = argument.removesuffix(f":{named}"), named
    if not folder:
        raise InputError(
            "corrections needs a project's number or the folder of an export.",
            "Give corrections:12 for project 12, or corrections:FOLDER.",
        )
    if folder.isascii() and folder.isdecimal():
        return _of_project(int(folder)), side
    if not (Path(folder) / "manifest.json").is_file():
        raise InputError(f"There is no export of corrections in {folder}.", REMEDY)
    return Path(folder), side


def _of_project(number: int) -> Path:
    """The folder of a project's corrections, from the package that knows projects.

    Raises:
        InputError: no such package is installed, or it cannot be imported; or what it raises.
    """
    for point in entry_points(group=GROUP):
        try:
            export = point.load()
        except (ImportError, AttributeError) as error:
            package = point.value.partition(":")[0].partition(".")[0]
            other = stranger(package)
            reason = f"another package named {package} was imported from {other}" if other else str(error)
            raise InputError(
                f"The corrections of project {number} cannot be read: {point.value} cannot be imported ({reason}).",
                f"Run trajseg where no other {package} can be imported, or name a folder that `trajseg export` wrote: "
                f"corrections:./{number}.",
            ) from error
        folder: Path = export(number)
        return folder
    raise InputError(
        f"Project {number} is known to the backend, which is not installed here.",
        f"Install trajseg with its backend, or name a folder: corrections:./{number}.",
    )


def intact(folder: Path) -> bool:
    """Whether each video of an export is still the file that was exported.

    It may not be: an exported video can be a hard link to a file that somebody has overwritten.
    """
    videos = ((_inside(folder, str(entry["video"])), entry) for entry in _entries(folder) if entry.get("video"))
    return all(_is_intact(video, _text(entry, "identity", folder), folder) for video, entry in videos)


def _is_intact(video: Path, identity: str, folder: Path) -> bool:
    expected = identity.removeprefix("sha256:")
    try:
        stat = video.stat()
        # Other identities are not hashes of the file.
        if (
            len(expected) != SHA256_DIGITS
            or max(stat.st_mtime_ns, stat.st_ctime_ns) <= (folder / "manifest.json").stat().st_mtime_ns
        ):
            return True
        # Not necessarily another content: a new link to the file changes its times, too.
        return content_hash(video) == expected
    except OSError:
        return False


def _entries(folder: Path) -> list[dict[str, Any]]:
    manifest = _json(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise InputError(f"{folder / 'manifest.json'} is not an export of version {VERSION}.", REMEDY)
    entries = manifest.get("clips")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f'"clips" of {folder / "manifest.json"} is not a list of objects.', REMEDY)
    return entries


@dataclass(frozen=True)
class _Video:
    """A video and its copies; `identity` is the first of theirs, in alphabetical order."""

    identity: str
    side: Side


def _videos(folder: Path) -> dict[str, _Video]:
    """The videos of an export, by the identity of each copy."""
    groups = {identity: {identity} for entry in _entries(folder) if (identity := _text(entry, "identity", folder))}
    # Earlier exports do not compare videos.
    pairs = _json(folder / "manifest.json").get("copies", [])
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or len(pair) != 2 or not set(map(str, pair)) <= groups.keys():
            raise InputError(f'"copies" of {folder / "manifest.json"} has {pair!r}, not two identities.', REMEDY)
        joined = groups[pair[0]] | groups[pair[1]]
        groups |= dict.fromkeys(joined, joined)
    decided = _sides(folder)
    sides = {identity: decided.get(identity) or side_of(identity) for identity in groups}
    return {
        identity: _Video(min(copies), "train" if any(sides[copy] == "train" for copy in copies) else "held-out")
        for identity, copies in groups.items()
    }


def _sides(folder: Path) -> dict[str, Side]:
    """The sides that an export's manifest names, by identity. Of two different ones `train` counts: it is safe."""
    found: dict[str, Side] = {}
    for entry in _entries(folder):
        named = entry.get("side")
        if named is None:
            continue
        side = next((side for side in SIDES if side == named), None)
        if side is None:
            raise InputError(f'A clip of {folder / "manifest.json"} has the "side" {named!r}.', REMEDY)
        identity = _text(entry, "identity", folder)
        found[identity] = "train" if found.get(identity) == "train" else side
    return found


def _clip(folder: Path, entry: Mapping[str, Any], videos: Mapping[str, _Video]) -> CorrectedClip:
    name = _text(entry, "name", folder)
    if entry.get("video") is None:
        raise InputError(f"The export {folder} has no video of {name}.", "Export it without --no-pictures.")
    video = _inside(folder, _text(entry, "video", folder))
    form = _json(_inside(folder, _text(entry, "tracks", folder)))
    try:
        width, height, count = (int(entry[key]) for key in ("width", "height", "frame_count"))
        tracks = tuple(_track(track, width, height) for track in form["tracks"])
        said = tuple(
            (str(each["text"]), tuple(str(uid) for uid in each["uids"]), BY_WORD[each["trust"]])
            for each in form["expressions"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"The clip {name} of {folder} cannot be read ({type(error).__name__} {error}).", REMEDY) from (
            error
        )
    if any(len(held.trust) != count or len(held.track) != count for held in tracks):
        raise InputError(f"A track of the clip {name} of {folder} does not have {count} frames.", REMEDY)
    own = _text(entry, "identity", folder)
    intact = _is_intact(video, own, folder)
    return CorrectedClip(name, video, videos[own].identity, intact, width, height, count, tracks, said)


def _track(form: Mapping[str, Any], width: int, height: int) -> CorrectedTrack:
    track = MaskTrack.from_json(dict(form), height=height, width=width, instruction=str(form.get("instruction", "")))
    # Earlier exports had no such field; all of their captions had been submitted by a person.
    caption_trust = BY_WORD[str(form.get("caption_trust", Trust.ACCEPTED.word))]
    return CorrectedTrack(track, tuple(BY_WORD[word] for word in form["trust"]), bool(form["rejected"]), caption_trust)


def _inside(folder: Path, name: str) -> Path:
    """A file of the export; a name in the manifest must not point outside."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder / 'manifest.json'} names the file {name!r}, outside of its folder.", REMEDY)
    return folder / name


def _text(entry: Mapping[str, Any], key: str, folder: Path) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f'A clip of {folder / "manifest.json"} has no "{key}".', REMEDY)
    return value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).", REMEDY) from error
