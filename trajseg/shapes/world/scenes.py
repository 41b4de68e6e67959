"""Scenes of the shapes world: their objects, and how these look and move (no pixels).

Lengths are in units of the frame's height: x runs from 0 to `aspect`, y from 0 (top) to 1 (bottom).
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trajseg.video import spacing

Split = Literal["train", "val", "test"]

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
MOTIONS = ("left", "right", "up", "down", "still", "circling", "bouncing")
SPEEDS = ("slow", "fast")

HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("green", "ring"),
        ("blue", "triangle"),
        ("yellow", "cross"),
        ("purple", "circle"),
        ("orange", "square"),
    }
)
"""(colour, shape) pairs that occur only in the test split; each colour and shape alone is common in train."""

SAMPLED_FRAMES = 8
"""Every instruction can be decided from this many frames, at the centres of equal bins."""

RGB: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "green": (45, 165, 60),
    "blue": (40, 75, 215),
    "yellow": (240, 225, 45),
    "purple": (145, 50, 180),
    "orange": (245, 135, 25),
    "cyan": (50, 210, 225),
    "white": (242, 242, 242),
}

_RADII = {"small": (0.072, 0.095), "large": (0.14, 0.185)}
_TRAVEL = {"slow": (0.36, 0.5), "fast": (0.78, 1.0)}
_STEP = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_ASPECTS = (4 / 3, 4 / 3, 4 / 3, 16 / 9, 16 / 9, 1.0, 3 / 2, 0.75)


@dataclass
class SceneObject:
    """One object. `centres` float32 [T, 2] (x, y) before camera drift; they may lie outside the picture.

    `radius` is that of a circle of about the same area; `angle` is in radians; an object hides those of smaller
    `depth`; it exists in the frames `first` to `last` (inclusive, 0-based).
    """

    colour: str
    shape: str
    size: str
    textured: bool
    motion: str
    speed: str
    radius: float
    centres: np.ndarray
    angle: float
    depth: int
    first: int
    last: int
    rgb: tuple[int, int, int]
    texture_seed: int


@dataclass(frozen=True)
class Look:
    """A clip's background, and its degradation by lens, sensor and JPEG.

    `colours` are two muted RGB colours; `blur` is a standard deviation in units of the height; `noise` is in
    grey levels; `jpeg` is a quality (1..100) or None.
    """

    kind: Literal["gradient", "noise", "clutter"]
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    angle: float
    blur: float
    noise: float
    jpeg: int | None
    seed: int


@dataclass
class Scene:
    """Everything about one clip; `drift` float32 [T, 2] is added to all centres and to the background."""

    seed: int
    split: Split
    aspect: float
    fps: float
    frame_count: int
    objects: list[SceneObject]
    look: Look
    drift: np.ndarray

    def positions(self) -> np.ndarray:
        """Centres in the picture, drift included: float32 [K, T, 2]."""
        return np.stack([o.centres for o in self.objects]) + self.drift[None]


def bin_centres(frame_count: int, count: int = SAMPLED_FRAMES) -> np.ndarray:
    """0-based indices of the frames at the centres of `count` equal bins of the clip: int64 [count]."""
    return np.asarray(spacing.bin_centres(frame_count, count))


def sample_scene(
    seed: int, split: Split = "train", *, frame_count: int | None = None, aspect: float | None = None
) -> Scene:
    """A scene; the same arguments give the same scene.

    Args:
        seed: any integer; the same seed gives unrelated scenes in different splits.
        split: only "test" has HELD_OUT pairs.
        frame_count: frames of the clip, at least 8; None: random, 12 to 64.
        aspect: width / height; None: random, 3:4 to 16:9.
    """
    rng = random.Random(f"shapes/{split}/{seed}")
    drawn_count, drawn_aspect = rng.randint(12, 64), rng.choice(_ASPECTS)
    T = frame_count or drawn_count
    width = aspect or drawn_aspect
    looks = _draw_looks(rng, rng.choices((2, 3, 4, 5), (20, 32, 30, 18))[0], split)
    plan = _draw_plan(rng, looks, width)
    u, sampled = np.linspace(0.0, 1.0, T), bin_centres(T)
    best: tuple[float, list[SceneObject]] | None = None
    for _ in range(10):
        objects = _place(rng, looks, plan, u, width)
        crowding = _crowding(objects, plan, sampled)
        if best is None or crowding < best[0]:
            best = (crowding, objects)
        if crowding < 0.02:
            break
    assert best is not None
    return Scene(
        seed=seed,
        split=split,
        aspect=width,
        fps=float(rng.choice((8, 10, 12, 15, 24, 25, 30))),
        frame_count=T,
        objects=best[1],
        look=_draw_look(rng),
        drift=_draw_drift(rng, T),
    )


def _draw_looks(rng: random.Random, count: int, split: Split) -> list[tuple[str, str, str]]:
    """Distinct triples (colour, shape, size); many differ from each other in only one of the three."""
    looks: list[tuple[str, str, str]] = []
    while len(looks) < count:
        colour, shape, size = rng.choice(COLOURS), rng.choice(SHAPES), rng.choice(SIZES)
        if looks:
            original = rng.choice(looks)
            draw = rng.random()
            if draw < 0.36:
                colour = original[0]
            elif draw < 0.72:
                shape = original[1]
            elif draw < 0.8:
                colour, shape = original[:2]
        elif split == "test" and rng.random() < 0.6:
            colour, shape = rng.choice(sorted(HELD_OUT))
        if split != "test" and (colour, shape) in HELD_OUT:
            continue
        if (colour, shape, size) not in looks:
            looks.append((colour, shape, size))
    rng.shuffle(looks)
    return looks


@dataclass
class _Plan:
    """Motion, speed and role of each object, and which object passes behind which."""

    motions: list[str]
    speeds: list[str]
    roles: list[str]
    passing: tuple[int, int] | None


def _draw_plan(rng: random.Random, looks: list[tuple[str, str, str]], aspect: float) -> _Plan:
    count = len(looks)
    motions = [rng.choice(MOTIONS) for _ in looks]
    speeds = [rng.choice(SPEEDS) for _ in looks]
    if count > 2 and rng.random() < 0.25:
        motions[1] = motions[0]
    roles = []
    for k in range(count):
        role = rng.choices(("stay", "enter", "leave"), (62, 20, 18))[0]
        if motions[k] in ("circling", "bouncing"):
            role = "stay"
        if role != "stay" and rng.random() < 0.5:
            speeds[k] = "fast"
        roles.append(role)
    if all(role == "enter" for role in roles):
        roles[rng.randrange(count)] = "stay"
    for k in range(count):
        # A fast object would leave a narrow picture too early.
        if roles[k] == "stay" and motions[k] in ("left", "right") and speeds[k] == "fast" and aspect < 0.95:
            motions[k] = rng.choice(("up", "down"))
    passing = None
    # An object behind a ring is visible through its hole.
    large = [k for k in range(count) if looks[k][2] == "large" and looks[k][1] != "ring"]
    if large and rng.random() < 0.45:
        front = rng.choice(large)
        others = [k for k in range(count) if k != front]
        small = [k for k in others if looks[k][2] == "small"]
        behind = rng.choice(small or others)
        passing = (behind, front)
        motions[front], roles[front] = "still", "stay"
        motions[behind] = rng.choice(("left", "right") if aspect > 1.2 else ("up", "down"))
        speeds[behind], roles[behind] = "fast", "stay"
    return _Plan(motions, speeds, roles, passing)


def _place(
    rng: random.Random, looks: list[tuple[str, str, str]], plan: _Plan, u: np.ndarray, aspect: float
) -> list[SceneObject]:
    """The objects with their paths; `u` [T] is the time, 0 to 1."""
    frame_count = len(u)
    depths = list(range(len(looks)))
    rng.shuffle(depths)
    objects: list[SceneObject | None] = [None] * len(looks)
    order = list(range(len(looks)))
    if plan.passing:
        behind, front = plan.passing
        order.sort(key=lambda k: k != front)
        if depths[behind] > depths[front]:
            depths[behind], depths[front] = depths[front], depths[behind]
    for k in order:
        colour, shape, size = looks[k]
        motion, speed, role = plan.motions[k], plan.speeds[k], plan.roles[k]
        radius = rng.uniform(*_RADII[size])
        first, last = 0, frame_count - 1
        if plan.passing and k == plan.passing[1]:
            middle = (rng.uniform(0.38, 0.62) * aspect, rng.uniform(0.38, 0.62))
            centres = np.tile(np.array(middle), (frame_count, 1))
        elif plan.passing and k == plan.passing[0]:
            blocker = objects[plan.passing[1]]
            assert blocker is not None
            centres = _path_behind(rng, motion, blocker, u)
        else:
            centres = _path(rng, motion, speed, role, radius, aspect, u)
            if motion == "still" and role == "enter":
                first = math.ceil(frame_count * rng.uniform(0.3, 0.45))
            elif motion == "still" and role == "leave":
                last = math.floor(frame_count * rng.uniform(0.55, 0.7)) - 1
        spread = 6 if colour == "white" else 13
        jitter = [rng.randint(-spread, spread) for _ in range(3)]
        rgb = tuple(min(255, max(0, c + j)) for c, j in zip(RGB[colour], jitter, strict=True))
        objects[k] = SceneObject(
            colour=colour,
            shape=shape,
            size=size,
            textured=rng.random() < 0.35,
            motion=motion,
            speed=speed,
            radius=radius,
            centres=centres.astype(np.float32),
            angle=rng.uniform(-0.3, 0.3),
            depth=depths[k],
            first=first,
            last=last,
            rgb=(rgb[0], rgb[1], rgb[2]),
            texture_seed=rng.getrandbits(31),
        )
    return [o for o in objects if o is not None]


def _path(
    rng: random.Random, motion: str, speed: str, role: str, radius: float, aspect: float, u: np.ndarray
) -> np.ndarray:
    """Centres [T, 2] of an object; `u` as in _place."""
    inset = 0.9 * radius

    def within(extent: float, reach: float = 0.0) -> float:
        """A coordinate from which an object can move by `reach` in either direction and stay in the picture."""
        low = inset + reach
        return rng.uniform(low, extent - low) if low < extent - low else extent / 2

    if motion == "still":
        return np.tile(np.array([within(aspect), within(1.0)]), (len(u), 1))
    if motion == "circling":
        fast = speed == "fast"
        reach = rng.uniform(0.15, 0.19) if fast else rng.uniform(0.09, 0.105)
        loops = rng.uniform(1.0, 1.3) if fast else rng.uniform(0.8, 0.95)
        turn = rng.uniform(0, 2 * math.pi) + rng.choice((-1, 1)) * 2 * math.pi * loops * u
        centre = np.array([within(aspect, reach), within(1.0, reach)])
        return centre + reach * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if motion == "bouncing":
        height = rng.uniform(0.3, 0.38) if speed == "fast" else rng.uniform(0.13, 0.16)
        strokes = rng.uniform(2.7, 3.3)
        wave = np.abs((u * strokes + rng.uniform(0, 2)) % 2 - 1) - 0.5
        slide = rng.choice((-1, 1)) * rng.uniform(0.06, 0.2)
        centre_x = within(aspect, abs(slide) / 2)
        return np.stack([centre_x + slide * (u - 0.5), within(1.0, height / 2) + height * wave], axis=1)
    step = np.array(_STEP[motion])
    axis = 0 if step[0] else 1
    extent = aspect if axis == 0 else 1.0
    travel = rng.uniform(*_TRAVEL[speed])
    across = within(1.0 if axis == 0 else aspect)
    forward = step[axis] > 0
    if role == "stay":
        room = extent - 2 * inset
        slack = max(0.0, room - travel)
        along = (extent - travel) / 2 + rng.uniform(-0.5, 0.5) * slack + travel * u
    else:
        # Fast enough to be well inside the picture for at least half of the clip.
        travel = max(travel, 0.5)
        at = rng.uniform(0.29, 0.36) if speed == "slow" else rng.uniform(0.3, 0.48)
        outside = -1.25 * radius
        along = outside + travel * (u - at) if role == "enter" else extent - outside - travel * (1 - at - u)
    along = along if forward else extent - along
    centres = np.empty((len(u), 2))
    centres[:, axis], centres[:, 1 - axis] = along, across
    return centres


def _path_behind(rng: random.Random, motion: str, blocker: SceneObject, u: np.ndarray) -> np.ndarray:
    step = np.array(_STEP[motion])
    aside = np.array([step[1], step[0]]) * rng.uniform(-0.3, 0.3) * blocker.radius
    travel = rng.uniform(*_TRAVEL["fast"])
    meeting = rng.uniform(0.42, 0.58)
    return blocker.centres[0] + aside + step * (travel * (u - meeting))[:, None]


def _crowding(objects: list[SceneObject], plan: _Plan, sampled: np.ndarray) -> float:
    """Mean fraction of the frames `sampled` [n] in which a pair of objects overlaps without being planned to."""
    one, other = _pairs(len(objects))
    at = np.stack([o.centres[sampled] for o in objects])
    radii, first, last = np.array([(o.radius, o.first, o.last) for o in objects]).T[..., None]
    apart = np.square(at[one] - at[other]).sum(axis=-1)
    present = (first <= sampled) & (sampled <= last)
    touching = (np.sqrt(apart) - 0.95 * (radii[one] + radii[other]) < 0) & present[one] & present[other]
    if plan.passing:
        touching[(one == min(plan.passing)) & (other == max(plan.passing))] = False
    return float(touching.mean())


@functools.cache
def _pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the two objects of each pair, the smaller one first."""
    return np.triu_indices(count, 1)


