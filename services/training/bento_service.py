"""The BentoML service of a packaged variant, for `bentoml serve` and `bentoml.load`.

`bentoml build` builds this module, once a variant, with the exact tag of the variant's model as an argument. In
production the bento runs `python -m services.model_server` from its own sources instead, which speaks gRPC and loads
no BentoML; both run the same verified ONNX file and give the same numbers.
"""

from __future__ import annotations

import math
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime as ort
from pydantic import BaseModel, Field

from bentos.manifest import read, verified_model

MAX_ROWS = 1000


class Arguments(BaseModel):
    """What `bentoml build --arg` gives; BentoML keeps it in bento.yaml."""

    variant: str
    model_tag: str = Field(pattern=r"^[a-z0-9][-.a-z0-9_]*:[a-z0-9][-.a-z0-9_]*$")
    """Exact tag of the model in BentoML's store."""


arguments = bentoml.use_arguments(Arguments)


@bentoml.service(name="turnout-model", traffic={"timeout": 5, "max_concurrency": 64})
class TurnoutModel:
    """Answers rows of one packaged variant."""

    model = bentoml.models.BentoModel(arguments.model_tag)

    def __init__(self) -> None:
        folder = Path(self.model.path)
        self.manifest = read(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        content = verified_model(folder, self.manifest)
        self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    @bentoml.api  # type: ignore[untyped-decorator] # BentoML carries no types here
    def predict(self, rows: list[list[float | None]]) -> list[list[float]]:
        """Answers 1 to 1 000 rows: one number a feature in the schema's order, null for missing; one list an output.

        Raises:
            InvalidArgument: too many rows, or a row of the wrong width.
        """
        width = len(self.manifest.features)
        if not 1 <= len(rows) <= MAX_ROWS:
            raise bentoml.exceptions.InvalidArgument(f"rows must be 1 to {MAX_ROWS}, not {len(rows)}")
        if any(len(row) != width for row in rows):
            raise bentoml.exceptions.InvalidArgument(f"each row must hold {width} numbers")
        matrix = np.array([[math.nan if v is None else v for v in row] for row in rows], dtype=np.float32)
        (answer,) = self.session.run([self.manifest.output_name], {self.manifest.input_name: matrix})
        return [[float(v) for v in row] for row in answer]

    @bentoml.api  # type: ignore[untyped-decorator] # BentoML carries no types here
    def describe(self) -> dict[str, str | list[str]]:
        """Says what is served."""
        return {
            "family": self.manifest.family,
            "variant": self.manifest.variant,
            "sha256": self.manifest.sha256,
            "features": list(self.manifest.features),
            "outputs": list(self.manifest.outputs),
        }
