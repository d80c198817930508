"""The goals of ``goals.toml`` for speed: how many times as fast as the peer each case has to be at least."""

import tomllib
from pathlib import Path

FILE = Path(__file__).parent / "goals.toml"


def of_speed() -> dict[str, float]:
    """Return the smallest ratio that passes, by case."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))["speed"]["least"]
