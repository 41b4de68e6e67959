"""Rows written by earlier versions can still be read: params, notes, and warnings stored as sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from backend.store import Job, JobRequest, Store
from backend.store.kinds import KINDS
from backend.store.params import CaptionParams, JobParams, PrelabelParams, RefineParams, TrackMark
from trajseg.errors import InputError
from trajseg.tracks import Result

OLD_NOTES = {
    "doubt": 0.31,
    "review": [
        {"track": "t1", "label": "track-1", "frames": [{"index": 3, "reason": "object lost", "doubt": 0.6}]},
    ],
    "refinement": [
        {
            "track": "t1",
            "label": "track-1",
            "chosen": "flow",
            "left_out": {"flow": {"0": 0.9, "2": 0.8}},
            "painted": [0, 2],
            "hinted": [],
            "carried": 1,
        }
    ],
    "warnings": ["track-1: you asked for something still.", "track-9: odd.", "The clip was cut off."],
}
Put = Callable[..., Job]


@pytest.fixture
def put(store: Store) -> Put:
    """Writes a job's JSON columns unchanged, bypassing the models."""

    def write(kind: str, params: dict[str, Any], result: dict[str, Any] | None = None) -> Job:
        with store.database.write() as session:
            session.execute(
                text(
                    "INSERT INTO jobs (id, request_key, kind, state, queue, video, instruction, params, frames_done,"
                    " frames_total, error, remedy, runs, model_version, created_at, result) VALUES ('j', 'k', :kind,"
                    " 'done', 'prelabel', '/v.mp4', 'it', :params, 4, 4, '', '', 1, 'm', '2026-01-01 00:00:00',"
                    " :result)"
                ),
                {"kind": kind, "params": json.dumps(params), "result": json.dumps(result) if result else None},
            )
        return store.jobs.get("j")

    return write


@pytest.mark.parametrize(
    ("kind", "row", "params"),
    [
        ("prelabel", {}, PrelabelParams()),
        ("prelabel", {"rejected": True}, PrelabelParams()),
        ("prelabel", {"answer_until": None, "rejected": False}, PrelabelParams()),
        ("refine", {"annotation_id": 3, "base_job_id": None}, RefineParams(annotation_id=3, marks=())),
        (
            "refine",
            {
                "hints": [{"label": "track-1", "index": 1, "box": [3.84, 3.84, 8.32, 8.16], "point": False}],
                "base_job_id": "b",
            },
            RefineParams(
                base_job_id="b", marks=(TrackMark(label="track-1", index=1, box=(3.84, 3.84, 8.32, 8.16), point=False),)
            ),
        ),
        ("caption", {"job_id": "b"}, CaptionParams(job_id="b")),
        ("somersault", {"project": 7}, JobParams()),
    ],
)
def test_params(kind: str, row: dict[str, Any], params: JobParams, put: Put) -> None:
    job = put(kind, row)
    assert job.asked == params
    assert type(job.asked) is type(params)
    if kind in KINDS:
        assert KINDS[kind].params.read(job.asked.to_json()) == params


def test_deadline_of_a_page(put: Put) -> None:
    until = put("prelabel", {"answer_until": "2026-01-01T10:00:00+00:00"}).asked.answer_until
    assert until is not None
    assert until.isoformat() == "2026-01-01T10:00:00+00:00"


def test_notes(put: Put, result: Result) -> None:
    form = {**OLD_NOTES, **result.to_json()}
    notes = put("prelabel", {}, form).notes
    assert notes.doubt == 0.31
    assert notes.first_frames() == [3]
    assert notes.refinement[0].left_out == {"flow": {0: 0.9, 2: 0.8}}
    assert [(one.track, one.text) for one in notes.warnings] == [
        ("t1", "you asked for something still."),
        ("", "track-9: odd."),
        ("", "The clip was cut off."),
    ]
    assert notes.sentences(result) == OLD_NOTES["warnings"]
    assert type(notes).of(notes.to_json()) == notes


def test_notes_of_a_job_older_than_notes(put: Put, result: Result) -> None:
    notes = put("prelabel", {}, {**result.to_json(), "warnings": None}).notes
    assert (notes.doubt, notes.review, notes.refinement, notes.warnings) == (None, (), (), ())


@pytest.mark.parametrize(
    ("kind", "params", "named"),
    [
        ("caption", {}, "job_id"),
        ("refine", {"marks": [{"label": "track-1", "index": -1, "box": [0, 0, 1, 1], "point": True}]}, "marks.0.index"),
        ("refine", {"annotation_id": "seven"}, "annotation_id"),
    ],
)
def test_invalid_params_are_rejected_before_anything_is_written(kind: str, params: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        JobRequest(kind, None, 1, "/v.mp4", "it", "interactive", params)
    assert caught.value.remedy


def test_a_failure_that_an_old_worker_wrote_during_an_upgrade_is_listed_and_retried(store: Store, put: Put) -> None:
    job = put("prelabel", {})
    with store.database.write() as session:
        session.execute(text("UPDATE jobs SET state = 'failed', error = 'The link is dead.'"))
    assert [one.error for one in store.jobs.newest("failed")] == ["The link is dead."]
    assert store.failures.groups() == []
    assert [one.id for one in store.failures.queue_again([job.id])] == [job.id]
