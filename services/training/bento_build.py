"""The one process that talks to BentoML: `python -m services.training.bento_build`, a JSON request on standard input.

Each request gets a process of its own, started by `services.training.store`: several builds in one process silently
package the first one's model, and BENTOML_HOME is read once, when BentoML is imported. The answer is the last line on
standard output: {"result": …} or {"error": "one sentence"}.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final


def package(request: dict[str, Any]) -> str:
    """Saves the files in `model` as a model, builds its bento from `context` and exports it, models and all.

    Gives the bento's exact tag. The model and the bento share their name and version.
    """
    import bentoml

    tag = f"{request['name']}:{request['version']}"
    if _has(bentoml.models.list(), tag) or _has(bentoml.bentos.list(), tag):
        raise FileExistsError(f"{tag} is packaged already")
    with bentoml.models.create(tag, labels=request["labels"], metadata=request["metadata"]) as model:
        for path in Path(request["model"]).iterdir():
            shutil.copyfile(path, model.path_of(path.name))
    try:
        # What `bentoml build -f <bentofile> --arg variant=… --arg model_tag=… <context>` does.
        bento = bentoml.bentos.build_bentofile(
            request["bentofile"],
            version=request["version"],
            build_ctx=request["context"],
            args={"variant": request["variant"], "model_tag": tag},
        )
        bentoml.bentos.export_bento(tag, request["export"], "folder")
    except BaseException:
        delete({"tag": tag})
        raise
    return str(bento.tag)


def delete(request: dict[str, Any]) -> bool:
    """Deletes the bento and the model of this exact tag; tells whether there was either."""
    import bentoml

    found = False
    for collection in (bentoml.bentos, bentoml.models):
        if _has(collection.list(), request["tag"]):
            collection.delete(request["tag"])
            found = True
    return found


def tags(_: dict[str, Any]) -> list[str]:
    """Lists the exact tags of all models in the store."""
    import bentoml

    return sorted(str(model.tag) for model in bentoml.models.list())


def _has(items: list[Any], tag: str) -> bool:
    # BentoML's own get() takes prefixes and ":latest".
    return any(str(item.tag) == tag for item in items)


_ACTIONS: Final[dict[str, Callable[[dict[str, Any]], object]]] = {"package": package, "delete": delete, "tags": tags}


def main() -> int:
    """Answers one request."""
    request = json.load(sys.stdin)
    answer: dict[str, object]
    try:
        answer = {"result": _ACTIONS[request["action"]](request)}
    except Exception as error:  # noqa: BLE001 - BentoML raises many types; the caller gets one sentence
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
