"""Copies screenshots of the last `make e2e` into docs/screenshots, compressed.

python scripts/screenshots.py [NAME ...]     names without .png; default: those shown in the documentation
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TAKEN = ROOT / "e2e-artifacts"
KEPT = ROOT / "docs/screenshots"
SHOWN = (
    "mask-opened",
    "mask-corrected",
    "typed-suggestions",
    "typed-accepted",
    "box-opened",
    "correction-painted",
    "correction-refined",
    "correction-data-manager",
    "correction-hint",
    "adoption-changed",
    "round-states",
    "round-still-running",
    "jobs-list",
    "jobs-tracks",
)
WIDTH = 1200


def main() -> None:
    names = sys.argv[1:] or SHOWN
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in names:
        source = TAKEN / f"{name}.png"
        if not source.exists():
            raise SystemExit(f"{source} does not exist: run `make e2e` first")
        picture = Image.open(source).convert("RGB")
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
        # A palette changes the colours of labels, and a full PNG is five times as large.
        kept = KEPT / f"{name}.webp"
        picture.save(kept, quality=88, method=6)
        print(f"{kept.relative_to(ROOT)}  {kept.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
