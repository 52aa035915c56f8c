"""The database in turnout.yaml: a URL whose password is told to nobody."""

from __future__ import annotations

import pytest

from services.runtime.config import ConfigError, parse_config

FILE = "families: {{}}\nhub:\n  database_url: {url}\n"


def test_a_password_appears_in_no_text_of_the_configuration() -> None:
    """Neither when it is printed nor when it is dumped."""
    url = "postgresql://turnout:hush@127.0.0.1/turnout"
    config = parse_config(FILE.format(url=url), "turnout.yaml")
    assert config.hub.database_url.get_secret_value() == url
    for text in (str(config), repr(config), str(config.model_dump()), config.model_dump_json()):
        assert "hush" not in text


@pytest.mark.parametrize("url", ["mysql://u:hush@h/d", "hush", "sqlite://hush"])
def test_another_database_is_refused_with_its_line_and_without_its_password(url: str) -> None:
    """The sentence names the place and the URLs that there are."""
    with pytest.raises(ConfigError, match=r"turnout\.yaml:3: hub\.database_url: a database is sqlite:") as caught:
        parse_config(FILE.format(url=url), "turnout.yaml")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("setting", ["raw_days: 29", "max_decisions: -1", "minute_days: 0", "raw: 3"])
def test_retention_has_limits(setting: str) -> None:
    """Outcomes are taken for 30 days, so decisions stay at least that long."""
    with pytest.raises(ConfigError, match=r"hub\.retention"):
        parse_config(f"families: {{}}\nhub:\n  retention:\n    {setting}\n", "turnout.yaml")
