"""Folders of adapters whose hashes are right, for tests that load no model."""

from __future__ import annotations

from pathlib import Path

from trajseg.checkpoints.manifest import WEIGHTS, AdapterManifest, publish


def publish_adapter(folder: Path, model_version: str, base: str = "trajseg-tiny") -> None:
    """Publishes an adapter of a few bytes."""
    made = folder.with_name(f"{folder.name}.made")
    made.mkdir(parents=True, exist_ok=True)
    for name in WEIGHTS:
        (made / name).write_text(name)
    publish(AdapterManifest(model_version, base, "hash of its config.json"), made, folder)
