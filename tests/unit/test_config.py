"""Settings: what is right is taken, what is wrong is one clear sentence, no password is shown."""

from __future__ import annotations

import pytest

from runtime.config import PREFIX, Settings, redact_url
from runtime.errors import SettingsError


def read(**variables: str) -> Settings:
    return Settings.from_environment({PREFIX + name: text for name, text in variables.items()})


def message(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(**variables)
    return str(caught.value)


def test_an_empty_environment_gives_the_defaults_of_the_design() -> None:
    settings = Settings.from_environment({"PATH": "/bin", "AGENT_RUNTIME_OTHER": "not ours"})
    assert settings == Settings()
    assert settings.db_url == "sqlite:///data/agent_runtime.db"
    assert (settings.host, settings.port) == ("127.0.0.1", 8001)
    assert settings.max_pending_bytes == settings.cache_bytes == 64 * 1024 * 1024
    assert settings.max_body_bytes == 8 * 1024 * 1024


def test_each_value_takes_its_type() -> None:
    settings = read(
        DB_URL="postgresql+asyncpg://me@here/db",
        PORT="0",
        DURABILITY="buffered",
        FLUSH_INTERVAL="0.25",
        POOL_MAX="50",
        MIGRATE="check",
        LOG_FORMAT="json",
        ACCESS_LOG="off",
    )
    assert settings.port == 0
    assert settings.durability == "buffered"
    assert settings.flush_interval == 0.25
    assert settings.pool_max == 50
    assert settings.migrate == "check"
    assert settings.log_format == "json"
    assert settings.access_log is False


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("AGENT_RUNTIME__DBURL", "AGENT_RUNTIME__DB_URL"),
        ("AGENT_RUNTIME__FLUSH_INTERVALL", "AGENT_RUNTIME__FLUSH_INTERVAL"),
        ("agent_runtime__port", "AGENT_RUNTIME__PORT"),
    ],
)
def test_an_unknown_variable_names_the_nearest(misspelt: str, meant: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({misspelt: "1"})
    assert str(caught.value) == f"{misspelt} is not a setting; the nearest is {meant}"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("PORT", "70000", "a port number"),
        ("PORT", "", "a port number"),
        ("MAX_BODY_BYTES", "8MiB", "whole number of bytes"),
        ("MAX_BODY_BYTES", "0", "whole number of bytes"),
        ("FLUSH_INTERVAL", "0", "more than 0"),
        ("FLUSH_INTERVAL", "nan", "more than 0"),
        ("SHUTDOWN_TIMEOUT", "inf", "at most 86400"),
        ("DURABILITY", "maybe", "committed or buffered"),
        ("MIGRATE", "never", "auto or check"),
        ("LOG_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("ACCESS_LOG", "yes", "on or off"),
        ("POOL_MIN", "0", "number of connections"),
        ("ALLOWED_HOSTS", "http://agents", "host names"),
        ("ALLOWED_HOSTS", "agents:8001", "without ports"),
        ("ALLOWED_HOSTS", "agents,,others", "host names"),
        ("RETAIN_IDLE_DAYS", "0", "days, more than 0"),
        ("RETAIN_IDLE_DAYS", "-1", "days, more than 0"),
        ("RETAIN_IDLE_DAYS", "null", "empty: for ever"),
        ("RETAIN_DELETED_DAYS", "nan", "days, more than 0"),
        ("RETAIN_DELETED_DAYS", "inf", "at most 36525"),
        ("RETAIN_DELETED_DAYS", "30d", "days, more than 0"),
    ],
)
def test_a_wrong_value_names_variable_value_and_what_is_right(name: str, value: str, right: str) -> None:
    text = message(**{name: value})
    assert text.startswith(f"{PREFIX}{name} is {value!r}; it must be ")
    assert right in text


def test_the_bounds_of_the_pool_must_fit_each_other() -> None:
    assert message(POOL_MIN="5", POOL_MAX="4") == (
        "AGENT_RUNTIME__POOL_MIN is 5, which is more than AGENT_RUNTIME__POOL_MAX, 4"
    )


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:s3cret@here/db",
        "postgresq://me:s3cret@here:5432/db",
        "postgresql:me:s3cret@here",
        "me:s3cret@here",
        "mysql://here/db?user=me&password=s3cret&x=1",
        "host=here password=s3cret",
        "host=here password='s3cret word'",
        "mysql://me:s3/c?r@et-s3cret@here/db",
    ],
)
def test_a_redacted_url_shows_no_password(url: str) -> None:
    assert "s3c" not in redact_url(url)
    assert "***" in redact_url(url)


def test_no_password_is_shown_in_an_error() -> None:
    text = message(PORT="postgresql://me:s3cret@here/db")
    assert "'postgresql://me:***@here/db'" in text


def test_a_user_in_the_models_url_and_a_key_contradict_each_other() -> None:
    text = message(LLM_URL="http://user:s3cret@here", LLM_API_KEY="key")
    assert "AGENT_RUNTIME__LLM_URL" in text
    assert "AGENT_RUNTIME__LLM_API_KEY" in text
    assert "s3cret" not in text


def test_the_key_of_the_model_is_shown_nowhere() -> None:
    assert "s3cret" not in message(LLM_API_KEY="s3cret key")
    settings = Settings(llm_api_key="s3cret")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(Settings(llm_url="https://user:s3cret@here"))


def test_no_password_is_shown_by_the_settings_themselves() -> None:
    settings = Settings(db_url="postgresql://me:s3cret@here/db")
    assert "s3cret" not in repr(settings)
    assert "me:***@here" in f"{settings}"


@pytest.mark.parametrize(
    "url", ["sqlite:///data/a.db", "postgresql://me@here:5432/db?sslmode=require", "postgres:///db"]
)
def test_a_url_without_password_stays_as_it_is(url: str) -> None:
    assert redact_url(url) == url


@pytest.mark.parametrize(
    ("text", "days"), [("", None), (" ", None), ("30", 30.0), ("0.5", 0.5), ("36525", 36525.0)]
)
def test_what_is_kept_is_kept_for_so_many_days_or_for_ever(text: str, days: float | None) -> None:
    settings = Settings.from_environment({f"{PREFIX}RETAIN_IDLE_DAYS": text})
    assert settings.retain_idle_days == days
    assert settings.retain_deleted_days is None
