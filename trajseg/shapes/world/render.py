"""Renders a scene: frames, exact ids of visible objects, and boxes without rendering."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from trajseg.shapes.world.outlines import outline
from trajseg.shapes.world.scenes import Scene, SceneObject

_OVERSAMPLING = 4
_SUBPIXEL_BITS = 4
_COARSE_ROWS = 96


def render(scene: Scene, height: int, indices: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draws the frames `indices` (0-based; None means all).

    Returns:
        frames uint8 [n, H, W, 3] RGB with W = round(aspect * H), and ids uint8 [n, H, W]: 0 for background, k + 1 where
        object k is visible (it covers at least half of the pixel, and no object in front does).
    """
    wanted = range(scene.frame_count) if indices is None else indices
    pairs = list(frames_and_ids(scene, height, wanted))
    return np.stack([frame for frame, _ in pairs]), np.stack([ids for _, ids in pairs])


def frames_and_ids(scene: Scene, height: int, indices: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `render`, one frame at a time: (frame uint8 [H, W, 3] RGB, ids uint8 [H, W])."""
    width = round(scene.aspect * height)
    margin = math.ceil(0.03 * height) + 2
    background = _background(scene, height + 2 * margin, width + 2 * margin, height)
    painters = sorted(range(len(scene.objects)), key=lambda k: scene.objects[k].depth)
    textures = [_texture(o, height) if o.textured else None for o in scene.objects]
    rng = np.random.default_rng(scene.look.seed)
    noise = _noise_field(height + 64, width + 64) if scene.look.noise else None
    if noise is not None:
        noise = np.round(noise * scene.look.noise).astype(np.int8)
    offsets = rng.integers(0, 64, size=(scene.frame_count, 2))
    for t in indices:
        dx, dy = scene.drift[t] * height
        if dx or dy:
            shift = np.array([[1, 0, dx - margin], [0, 1, dy - margin]], np.float32)
            frame = cv2.warpAffine(background, shift, (width, height), flags=cv2.INTER_LINEAR)
        else:
            frame = background[margin : margin + height, margin : margin + width].copy()
        ids = np.zeros((height, width), np.uint8)
        for k in painters:
            o = scene.objects[k]
            if o.first <= t <= o.last:
                _paint(frame, ids, k, o, (o.centres[t] + scene.drift[t]) * height, height, textures[k])
        if scene.look.blur:
            frame = cv2.GaussianBlur(frame, (0, 0), scene.look.blur * height)
        if noise is not None:
            y, x = offsets[t]
            frame = cv2.add(frame, noise[y : y + height, x : x + width], dtype=cv2.CV_8U)
        if scene.look.jpeg is not None:
            _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, scene.look.jpeg])
            frame = cv2.imdecode(packed, cv2.IMREAD_COLOR)  # type: ignore[assignment]
        yield frame, ids


def boxes(scene: Scene, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and visibility of the objects in the frames `indices`, without rendering.

    Returns:
        xyxy float32 [K, n, 4] in units of the frame's height, of the whole object clipped to the picture
        (zeros if it is outside or does not exist), and visible float32 [K, n]: the approximate fraction 0..1
        of the object that is visible, not hidden by others or outside the picture.
    """
    at = np.asarray(indices, np.int64)
    rows, cols = _COARSE_ROWS, max(1, round(scene.aspect * _COARSE_ROWS))
    canvases = np.zeros((len(at), rows, cols), np.uint8)
    xyxy = np.zeros((len(scene.objects), len(at), 4), np.float32)
    whole = np.empty((len(scene.objects), 1))
    limit = np.array([scene.aspect, 1.0])
    scale = rows * (1 << _SUBPIXEL_BITS)
    half_pixel = 1 << (_SUBPIXEL_BITS - 1)
    for k, o in sorted(enumerate(scene.objects), key=lambda numbered: numbered[1].depth):
        contours = _contours(o)
        # fillPoly also fills the pixels that an outline only touches, about half a pixel on all sides.
        whole[k] = (_area(contours) * rows + 0.49 * _perimeter(contours)) * rows
        centres = (o.centres[at] + scene.drift[at])[:, None]
        span = np.stack([contours[0].min(axis=0), contours[0].max(axis=0)])
        corners = (centres + span).clip(0, limit)
        inside = (corners[:, 1] > corners[:, 0]).all(axis=1) & (o.first <= at) & (at <= o.last)
        xyxy[k, inside] = corners[inside].reshape(-1, 4)
        points = [np.round((c + centres) * scale).astype(np.int32) - half_pixel for c in contours]
        for i in inside.nonzero()[0]:
            cv2.fillPoly(canvases[i], [p[i] for p in points], k + 1, shift=_SUBPIXEL_BITS)
    seen = [[np.count_nonzero(canvas == k + 1) for canvas in canvases] for k in range(len(scene.objects))]
    return xyxy, np.minimum(1.0, seen / whole).astype(np.float32)


def write_clip(scene: Scene, path: str | Path, height: int, crf: int = 20) -> Path:
    """Renders the whole scene into an H.264 mp4; for odd sizes see trajseg.video.write_video."""
    from trajseg.video import write_video

    frames = (frame for frame, _ in frames_and_ids(scene, height, range(scene.frame_count)))
    return write_video(Path(path), frames, scene.fps, crf=crf)


def _contours(o: SceneObject) -> list[np.ndarray]:
    """Contours [M, 2] about the object's centre, in units of the frame's height."""
    c, s = math.cos(o.angle), math.sin(o.angle)
    turn = np.array([[c, s], [-s, c]])
    return [o.radius * points @ turn for points in outline(o.shape)]


def _area(contours: list[np.ndarray]) -> float:
    areas = []
    for p in contours:
        q = np.concatenate([p[1:], p[:1]])
        areas.append(abs(float(np.sum(p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]))) / 2)
    return areas[0] - sum(areas[1:])


