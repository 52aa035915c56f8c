"""Settings as messages. Both sides have the same names, so the one is read as the other's JSON."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import json_format
from pydantic import ValidationError

from services.runtime.errors import InvalidArgument
from services.runtime.monitoring_config import MonitoringSettings
from turnout.v1 import monitoring_pb2

_MAX_SENTENCE: Final = 300


def settings_message(settings: MonitoringSettings) -> monitoring_pb2.MonitoringSettings:
    """Gives settings as a message; secrets stand in neither, only the names of their places."""
    message = monitoring_pb2.MonitoringSettings()
    json_format.ParseDict(settings.model_dump(mode="json", exclude_none=True), message)
    return message


def read_settings(message: monitoring_pb2.MonitoringSettings) -> MonitoringSettings:
    """Reads and checks settings; what is not set has the manual's value.

    Raises:
        InvalidArgument: names the field at fault, by its path.
    """
    return check_settings(json_format.MessageToDict(message, preserving_proto_field_name=True))


def check_settings(content: dict[str, Any]) -> MonitoringSettings:
    """Checks settings as JSON has them.

    Raises:
        InvalidArgument: names the field at fault, by its path.
    """
    try:
        return MonitoringSettings.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(["settings", *(str(part) for part in first["loc"] if part != "[key]")])[:_MAX_SENTENCE]
        reason = first["msg"].removeprefix("Value error, ")[:_MAX_SENTENCE]
        raise InvalidArgument(field, f"{field}: {reason[:1].lower()}{reason[1:]}") from None
