"""Memory stays flat in the number of frames: 8 tracks, with tiny random weights.

HEIGHT=720 FRAMES=1000 runs it on larger and more frames; with -s it prints what it measures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.trajseg.engines.long_clip import ALLOWED, OBJECTS, SECONDS, Sizes, pictures
from tests.trajseg.engines.sam3 import checkpoints
from trajseg.engines.sam3.search import Sam3Search
from trajseg.engines.sam3.settings import Sam3Settings
from trajseg.video import open_clip, write_video


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(SECONDS)
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "long.mp4", pictures(), 25.0, crf=40))
    search = Sam3Search.from_pretrained(checkpoints.save_sam3(tmp_path / "sam3"), "cpu", Sam3Settings(objects=OBJECTS))
    # Untaught weights see an object everywhere: without a limit there would be 16 of them.
    search.model.max_num_objects = OBJECTS
    sizes = Sizes()
    found = search.find(clip, ["red square"], lambda done, total: sizes.note(done))
    assert len(found) == OBJECTS
    assert sizes.growth_of_smallest < ALLOWED
    assert sizes.growth < 4 * ALLOWED