def _perimeter(contours: list[np.ndarray]) -> float:
    return sum(float(np.linalg.norm(p - np.concatenate([p[-1:], p[:-1]]), axis=1).sum()) for p in contours)


def _paint(
    frame: np.ndarray,
    ids: np.ndarray,
    k: int,
    o: SceneObject,
    centre: np.ndarray,
    height: int,
    texture: np.ndarray | None,
) -> None:
    """Draws one object in place. `centre` (x, y) in pixels."""
    reach = math.ceil(1.32 * o.radius * height) + 1
    x0, y0 = math.floor(centre[0]) - reach, math.floor(centre[1]) - reach
    side = 2 * reach + 2
    left, top = max(0, -x0), max(0, -y0)
    right, bottom = min(side, ids.shape[1] - x0), min(side, ids.shape[0] - y0)
    if left >= right or top >= bottom:
        return
    fine = np.zeros((side * _OVERSAMPLING, side * _OVERSAMPLING), np.uint8)
    scale = _OVERSAMPLING * (1 << _SUBPIXEL_BITS)
    half_pixel = 1 << (_SUBPIXEL_BITS - 1)
    local = np.array([centre[0] - x0, centre[1] - y0])
    points = [np.round((c * height + local) * scale).astype(np.int32) - half_pixel for c in _contours(o)]
    cv2.fillPoly(fine, points, 255, shift=_SUBPIXEL_BITS)
    coverage = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)[top:bottom, left:right]
    area = (slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right))
    colour: np.ndarray
    if texture is None:
        colour = cv2.merge([np.full((bottom - top, right - left), level, np.float32) for level in o.rgb])
    else:
        middle = texture.shape[0] / 2
        shift = np.array([[1, 0, local[0] - middle - left], [0, 1, local[1] - middle - top]], np.float32)
        colour = cv2.warpAffine(texture, shift, (right - left, bottom - top), borderMode=cv2.BORDER_REFLECT)
    blend = cv2.merge([coverage] * 3).astype(np.float32)
    blend /= 255
    blend *= colour - frame[area]
    blend += frame[area]
    frame[area] = np.rint(blend, out=blend).astype(np.uint8)
    ids[area][coverage >= 128] = k + 1


