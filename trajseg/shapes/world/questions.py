"""Unambiguous questions of each kind about a scene, with their target objects."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trajseg.shapes.world import phrases as say
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.phrases import Phrases
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, MOTIONS, SHAPES, SIZES, SceneObject


@dataclass(frozen=True)
class UnwordedInstruction:
    """An instruction before its wording is chosen: one of `phrases`, to be filled with `slots`."""

    phrases: Phrases
    slots: dict[str, str]
    targets: tuple[int, ...]


def _only(truths: Iterable[bool | None]) -> int | None:
    """Index of the only True; None unless all others are False (not None)."""
    answer: int | None = None
    for k, truth in enumerate(truths):
        if truth is None or (truth and answer is not None):
            return None
        if truth:
            answer = k
    return answer


def descriptions(o: SceneObject) -> list[str]:
    """Ways to describe an object, from short to long."""
    return [
        o.shape,
        f"{o.colour} object",
        f"{o.colour} {o.shape}",
        f"{o.size} {o.shape}",
        f"{o.size} {o.colour} object",
        f"{o.size} {o.colour} {o.shape}",
    ]


def meaning(description: str, objects: list[SceneObject]) -> list[int]:
    """Indices of the objects that a description fits."""
    words = set(description.split()) - {"object"}
    return [k for k, o in enumerate(objects) if words.issubset((o.size, o.colour, o.shape))]


def _name(k: int, objects: list[SceneObject], rng: random.Random) -> str:
    """A description with colour and shape that fits only object k."""
    o = objects[k]
    short = f"{o.colour} {o.shape}"
    return short if len(meaning(short, objects)) == 1 and rng.random() < 0.6 else f"{o.size} {short}"


def _loose_description(k: int, objects: list[SceneObject], rng: random.Random, alike: float = 0.8) -> str:
    """A description of k that, if possible, also fits other objects, so that the rest of the sentence matters."""
    shared = [d for d in descriptions(objects[k])[:4] if len(meaning(d, objects)) > 1]
    return rng.choice(shared) if shared and rng.random() < alike else "object"


def _attribute(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    objects = facts.scene.objects
    asked = []
    for k, o in enumerate(objects):
        for d in descriptions(o):
            if len(meaning(d, objects)) == 1:
                asked.append(UnwordedInstruction(say.ATTRIBUTE, {"d": d}, (k,)))
        if len(meaning(f"{o.colour} {o.shape}", objects)) == 1:
            asked.append(UnwordedInstruction(say.COLOUR_AFTER, {"s": o.shape, "c": o.colour}, (k,)))
    return asked


def _motion(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    objects = facts.scene.objects
    asked = []
    for k, o in enumerate(objects):
        if not facts.moves_visibly[k]:
            continue
        d = _loose_description(k, objects, rng)
        if sum(objects[j].motion == o.motion for j in meaning(d, objects)) == 1:
            clause = rng.choice(say.MOTION[o.motion].of(wording))
            asked.append(UnwordedInstruction(say.MOTION_OF_ONE, {"d": d, "m": clause}, (k,)))
    return asked


def _place(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    objects, at = facts.scene.objects, facts.at[:, :2]
    count = len(objects)
    here = [bool((facts.visible[k, :2] >= 0.5).all()) for k in range(count)]
    absent = [facts.enters[k] is True for k in range(count)]
    asked: list[UnwordedInstruction] = []

    def beside(k: int, o: int, way: str) -> bool | None:
        """Whether k is on side `way` of o in the first two sampled frames."""
        if absent[k]:
            return False
        if not here[k]:
            return None
        axis, sign = (0 if way in ("left", "right") else 1), (-1 if way in ("left", "above") else 1)
        ahead = (sign * (at[k, :, axis] - at[o, :, axis])).tolist()
        if ahead[0] > 0.12 and ahead[1] > 0.08:
            return True
        return False if ahead[0] < -0.07 and ahead[1] < 0 else None

    for k in range(count):
        if not here[k]:
            continue
        d = _loose_description(k, objects, rng, alike=0.9)
        rivals = [j for j in meaning(d, objects) if j != k]
        if not rivals:
            continue
        for o in range(count):
            if o == k or not here[o]:
                continue
            for way in say.PLACE:
                others = [j for j in rivals if j != o]
                if beside(k, o, way) and all(beside(j, o, way) is False for j in others):
                    clause = rng.choice(say.PLACE[way].of(wording))
                    slots = {"d": f"{d} {clause.format(o=_name(o, objects, rng))}"}
                    asked.append(UnwordedInstruction(_PLAIN, slots, (k,)))
    if all(h or a for h, a in zip(here, absent, strict=True)) and sum(here) >= 2:
        present = [k for k in range(count) if here[k]]
        for way, phrases in say.EXTREME.items():
            first = _extreme(present, at, way)
            if first is not None:
                asked.append(UnwordedInstruction(phrases, {}, (first,)))
    return asked


_PLAIN = Phrases(("the {d}",), (), ())


def _extreme(present: list[int], at: np.ndarray, way: str) -> int | None:
    axis, sign = (0 if way in ("left", "right") else 1), (-1 if way in ("left", "above") else 1)
    order = sorted(present, key=lambda k: -sign * at[k, 0, axis])
    lead = sign * (at[order[0], :, axis] - at[order[1], :, axis])
    return order[0] if lead[0] > 0.1 and lead[1] > 0.06 else None


def _order(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    count = len(facts.scene.objects)
    asked: list[UnwordedInstruction] = []
    for name, truths, when, seen, sign in (
        ("enters", facts.enters, facts.first_inside, facts.first_seen, 1),
        ("leaves", facts.leaves, facts.last_inside, facts.last_seen, -1),
    ):
        if any(truth is None for truth in truths):
            continue

        def apart(a: int, b: int, when: list[int] = when, seen: list[int] = seen, sign: int = sign) -> bool:
            return sign * (when[b] - when[a]) >= 2 and sign * (seen[b] - seen[a]) >= 1

        those = sorted((k for k in range(count) if truths[k]), key=lambda k: sign * when[k])
        far, near = ("last", "first") if sign > 0 else ("first", "last")
        if those and (len(those) == 1 or apart(those[-2], those[-1])):
            asked.append(UnwordedInstruction(say.ORDER[f"{name} {far}"], {}, (those[-1],)))
        if len(those) >= 2 and apart(those[0], those[1]):
            asked.append(UnwordedInstruction(say.ORDER[f"{name} {near}"], {}, (those[0],)))
    here = [bool((facts.visible[k, :2] >= 0.5).all()) for k in range(count)]
    if all(here[k] or facts.enters[k] is True for k in range(count)) and sum(here) >= 3:
        present = sorted((k for k in range(count) if here[k]), key=lambda k: float(facts.at[k, 0, 0]))
        x = facts.at[present][:, :2, 0]
        gaps = (x[1:] - x[:-1]).min(axis=1)
        if gaps[0] > 0.08 and gaps[1] > 0.08:
            asked.append(UnwordedInstruction(say.ORDER["second from the left"], {}, (present[1],)))
        if gaps[-1] > 0.08 and gaps[-2] > 0.08:
            asked.append(UnwordedInstruction(say.ORDER["second from the right"], {}, (present[-2],)))
    return asked


def _comparison(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    objects = facts.scene.objects
    asked: list[UnwordedInstruction] = []
    groups = {"object": list(range(len(objects)))}
    for word in [*{o.shape for o in objects}, *{f"{o.colour} object" for o in objects}]:
        members = meaning(word, objects)
        if 2 <= len(members) < len(objects):
            groups[word] = members
    for noun, members in sorted(groups.items()):
        if any(facts.seen_count[k] < 2 for k in members):
            continue
        moving = [k for k in members if objects[k].motion != "still"]
        radius = {k: objects[k].radius for k in members}
        speed = {k: facts.path[k] for k in members}
        shown = all(facts.moves_visibly[k] for k in members)
        for form, scores, candidates, margin, ready in (
            ("largest", radius, members, 1.3, True),
            ("smallest", {k: 1 / r for k, r in radius.items()}, members, 1.3, True),
            ("fastest", speed, moving, 1.5, shown),
            ("slowest", {k: 1 / max(v, 1e-6) for k, v in speed.items()}, moving, 1.5, shown),
        ):
            needed = 1 if form == "fastest" else 2
            if not ready or len(candidates) < needed or len(members) < 2:
                continue
            order = sorted(candidates, key=lambda k: -scores[k])
            if len(order) == 1 or scores[order[0]] >= margin * scores[order[1]]:
                asked.append(UnwordedInstruction(say.COMPARISON[form], {"n": noun}, (order[0],)))
    return asked


def _event(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    objects = facts.scene.objects
    asked: list[UnwordedInstruction] = []
    for form, truths in (("enters", facts.enters), ("leaves", facts.leaves)):
        for k, truth in enumerate(truths):
            if truth:
                d = _loose_description(k, objects, rng, alike=0.6)
                if _only(truths[j] if j in meaning(d, objects) else False for j in range(len(objects))) == k:
                    asked.append(UnwordedInstruction(say.EVENT[form], {"d": d}, (k,)))
    behind_any: list[bool | None] = [True if True in row else None if None in row else False for row in facts.behind]
    for k, row in enumerate(facts.behind):
        for j, truth in enumerate(row):
            if not truth:
                continue
            d = _loose_description(k, objects, rng, alike=0.6)
            fits = meaning(d, objects)
            if _only(facts.behind[i][j] if i in fits else False for i in range(len(objects))) == k:
                slots = {"d": d, "o": _name(j, objects, rng)}
                asked.append(UnwordedInstruction(say.EVENT["passes behind"], slots, (k,)))
            if _only(behind_any[i] if i in fits else False for i in range(len(objects))) == k:
                asked.append(UnwordedInstruction(say.EVENT["passes behind any"], {"d": d}, (k,)))
    return asked


def _knowledge(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    objects = facts.scene.objects
    asked: list[UnwordedInstruction] = []
    for k, o in enumerate(objects):
        for adjective in ("", f"{o.colour} ", f"{o.size} "):
            if len(meaning(f"{adjective}{o.shape}", objects)) == 1:
                known = rng.choice(say.KNOWN_SHAPES[o.shape])
                asked.append(UnwordedInstruction(say.KNOWLEDGE_SHAPE, {"a": adjective, "k": known}, (k,)))
        for noun in ("object", o.shape):
            if len(meaning(f"{o.colour} {noun}", objects)) == 1:
                slots = {"n": "one" if noun == "object" and rng.random() < 0.5 else noun}
                slots["k"] = rng.choice(say.KNOWN_COLOURS[o.colour])
                asked.append(UnwordedInstruction(say.KNOWLEDGE_COLOUR, slots, (k,)))
    return asked


def _several(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    objects = facts.scene.objects
    found: list[tuple[Phrases, dict[str, str], list[int]]] = []
    for s in SHAPES:
        found.append((say.SEVERAL_DESCRIBED, {"p": say.PLURALS[s]}, meaning(s, objects)))
        for adjective in sorted({o.colour for o in objects} | {o.size for o in objects}):
            members = meaning(f"{adjective} {s}", objects)
            found.append((say.SEVERAL_DESCRIBED, {"p": f"{adjective} {say.PLURALS[s]}"}, members))
    for adjective in (*COLOURS, *SIZES):
        found.append((say.SEVERAL_DESCRIBED, {"p": f"{adjective} objects"}, meaning(f"{adjective} object", objects)))
    shown = facts.moves_visibly
    for motion in MOTIONS:
        members = [k for k, o in enumerate(objects) if o.motion == motion]
        if all(shown[k] for k in members):
            found.append((say.SEVERAL_MOTION[motion], {}, members))
    if all(shown):
        members = [k for k, o in enumerate(objects) if o.motion != "still"]
        found.append((say.SEVERAL_MOTION["any"], {}, members))
    for form, truths in (("enters", facts.enters), ("leaves", facts.leaves)):
        if None not in truths:
            found.append((say.SEVERAL_EVENT[form], {}, [k for k, truth in enumerate(truths) if truth]))
    asked = []
    for phrases, slots, members in found:
        if len(members) < 2 or any(facts.seen_count[k] < 2 for k in members):
            continue
        x = {k: float(facts.at[k, facts.first_seen[k], 0]) for k in members}
        ordered = sorted(members, key=lambda k: x[k])
        if all(x[b] - x[a] >= 0.03 for a, b in pairwise(ordered)):
            asked.append(UnwordedInstruction(phrases, slots, tuple(ordered)))
    return asked


def _none(facts: Facts, rng: random.Random, wording: str) -> list[UnwordedInstruction]:
    """Questions that fit no object of the scene; most are near misses."""
    objects = facts.scene.objects
    colours, shapes = {o.colour for o in objects}, {o.shape for o in objects}
    asked: list[UnwordedInstruction] = []
    for _ in range(3):
        o = rng.choice(objects)
        colour, shape = rng.choice(
            (
                (o.colour, rng.choice(SHAPES)),
                (rng.choice(COLOURS), o.shape),
                (rng.choice(COLOURS), rng.choice(SHAPES)),
            )
        )
        if rng.random() < 0.5:
            colour, shape = rng.choice(sorted(colours)), rng.choice(sorted(shapes))
        # In train, a held-out pair would only occur as an absent object.
        if (facts.scene.split == "test" or (colour, shape) not in HELD_OUT) and not meaning(
            f"{colour} {shape}", objects
        ):
            size = rng.choice(("", "", *(f"{s} " for s in SIZES)))
            asked.append(UnwordedInstruction(say.ATTRIBUTE, {"d": f"{size}{colour} {shape}"}, ()))
            if not size:
                asked.append(UnwordedInstruction(say.COLOUR_AFTER, {"s": shape, "c": colour}, ()))
        other_size = SIZES[1 - SIZES.index(o.size)]
        if not meaning(f"{other_size} {o.colour} {o.shape}", objects):
            asked.append(UnwordedInstruction(say.ATTRIBUTE, {"d": f"{other_size} {o.colour} {o.shape}"}, ()))
    colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
    if colour not in colours:
        asked.append(
            UnwordedInstruction(say.KNOWLEDGE_COLOUR, {"n": "object", "k": rng.choice(say.KNOWN_COLOURS[colour])}, ())
        )
        asked.append(UnwordedInstruction(say.ATTRIBUTE, {"d": f"{colour} object"}, ()))
    if shape not in shapes:
        asked.append(UnwordedInstruction(say.KNOWLEDGE_SHAPE, {"a": "", "k": rng.choice(say.KNOWN_SHAPES[shape])}, ()))
        asked.append(UnwordedInstruction(say.ATTRIBUTE, {"d": shape}, ()))
    motion = rng.choice(MOTIONS)
    d = rng.choice(["object", *descriptions(rng.choice(objects))[:4]])
    members = meaning(d, objects)
    if all(objects[k].motion != motion and facts.moves_visibly[k] for k in members):
        clause = rng.choice(say.MOTION[motion].of(wording))
        asked += [UnwordedInstruction(say.MOTION_OF_ONE, {"d": d, "m": clause}, ())] * 2
    for form, truths in (("enters", facts.enters), ("leaves", facts.leaves)):
        if all(truths[k] is False for k in members):
            asked.append(UnwordedInstruction(say.EVENT[form], {"d": d}, ()))
    if not any(truth is not False for row in facts.behind for truth in row):
        asked.append(UnwordedInstruction(say.EVENT["passes behind any"], {"d": "object"}, ()))
    return asked


SOURCES: dict[str, Callable[[Facts, random.Random, str], list[UnwordedInstruction]]] = {
    "attribute": _attribute,
    "motion": _motion,
    "place": _place,
    "order": _order,
    "comparison": _comparison,
    "event": _event,
    "knowledge": _knowledge,
    "several": _several,
    "none": _none,
}
