"""The side of a video is decided once and kept, whoever asks and however the project grows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import delete, func, select

from backend.store import Project, Store
from backend.store.models import VideoSide
from trajseg.data.sides import FIRST_VIDEOS, side_of

VIDEOS = [f"sha256:{number:064x}" for number in range(100)]


def test_growth_from_1_to_100_keeps_every_side(store_on_either: Store) -> None:
    store = store_on_either
    project = store.projects.upsert(7, "http://studio", "<View/>").id
    assert store.sides.of(project, VIDEOS[0]) is None
    sides = [store.sides.decide(project, video) for video in VIDEOS]
    assert sides == [side_of(video, earlier) for earlier, video in enumerate(VIDEOS)]
    assert sides[FIRST_VIDEOS:].count("held-out") < [side_of(video) for video in VIDEOS[FIRST_VIDEOS:]].count(
        "held-out"
    )
    # Later, in another order, and with earlier ones gone from the project.
    assert [store.sides.decide(project, video) for video in reversed(VIDEOS)] == sides[::-1]
    assert [store.sides.of(project, video) for video in VIDEOS] == sides


def test_projects_decide_for_themselves_and_take_their_sides_with_them(store_on_either: Store) -> None:
    store = store_on_either
    old, new = (store.projects.upsert(7, "http://studio", "<View/>", stamp=stamp).id for stamp in ("1", "2"))
    for video in VIDEOS:
        store.sides.decide(old, video)
    last = next(video for video in VIDEOS[::-1] if side_of(video) != side_of(video, FIRST_VIDEOS))
    assert (store.sides.of(old, last), store.sides.decide(new, last)) == ("train", "held-out")
    with store.database.write() as session:
        session.execute(delete(Project).where(Project.id == old))
    with store.database.read() as session:
        assert session.scalar(select(func.count()).select_from(VideoSide)) == 1, "of the other project"


def test_two_backends_at_once_agree(store_on_either: Store) -> None:
    """Each has its own connection to the database, and they come in different orders."""
    url = store_on_either.database.url.render_as_string(hide_password=False)
    project = store_on_either.projects.upsert(7, "http://studio", "<View/>").id
    stores = [Store(url) for _ in range(4)]
    orders = [VIDEOS[:40], VIDEOS[39::-1], VIDEOS[:40:2] + VIDEOS[1:40:2], VIDEOS[20:40] + VIDEOS[:20]]

    def decided(place: int) -> dict[str, str]:
        return {video: stores[place].sides.decide(project, video) for video in orders[place]}

    try:
        with ThreadPoolExecutor(len(stores)) as pool:
            first, *others = pool.map(decided, range(len(stores)))
    finally:
        for store in stores:
            store.close()
    assert len(first) == 40
    assert all(other == first for other in others)
    with store_on_either.database.read() as session:
        rows = session.scalars(select(VideoSide).order_by(VideoSide.id)).all()
    assert {row.identity: row.side for row in rows} == first
    assert len(rows) == len(first), "one row each"
    assert [row.side for row in rows] == [side_of(row.identity, earlier) for earlier, row in enumerate(rows)], (
        "each decision knew of all before it"
    )
