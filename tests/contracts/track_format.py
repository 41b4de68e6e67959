"""The contract of an export format; subclass it with a reader, and pytest runs it: see docs/extending.md."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from trajseg.errors import InputError
from trajseg.tracks import MaskTrack
from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack, TrackFormat, export
from trajseg.tracks.trust import Trust
from trajseg.video import Clip, open_clip, write_video

WIDTH, HEIGHT, FRAMES, FPS = 48, 32, 4, 8.0


def masks(left: int, top: int, shown: range = range(FRAMES)) -> list[np.ndarray | None]:
    """A 12 x 10 rectangle that moves right by 2 pixels per frame; None outside of `shown`."""
    drawn: list[np.ndarray | None] = []
    for index in range(FRAMES):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[top : top + 10, left + 2 * index : left + 2 * index + 12] = True
        drawn.append(mask if index in shown else None)
    return drawn


def track(number: int, drawn: list[np.ndarray | None], score: float = 0.8) -> MaskTrack:
    times = [index / FPS for index in range(FRAMES)]
    label, caption = f"track-{number}", f"object {number} «à droite»"
    return MaskTrack.from_masks(f"t{number}", drawn, times, [score] * FRAMES, label=label, caption=caption)


def labelled(name: str, clip: Clip | None) -> LabelledClip:
    """Two overlapping tracks, one that appears late, one without masks, and one that a person rejected."""
    painted = (Trust.PAINTED, Trust.PROPAGATED, Trust.ACCEPTED, Trust.PREDICTED)
    return LabelledClip(
        name,
        WIDTH,
        HEIGHT,
        FPS,
        FRAMES,
        (
            LabelledTrack(track(1, masks(2, 4)), painted),
            LabelledTrack(track(2, masks(8, 8), score=0.9)),
            LabelledTrack(track(3, masks(30, 20, range(2, FRAMES)))),
            LabelledTrack(track(4, [None] * FRAMES)),
            LabelledTrack(track(5, masks(0, 0)), rejected=True),
        ),
        (
            Expression("the two that overlap", ("t1", "t2")),
            Expression("the one that comes late", ("t3",)),
            Expression("the green star"),
        ),
        video=f"https://videos.example/{name}.mp4",
        identity=f"sha256:{name}",
        clip=clip,
    )


Masks = dict[str, dict[str, list[np.ndarray | None]]]
"""By clip and label: one mask per frame, bool [H, W], or None."""
Words = dict[str, dict[str, list[str]]]
"""By clip and sentence: the labels of its tracks."""


class TrackFormatContract:
    """Subclass it as `TestMyFormat`, set `kind`, and implement readers for the format's output."""

    kind: ClassVar[type[TrackFormat]]
    overlaps: ClassVar[bool] = True
    """Whether a pixel can belong to several tracks."""
    keeps_none: ClassVar[bool] = True
    """Whether a sentence can mean no object."""

    def masks(self, out: Path) -> Masks:
        """The folder's content, read without the code that wrote it. Labels may be given by their order."""
        raise NotImplementedError

    def words(self, out: Path) -> Words:
        """The sentences in the folder."""
        raise NotImplementedError

    def captions(self, out: Path) -> dict[str, dict[str, str]]:
        """By clip and label: the captions in the folder."""
        raise NotImplementedError

    @pytest.fixture
    def clip(self, tmp_path: Path) -> Clip:
        frames = [np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8) for index in range(FRAMES)]
        return open_clip(write_video(tmp_path / "source.mp4", frames, FPS))

    @pytest.fixture
    def out(self, tmp_path: Path, clip: Clip) -> Path:
        clips = (labelled(name, clip) for name in ("task-1", "task-2"))
        assert export(clips, self.kind, tmp_path / "out") == 2
        return tmp_path / "out"

    def expected(self) -> dict[str, list[np.ndarray | None]]:
        drawn = {"track-1": masks(2, 4), "track-2": masks(8, 8), "track-3": masks(30, 20, range(2, FRAMES))}
        if not self.overlaps:
            # The second has the higher score, so it gets the pixels in both.
            pairs = zip(drawn["track-1"], drawn["track-2"], strict=True)
            drawn["track-1"] = [first & ~second for first, second in pairs]  # type: ignore[operator]
        return drawn

    def test_masks_come_back_pixel_for_pixel(self, out: Path) -> None:
        found = self.masks(out)
        assert sorted(found) == ["task-1", "task-2"]
        for name, tracks in found.items():
            assert sorted(tracks) == ["track-1", "track-2", "track-3"], name
            for label, drawn in self.expected().items():
                assert len(tracks[label]) == FRAMES
                for index, mask in enumerate(drawn):
                    given = tracks[label][index]
                    if mask is None:
                        assert given is None or not given.any(), (name, label, index)
                    else:
                        assert given is not None, (name, label, index)
                        np.testing.assert_array_equal(given, mask, f"{name} {label} {index}")

    def test_instructions_and_captions_come_back(self, out: Path) -> None:
        said = {"the two that overlap": ["track-1", "track-2"], "the one that comes late": ["track-3"]}
        if self.keeps_none:
            said["the green star"] = []
        assert self.words(out) == {"task-1": said, "task-2": said}
        captions = {f"track-{number}": f"object {number} «à droite»" for number in (1, 2, 3)}
        assert self.captions(out) == {"task-1": captions, "task-2": captions}

    def test_masks_alone_need_no_video(self, tmp_path: Path) -> None:
        export([labelled("task-1", None)], self.kind, tmp_path / "out", pictures=False)
        assert sorted(self.masks(tmp_path / "out")) == ["task-1"]
        assert not [*(tmp_path / "out").rglob("*.jpg")]

    def test_an_export_without_clips_is_whole(self, tmp_path: Path) -> None:
        export([], self.kind, tmp_path / "out")
        assert self.masks(tmp_path / "out") == {}

    def test_a_clip_without_its_video_and_a_name_given_twice_are_refused(self, tmp_path: Path, clip: Clip) -> None:
        with pytest.raises(InputError, match="task-1 is not open"):
            export([labelled("task-1", None)], self.kind, tmp_path / "one")
        with pytest.raises(InputError, match="Two clips"):
            export([labelled("task-1", clip), labelled("TASK-1", clip)], self.kind, tmp_path / "two")

    def test_nothing_is_written_over(self, tmp_path: Path) -> None:
        kept = tmp_path / "out" / "work.txt"
        kept.parent.mkdir()
        kept.write_text("mine")
        with pytest.raises(InputError, match="not an empty folder"):
            export([], self.kind, tmp_path / "out")
        assert [*kept.parent.iterdir()] == [kept]

    def test_it_says_what_it_is(self) -> None:
        assert self.kind.name
        assert 10 <= len(self.kind.summary) <= 60
