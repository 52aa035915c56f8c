"""What changed between two settings, one sentence a change."""

from __future__ import annotations

import json
from typing import Any, Final

from services.runtime.monitoring_config import MonitoringSettings

MAX_CHANGES: Final = 200
_MAX_VALUE: Final = 200
_ABSENT: Final = object()


def describe_changes(before: MonitoringSettings, after: MonitoringSettings) -> list[str]:
    """Gives sentences like "thresholds.fallback_rate: 0.05 → 0.1", in the settings' order; at most 200."""
    old, new = _flat(before), _flat(after)
    changed = [path for path in {**old, **new} if old.get(path, _ABSENT) != new.get(path, _ABSENT)]
    sentences = [f"{path}: {_word(old.get(path, _ABSENT))} → {_word(new.get(path, _ABSENT))}" for path in changed]
    if len(sentences) > MAX_CHANGES:
        return [*sentences[: MAX_CHANGES - 1], f"and {len(sentences) - MAX_CHANGES + 1} more"]
    return sentences


def _flat(settings: MonitoringSettings) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for name, part in value.items():
                walk(part, f"{path}.{name}" if path else str(name))
        elif value != {} or "." in path:
            # An empty section says nothing; an empty part of a handler ("log: {}") does.
            found[path] = value

    walk(settings.model_dump(mode="json", exclude_none=True), "")
    return found


def _word(value: Any) -> str:
    if value is _ABSENT:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"
