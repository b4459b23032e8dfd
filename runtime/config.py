"""Settings from AGENT_RUNTIME__* variables, one frozen value.

`Settings` is the table: its fields are the variables, the description of each type says what is right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from runtime.errors import SettingsError
from runtime.models import Durability

PREFIX = "AGENT_RUNTIME__"
MIB = 1024 * 1024

# A day bounds what is meant as a pause or a patience; it also keeps out "inf".
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="seconds, more than 0 and at most 86400")]
Bytes = Annotated[int, Meta(ge=1, le=2**50, description="a whole number of bytes, 1 or more")]
# Understood, and refused where it is wrong, by the one who opens it: runtime.db.database.
DatabaseUrl = Annotated[
    str, Meta(description="sqlite:///path/of/a/file.db or postgresql://user@host/database")
]
Host = Annotated[str, Meta(min_length=1, description="a host name or address to listen on")]
HostNames = Annotated[
    str,
    Meta(
        pattern=r"^([\w.-]+( *, *[\w.-]+)*)?$",
        description="host names or IPv4 addresses with commas between them, without ports",
    ),
]
Port = Annotated[int, Meta(ge=0, le=65_535, description="a port number up to 65535; 0 takes a free one")]
Connections = Annotated[int, Meta(ge=1, le=1000, description="a number of connections from 1 to 1000")]
CacheBytes = Annotated[int, Meta(ge=0, le=2**50, description="a whole number of bytes; 0 keeps nothing")]
Milliseconds = Annotated[float, Meta(ge=0, le=86_400_000, description="milliseconds, 0 or more")]
DurabilityName = Annotated[Durability, Meta(description="committed or buffered")]
MigrateMode = Annotated[Literal["auto", "check"], Meta(description="auto or check")]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    Meta(description="DEBUG, INFO, WARNING, ERROR or CRITICAL"),
]
LogFormat = Annotated[Literal["text", "json"], Meta(description="text or json")]
Switch = Annotated[bool, Meta(description="on or off")]

# Understood, and refused where it is wrong, by the one who reads it: runtime.agents.configuration.
AgentsFile = Annotated[str, Meta(description="the path of a TOML file; empty: the built-in agents")]
ModelUrl = Annotated[
    str,
    Meta(
        pattern=r"^(https?://[^\s/]+\S*)?$",
        description="the http(s) URL that /chat/completions stands under; empty: the echo model",
    ),
]
ProxyUrl = Annotated[
    str,
    Meta(
        pattern=r"^(https?://[^\s/]+\S*)?$",
        description="the http(s) URL of the earlier service's language-model proxy, without /v1",
    ),
]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$", description="the name of an HTTP header")]
DialectName = Annotated[
    Literal["", "native", "gateway"],
    Meta(description="native or gateway; empty: gateway where LLM_PROXY_URL is set, else native"),
]
ModelName = Annotated[str, Meta(min_length=1, description="the name of a model")]
Secret = Annotated[str, Meta(pattern=r"^[\x21-\x7e]*$", description="visible ASCII characters")]
KeysUrl = Annotated[
    str,
    Meta(pattern=r"^(https?://[^\s/]+\S*)?$", description="the http(s) URL of a JSON Web Key Set"),
]
Claim = Annotated[str, Meta(description="what a claim of a JWT must be")]
Share = Annotated[int, Meta(ge=1, le=10**6, description="a whole number from 1 to 1000000")]
Retries = Annotated[int, Meta(ge=0, le=20, description="a whole number from 0 to 20")]

# A century bounds what is meant as an age. Not 0: it would delete everything at once.
SomeDays = Annotated[
    float, Meta(gt=0, le=36_525, description="days, more than 0 and at most 36525; empty: for ever")
]
Days = SomeDays | None

SWITCH_WORDS = {"on": True, "off": False}

# Settings of the earlier service that mean nothing here.
FOREIGN = frozenset(
    PREFIX + name
    for name in (
        "GATEWAY_URL",
        "MAX_CONCURRENT_REQUESTS",
        "MULTI_AGENT_MODE",
        "REQUEST_TIMEOUT",
        "VERSION",
    )
)


class Settings(Struct, frozen=True, kw_only=True):
    """All settings, checked. Times are in seconds and sizes in bytes unless a name says otherwise."""

    db_url: DatabaseUrl = "sqlite:///data/agent_runtime.db"
    host: Host = "127.0.0.1"
    port: Port = 8001
    allowed_hosts: HostNames = ""
    durability: DurabilityName = "committed"
    flush_interval: Seconds = 5.0
    max_pending_bytes: Bytes = 64 * MIB
    write_timeout: Seconds = 10.0
    pool_min: Connections = 2
    pool_max: Connections = 10
    pool_timeout: Seconds = 5.0
    command_timeout: Seconds = 30.0
    cache_bytes: CacheBytes = 64 * MIB
    max_body_bytes: Bytes = 8 * MIB
    read_timeout: Seconds = 20.0
    client_requests: Share = 4096
    client_streams: Share = 10_000
    client_bytes: Bytes = 128 * MIB
    internal_api_key: Secret = ""
    auth_jwks_url: KeysUrl = ""
    auth_issuer: Claim = ""
    auth_audience: Claim = ""
    migrate: MigrateMode = "auto"
    shutdown_timeout: Seconds = 30.0
    slow_query_ms: Milliseconds = 100.0
    log_level: LogLevel = "INFO"
    log_format: LogFormat = "text"
    access_log: Switch = True
    agents_file: AgentsFile = ""
    llm_url: ModelUrl = ""
    llm_proxy_url: ProxyUrl = ""
    llm_auth_header: HeaderName = "Authorization"
    llm_stream: Switch = True
    stream_dialect: DialectName = ""
    llm_api_key: Secret = ""
    llm_model: ModelName = "gpt-4o-mini"
    llm_connect_timeout: Seconds = 10.0
    llm_timeout: Seconds = 60.0
    llm_retries: Retries = 3
    search: Switch = True
    turn_events_kept: Seconds = 86_400.0
    retain_idle_days: Days = None
    retain_deleted_days: Days = None

    def __post_init__(self) -> None:
        if self.pool_min > self.pool_max:
            raise SettingsError(
                f"{PREFIX}POOL_MIN is {self.pool_min}, which is more than {PREFIX}POOL_MAX, {self.pool_max}"
            )

        self._check_issuer()
        if self.llm_api_key and "@" in urlsplit(self.llm_url).netloc:
            raise SettingsError(
                f"{PREFIX}LLM_URL has a user in it, and {PREFIX}LLM_API_KEY is set; one of them must go"
            )

        if self.llm_url and self.llm_proxy_url:
            raise SettingsError(
                f"{PREFIX}LLM_URL and {PREFIX}LLM_PROXY_URL are both set, and there is one language model; "
                "one of them must go"
            )

    @property
    def dialect(self) -> Literal["native", "gateway"]:
        """The dialect of the stream of a turn."""
        return self.stream_dialect or ("gateway" if self.llm_proxy_url else "native")

    def _check_issuer(self) -> None:
        """A JWT is taken from one issuer, for one audience: else one made for another service would do."""
        parts = ("auth_jwks_url", "auth_issuer", "auth_audience")
        given = [name for name in parts if getattr(self, name)]
        if given and len(given) < len(parts):
            missing = next(name for name in parts if name not in given)
            raise SettingsError(
                f"{PREFIX}{missing.upper()} is not set, and {PREFIX}{given[0].upper()} is: "
                "JWTs need AUTH_JWKS_URL, AUTH_ISSUER and AUTH_AUDIENCE"
            )

    def __repr__(self) -> str:
        shown = {
            **msgspec.structs.asdict(self),
            "db_url": redact_url(self.db_url),
            "llm_url": redact_url(self.llm_url),
            "llm_proxy_url": redact_url(self.llm_proxy_url),
            "auth_jwks_url": redact_url(self.auth_jwks_url),
            "llm_api_key": "***" if self.llm_api_key else "",
            "internal_api_key": "***" if self.internal_api_key else "",
        }
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """The settings that the variables give, and the defaults for the rest.

        Variables of the earlier service that mean nothing here are ignored: see `foreign_variables`. Raises
        SettingsError for another variable with our prefix that does not exist, and for a wrong value.
        """
        types = get_type_hints(cls, include_extras=True)
        known = {PREFIX + name.upper(): name for name in cls.__struct_fields__}
        given = {
            name: text
            for name, text in environ.items()
            if name.upper().startswith(PREFIX) and name.upper() not in FOREIGN
        }
        for variable in sorted(given.keys() - known.keys()):
            raise SettingsError(f"{variable} is not a setting; the nearest is {_nearest(variable, known)}")
        return cls(**{known[name]: _parse(name, text, types[known[name]]) for name, text in given.items()})


DEFAULTS = Settings()


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables that are set for the earlier service and mean something that is not done here."""
    found = [name for name in sorted(environ) if name.upper() in FOREIGN and environ[name]]
    # What this one asks for is what happens here.
    usual = PREFIX + "MULTI_AGENT_MODE"
    return [name for name in found if not (name.upper() == usual and environ[name].lower() in ("true", "1"))]


def _nearest(variable: str, known: Mapping[str, str]) -> str:
    return difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0)[0]


def _parse(variable: str, text: str, wanted: Any) -> Any:
    """The value that a variable's text stands for. Raises SettingsError."""
    value = SWITCH_WORDS.get(text, text) if wanted is Switch else text
    if wanted == Days:
        if not text.strip():
            return None
        wanted = SomeDays
    try:
        return msgspec.convert(value, wanted, strict=wanted is Switch)
    except msgspec.ValidationError:
        right = wanted.__metadata__[0].description
        shown = "***" if wanted is Secret else redact_url(text)
        # The cause would carry nothing more, and the value must not be shown with its password.
        raise SettingsError(f"{variable} is {shown!r}; it must be {right}") from None


def redact_url(url: str) -> str:
    """The URL without its passwords: neither that of the user nor one among the parameters."""
    url = re.sub(r"^((?:[\w+]*://)?[^:@/]*):(?!//).*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"(password=)('[^']*'|[^&\s]*)", r"\1***", url, flags=re.IGNORECASE)