def _texture(o: SceneObject, height: int) -> np.ndarray:
    """A texture float32 [S, S, 3] of stripes or speckle in the object's colour; S is about its size in pixels."""
    rng = np.random.default_rng(o.texture_seed)
    side = 2 * (math.ceil(1.32 * o.radius * height) + 2)
    if rng.random() < 0.5:
        y, x = np.mgrid[:side, :side] / height
        angle, period = rng.uniform(0, math.pi), rng.uniform(0.03, 0.06)
        wave = np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period)
        shade = np.tanh(2.5 * wave)
    else:
        coarse = rng.standard_normal((24, 24)).astype(np.float32)
        shade = np.tanh(1.3 * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))
    darker = 1 - rng.uniform(0.1, 0.2) * (1 + shade)
    return (np.array(o.rgb, np.float32) * darker[..., None]).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _noise_field(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    grey = rng.standard_normal((height, width, 1))
    return np.clip(0.8 * grey + 0.6 * rng.standard_normal((height, width, 3)), -3, 3).astype(np.float32)


def _background(scene: Scene, rows: int, cols: int, height: int) -> np.ndarray:
    """uint8 [rows, cols, 3]: a gradient, smooth noise, or a gradient with clutter (not objects)."""
    look = scene.look
    rng = np.random.default_rng(look.seed + 1)
    share: np.ndarray
    if look.kind == "noise":
        share = np.zeros((rows, cols), np.float32)
        for cells, weight in ((4, 0.6), (9, 0.3), (24, 0.1)):
            grid = rng.random((cells, max(2, round(cells * scene.aspect)))).astype(np.float32)
            share += weight * cv2.resize(grid, (cols, rows), interpolation=cv2.INTER_CUBIC)
    else:
        y = np.linspace(-0.5, 0.5, rows, dtype=np.float32)[:, None]
        x = np.linspace(-0.5, 0.5, cols, dtype=np.float32)[None]
        share = 0.5 + 0.7 * (x * math.cos(look.angle) + y * math.sin(look.angle))
    start, end = (np.array(c, np.float32) for c in look.colours)
    share = np.clip(share, 0, 1)
    canvas = cv2.merge([np.clip(a + (b - a) * share, 0, 255).astype(np.uint8) for a, b in zip(start, end, strict=True)])
    if look.kind == "clutter":
        _draw_clutter(canvas, rng, height, (start + end) / 2)
    return canvas


def _draw_clutter(canvas: np.ndarray, rng: np.random.Generator, height: int, base: np.ndarray) -> None:
    rows, cols = canvas.shape[:2]

    def colour(contrast: float) -> tuple[float, float, float]:
        muted = np.clip(base + rng.uniform(-contrast, contrast) + rng.uniform(-8, 8, 3), 15, 175)
        return float(muted[0]), float(muted[1]), float(muted[2])

    def point() -> tuple[int, int]:
        return int(rng.integers(cols)), int(rng.integers(rows))

    for _ in range(int(rng.integers(3, 8))):
        axes = (max(2, int(rng.uniform(0.1, 0.3) * height)), max(2, int(rng.uniform(0.05, 0.15) * height)))
        cv2.ellipse(canvas, point(), axes, float(rng.uniform(0, 180)), 0, 360, colour(14), -1, cv2.LINE_AA)
    canvas[:] = cv2.GaussianBlur(canvas, (0, 0), 0.02 * height)
    thickness = max(1, round(0.006 * height))
    for _ in range(int(rng.integers(3, 9))):
        cv2.line(canvas, point(), point(), colour(30), thickness, cv2.LINE_AA)
    for _ in range(int(rng.integers(5, 25))):
        cv2.circle(canvas, point(), max(1, round(rng.uniform(0.005, 0.013) * height)), colour(40), -1, cv2.LINE_AA)
