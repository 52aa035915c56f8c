"""Open Inference Protocol on the router: any existing client predicts through the experiment, unchanged.

A model is a family. Inputs are one tensor a feature: FP64 for a number (FP32 and INT64 are taken too), BYTES for a
category, BOOL for a flag, each of shape [rows] or [rows, 1]. A feature that is not known is left out for all rows; NaN
or an empty text stand for a single unknown cell. Call parameters: `unit_id`, `region`, `decision_id` (one row only).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from bentos.family import Family
from bentos.schema import Category, Flag, Number
from inference import open_inference_pb2 as oip
from router.attributes import MAX_ENTRIES, MAX_NAME, MAX_VALUE, attributes_for
from router.batching import MAX_ROWS
from router.deciding import Decider
from router.quotas import Quotas
from router.servicer import PredictionService
from services.runtime.call import Call
from services.runtime.errors import InvalidArgument, NotFound
from turnout.v1 import prediction_pb2

_LAYOUT: Final = {"FP64": "d", "FP32": "f", "INT64": "q", "INT32": "i", "BOOL": "?"}
"""Format characters of `struct`; always little-endian."""
_OWN_PARAMETERS: Final = ("decision_id", "unit_id", "region")
_NUMERIC: Final = ("FP64", "FP32", "INT64", "INT32")
_CONTENTS: Final = {
    "FP64": "fp64_contents",
    "FP32": "fp32_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "BOOL": "bool_contents",
}
_OUTPUTS: Final[dict[str, tuple[str, Callable[[prediction_pb2.PredictResponse], Any]]]] = {
    "value": ("FP64", lambda answer: answer.value),
    "confidence": ("FP64", lambda answer: answer.confidence),
    "arm": ("BYTES", lambda answer: answer.assignment.arm.encode()),
    "served_variant": ("BYTES", lambda answer: answer.served_variant.encode()),
    "model_version": ("BYTES", lambda answer: answer.model_version.encode()),
    "decision_id": ("BYTES", lambda answer: answer.decision_id.encode()),
}


class OpenInference:
    """inference.GRPCInferenceService over the decider."""

    def __init__(self, decider: Decider, predictions: PredictionService, *, quotas: Quotas, version: str) -> None:
        self._decider = decider
        self._quotas = quotas
        self._predictions = predictions
        self._version = version

    async def server_live(self, _request: oip.ServerLiveRequest, _call: Call) -> oip.ServerLiveResponse:
        """The process is up, or it would not answer."""
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, _request: oip.ServerReadyRequest, _call: Call) -> oip.ServerReadyResponse:
        """A router is ready as soon as it listens: the rules always answer."""
        return oip.ServerReadyResponse(ready=True)

    async def model_ready(self, request: oip.ModelReadyRequest, _call: Call) -> oip.ModelReadyResponse:
        """A family is ready when it is served; its rules always answer."""
        return oip.ModelReadyResponse(ready=request.name in self._decider.table.routes)

    async def server_metadata(self, _request: oip.ServerMetadataRequest, _call: Call) -> oip.ServerMetadataResponse:
        """Name and version of this server."""
        return oip.ServerMetadataResponse(name="turnout", version=self._version)

    async def model_metadata(self, request: oip.ModelMetadataRequest, _call: Call) -> oip.ModelMetadataResponse:
        """Tensors of a family."""
        family = self._decider.table.route(request.name).family
        tensor = oip.ModelMetadataResponse.TensorMetadata
        return oip.ModelMetadataResponse(
            name=family.name,
            versions=[family.rules_version],
            platform="turnout",
            inputs=[tensor(name=f.name, datatype=_datatype(f), shape=[-1]) for f in family.schema.features],
            outputs=[tensor(name=name, datatype=kind, shape=[-1]) for name, (kind, _) in _OUTPUTS.items()],
        )

    async def model_infer(self, request: oip.ModelInferRequest, call: Call) -> oip.ModelInferResponse:
        """Answers up to 1 000 rows."""
        route = self._decider.table.route(request.model_name)
        columns, count = _columns(request, route.family)
        wanted = [output.name for output in request.outputs] or list(_OUTPUTS)
        if len(set(wanted)) < len(wanted):
            # A small request must not ask for an answer of any size.
            raise InvalidArgument("outputs", "outputs must name each output once")
        for name in wanted:
            if name not in _OUTPUTS:
                raise NotFound("outputs", f"there is no output {name[:64]!r}; there are: {', '.join(_OUTPUTS)}")
        parameters = _parameters(request)
        decision_id = parameters.get("decision_id", "")
        if decision_id and count != 1:
            raise InvalidArgument("parameters[decision_id]", "parameter decision_id goes with exactly one row")
        quota = self._quotas.of(call.tenant)
        quota.admit(count, critical=route.critical)
        with quota:
            attributes = attributes_for(route, _attributes(request), call)
            rows = []
            for index in range(count):
                numbers, categories, flags = _row(columns, index)
                rows.append(
                    self._decider.prepare(
                        route,
                        tenant=call.tenant,
                        decision_id=decision_id,
                        unit_id=parameters.get("unit_id", ""),
                        region=parameters.get("region", ""),
                        numbers=numbers,
                        categories=categories,
                        flags=flags,
                        time_left=call.time_left(),
                        attributes=attributes,
                    )
                )
            self._decider.admit(rows)
            answers = await self._predictions.answer_all(rows)
        return _response(request, wanted, answers)


def _parameters(request: oip.ModelInferRequest) -> dict[str, str]:
    """Gives the parameters that are meant for the router; those of other servers are left alone."""
    found: dict[str, str] = {}
    for name in _OWN_PARAMETERS:
        if name in request.parameters:
            value = request.parameters[name]
            if value.WhichOneof("parameter_choice") != "string_param":
                raise InvalidArgument(f"parameters[{name}]", f"parameter {name} must be a text")
            found[name] = value.string_param
    return found


def _attributes(request: oip.ModelInferRequest) -> dict[str, str]:
    """Gives the other parameters that are texts and within the bounds: targeting rules may look at them."""
    found: dict[str, str] = {}
    for name in request.parameters:
        text = request.parameters[name].string_param
        if text and name not in _OWN_PARAMETERS and len(name) <= MAX_NAME and len(text) <= MAX_VALUE:
            found[name] = text
    # A parameter may be meant for another server: too many of them are no error.
    return dict(islice(found.items(), MAX_ENTRIES))


_Columns = dict[str, tuple[Number | Category | Flag, list[Any]]]


def _columns(request: oip.ModelInferRequest, family: Family) -> tuple[_Columns, int]:
    features = {feature.name: feature for feature in family.schema.features}
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument("raw_input_contents", "raw_input_contents must have one entry an input")
    columns: _Columns = {}
    count = 0
    for index, tensor in enumerate(request.inputs):
        feature = features.get(tensor.name)
        where = f"inputs[{tensor.name[:64]}]"
        if feature is None:
            raise InvalidArgument(where, f"feature {tensor.name[:64]!r} is not in the schema")
        if tensor.name in columns:
            raise InvalidArgument(where, f"input {tensor.name!r} stands twice")
        rows = _rows_of(tensor.shape, where)
        if columns and rows != count:
            raise InvalidArgument(where, f"input {tensor.name!r} has {rows} rows, the others have {count}")
        values = _values(tensor, feature, raw[index] if raw else None, where)
        if len(values) != rows:
            raise InvalidArgument(where, f"input {tensor.name!r} has {len(values)} values for {rows} rows")
        columns[tensor.name] = (feature, values)
        count = rows
    if not columns:
        raise InvalidArgument("inputs", "inputs must hold at least one feature")
    return columns, count


def _rows_of(shape: Iterable[int], where: str) -> int:
    dimensions = list(shape)
    if len(dimensions) not in (1, 2) or dimensions[1:] not in ([], [1]) or not 1 <= dimensions[0] <= MAX_ROWS:
        raise InvalidArgument(where, f"{where} must have shape [rows] or [rows, 1] with 1 to {MAX_ROWS} rows")
    return dimensions[0]


def _values(
    tensor: oip.ModelInferRequest.InferInputTensor, feature: Number | Category | Flag, raw: bytes | None, where: str
) -> list[Any]:
    kind = tensor.datatype
    fitting = {Number: _NUMERIC, Category: ("BYTES",), Flag: ("BOOL",)}[type(feature)]
    if kind not in fitting:
        raise InvalidArgument(where, f"{where} must have datatype {' or '.join(fitting)}, not {kind[:16]!r}")
    if raw is not None:
        return _from_raw(raw, kind, where)
    if kind == "BYTES":
        return [_text(item, where) for item in tensor.contents.bytes_contents]
    return list(getattr(tensor.contents, _CONTENTS[kind]))


def _from_raw(raw: bytes, kind: str, where: str) -> list[Any]:
    if kind == "BYTES":
        values, offset = [], 0
        while offset < len(raw):
            length = int.from_bytes(raw[offset : offset + 4], "little")
            if offset + 4 + length > len(raw):
                raise InvalidArgument(where, f"{where}: a text is longer than the data")
            values.append(_text(raw[offset + 4 : offset + 4 + length], where))
            offset += 4 + length
        return values
    size = struct.calcsize(f"<{_LAYOUT[kind]}")
    if len(raw) % size:
        raise InvalidArgument(where, f"{where}: {len(raw)} bytes are no whole number of {kind} values")
    return list(struct.unpack(f"<{len(raw) // size}{_LAYOUT[kind]}", raw))


def _text(item: bytes, where: str) -> str:
    try:
        return item.decode()
    except UnicodeDecodeError:
        raise InvalidArgument(where, f"{where}: a text is not valid UTF-8") from None


def _row(columns: _Columns, index: int) -> tuple[dict[str, float], dict[str, str], dict[str, bool]]:
    numbers: dict[str, float] = {}
    categories: dict[str, str] = {}
    flags: dict[str, bool] = {}
    for name, (feature, values) in columns.items():
        value = values[index]
        match feature:
            case Number():
                # The protocol has no null: NaN is the customary mark of an unknown cell.
                if not math.isnan(value):
                    numbers[name] = value
            case Category():
                if value:
                    categories[name] = value
            case Flag():
                flags[name] = value
    return numbers, categories, flags


def _datatype(feature: Number | Category | Flag) -> str:
    return {Number: "FP64", Category: "BYTES", Flag: "BOOL"}[type(feature)]


def _response(
    request: oip.ModelInferRequest, wanted: list[str], answers: list[prediction_pb2.PredictResponse]
) -> oip.ModelInferResponse:
    # Clients that send raw tensors read raw tensors; the others find typed contents.
    as_raw = bool(request.raw_input_contents)
    response = oip.ModelInferResponse(
        model_name=request.model_name, model_version=answers[0].model_version, id=request.id
    )
    for name in wanted:
        kind, read = _OUTPUTS[name]
        values = [read(answer) for answer in answers]
        tensor = response.outputs.add(name=name, datatype=kind, shape=[len(values)])
        if as_raw:
            response.raw_output_contents.append(_to_raw(values, kind))
        elif kind == "FP64":
            tensor.contents.fp64_contents.extend(values)
        else:
            tensor.contents.bytes_contents.extend(values)
    return response


def _to_raw(values: list[Any], kind: str) -> bytes:
    if kind == "FP64":
        return struct.pack(f"<{len(values)}d", *values)
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)