def _draw_look(rng: random.Random) -> Look:
    def muted() -> tuple[int, int, int]:
        grey = rng.uniform(35, 150)
        tint = [grey * (1 + rng.uniform(-0.16, 0.16)) for _ in range(3)]
        return round(tint[0]), round(tint[1]), round(tint[2])

    return Look(
        kind=rng.choice(("gradient", "noise", "clutter")),
        colours=(muted(), muted()),
        angle=rng.uniform(0, 2 * math.pi),
        blur=rng.choice((0.0, 0.0, rng.uniform(0.002, 0.0045))),
        noise=rng.choice((0.0, rng.uniform(2, 9))),
        jpeg=rng.choice((None, rng.randint(35, 80))),
        seed=rng.getrandbits(31),
    )


def _draw_drift(rng: random.Random, frame_count: int) -> np.ndarray:
    """A slow camera sway of at most 0.02 frame heights; none in half of the clips."""
    if rng.random() < 0.5:
        return np.zeros((frame_count, 2), np.float32)
    u = np.linspace(0, 1, frame_count)
    sway = [
        rng.uniform(0.004, 0.014) * np.sin(2 * math.pi * (rng.uniform(0.3, 1.2) * u + rng.random())) for _ in range(2)
    ]
    return np.stack(sway, axis=1).astype(np.float32)
