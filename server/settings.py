"""Settings of the server: read once from ``KNOTCAST_*`` variables or arguments, validated, then frozen.

No other module reads the environment. ``engine_config`` makes the engine's configuration of them;
server/settings_page.py makes docs/settings.md of their descriptions.
"""

import ipaddress
import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from ground.config import EngineConfig
from ground.errors import RequestError

LEAST_VIDEO_KBPS = 150


class IceServer(BaseModel, frozen=True):
    """A STUN or TURN server, as the browser's RTCIceServer."""

    urls: list[str]
    username: str | None = None
    credential: str | None = None


def _listed(value: object) -> object:
    """A list in a variable is JSON, or just names with commas between them."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError("this begins like a JSON list, and is none") from None
    return [part.strip() for part in text.split(",") if part.strip()]


def _origin(value: str) -> str:
    """As a browser writes it: lower case, no path, no slash at the end."""
    origin = value.lower().removesuffix("/")
    if not re.fullmatch(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", origin):
        raise ValueError("an origin is written as https://example.org or http://localhost:3000")
    return origin


def _public_url(value: str) -> str:
    """Scheme, host, port and path, without a slash at the end."""
    url = value.removesuffix("/")
    host, _, path = url.partition("://")[2].partition("/")
    _origin(url.removesuffix(f"/{path}") if path else url)
    if path and not all(
        re.fullmatch(r"[A-Za-z0-9_~.-]*[A-Za-z0-9_~-][A-Za-z0-9_~.-]*", part) for part in path.split("/")
    ):
        raise ValueError("an address is written as https://example.org or https://example.org/avatar")
    return f"{url.partition('://')[0].lower()}://{host.lower()}" + (f"/{path}" if path else "")


Names = Annotated[list[str], NoDecode, BeforeValidator(_listed)]
Origins = Annotated[list[Annotated[str, AfterValidator(_origin)]], NoDecode, BeforeValidator(_listed)]
Secrets = Annotated[list[SecretStr], NoDecode, BeforeValidator(_listed)]


class Settings(BaseSettings):
    """Defaults serve one person on their own machine: loopback, no key, no TLS, nothing kept after the process ends."""

    model_config = SettingsConfigDict(env_prefix="KNOTCAST_", frozen=True, extra="ignore")

    # Listening
    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback asks callers for a key.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes any free one.")
    tls: Literal["off", "self-signed"] = Field(
        "off", description="`self-signed` serves HTTPS with a certificate made at start."
    )
    allowed_hosts: Names = Field([], description="Further host names by which browsers may reach this server.")
    allowed_origins: Origins = Field(
        [], description="Further web pages that may call the API by CORS, such as `https://example.org`."
    )
    public_url: Annotated[str, AfterValidator(_public_url)] | None = Field(
        None,
        description="Address of this server behind a reverse proxy, such as `https://example.org/avatar`. Callers are "
        "asked for a key then, on loopback too.",
    )
    api_keys: Secrets = Field(
        [], description="Keys that open the API. Without any, a wider bind prints one-time access links."
    )
    link_ttl_s: float = Field(
        43_200.0, gt=0, le=31_536_000,
        description="Seconds that a browser which opened an access link is known. Then its portraits are deleted.",
    )  # fmt: skip
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )

    # WebRTC
    advertised_address: str | None = Field(None, description="Public IP address when the server stands behind 1:1 NAT.")
    udp_port_min: int = Field(0, ge=0, le=65535, description="Lowest UDP port for media; 0 (both) takes any free one.")
    udp_port_max: int = Field(0, ge=0, le=65535, description="Highest UDP port for media; 0 (both) takes any free one.")
    ice_servers: list[IceServer] = Field(
        [], description="STUN and TURN servers for the browser, as a JSON list of `RTCIceServer`."
    )
    max_video_kbps: int = Field(
        0, ge=0, le=50_000,
        description="Highest video bitrate, in kb/s; 0 chooses by the size of the picture, otherwise at least 150.",
    )  # fmt: skip
    media_threads: int = Field(
        0, ge=0, le=256,
        description="Threads that encode sound and pictures; 0 takes half the cores, at least 4 and at most 32.",
    )  # fmt: skip

    # Engine
    model: str = Field("embedded", description="Model to run; `knotcast models list` names them.")
    device: str = Field("auto", description="Device of the engine: `cpu`, `cuda` or `auto`.")
    dtype: Literal["auto", "bfloat16", "float32", "float8"] = Field(
        "auto", description="Number format. `float8` is for video models on a GPU of compute capability 8.9 or higher."
    )
    workers: int = Field(1, ge=1, le=16, description="Worker processes; each loads the model once.")
    spares: int = Field(
        0, ge=0, le=16,
        description="Warm worker processes that stand by: a call whose worker is lost moves to one at once. Each takes "
        "as much memory as a worker.",
    )  # fmt: skip
    slots: int = Field(2, ge=1, le=64, description="Calls that one worker can hold at once.")
    threads: int = Field(0, ge=0, le=256, description="CPU threads of a worker; 0 takes half the cores.")
    worker_start_s: float = Field(
        180.0, gt=0, le=86_400, description="Seconds that a worker may take to load and warm its model."
    )
    prompt: str = Field("", description="Prompt for models that attend to text. Needs umT5 (docs/models.md).")
    text_embedding: str = Field(
        "", description="Safetensors file with the embedding of a prompt, in place of `PROMPT`."
    )
    preset: Literal["", "quality", "balanced", "realtime"] = Field(
        "", description="Size and decoder of a video model; unset takes what the model comes with."
    )
    models_dir: Path | None = Field(
        None, description="Folder of fetched and converted models; unset means `knotcast/models` in your cache folder."
    )

    # Portraits
    data_dir: Path | None = Field(
        None,
        description="Folder in which portraits are kept; unset means a temporary folder that is deleted at the end.",
    )
    max_portraits: int = Field(200, ge=1, description="Portraits kept at once.")
    max_portrait_bytes: int = Field(10 * 2**20, ge=1024, description="Largest picture file, in bytes.")
    max_portrait_pixels: int = Field(
        25_000_000, ge=65_536, description="Largest picture, in pixels; a JPEG may have six times as many."
    )

    # Calls
    max_sessions: int = Field(16, ge=1, description="Sessions open at once.")
    session_ttl_s: float = Field(120.0, gt=0, le=86_400, description="Seconds that a new session waits for its offer.")
    setup_deadline_s: float = Field(
        15.0, gt=0, le=3600, description="Seconds from the offer until the connection must stand."
    )
    heartbeat_s: float = Field(
        6.0, gt=0, le=3600, description="Seconds without a word from the browser that end a call."
    )
    max_call_s: float = Field(
        3600.0, ge=0, allow_inf_nan=False, description="Longest call, in seconds; 0 sets no limit."
    )
    delay_ms: int = Field(
        0, ge=0, le=5000,
        description="Milliseconds that picture and voice stand behind the caller; 0 takes the model's measured cost.",
    )  # fmt: skip
    max_say_seconds: float = Field(120.0, gt=0, le=3600, description="Longest recording for `say`, in seconds.")

    # Tests and measurements
    random_weights: bool = Field(False, description="Run the model with random weights, for tests and throughput.")
    stamp_frames: bool = Field(False, description="Number every generated picture in its lowest rows.")

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.udp_port_max < self.udp_port_min:
            raise ValueError("udp_port_max must not lie below udp_port_min")
        if self.udp_port_max and not self.udp_port_min:
            raise ValueError("a range of UDP ports needs udp_port_min as well as udp_port_max")
        if 0 < self.max_video_kbps < LEAST_VIDEO_KBPS:
            raise ValueError(f"max_video_kbps must be 0 or at least {LEAST_VIDEO_KBPS}")
        if self.advertised_address is not None:
            ipaddress.ip_address(self.advertised_address)
        return self

    @property
    def longest_call_s(self) -> float:
        """Seconds; infinity where no limit is set."""
        return self.max_call_s or math.inf

    @property
    def encoding_threads(self) -> int:
        """Size of the executor in which sound and pictures are encoded."""
        return self.media_threads or min(32, max(4, (os.cpu_count() or 1) // 2))

    @property
    def public_origin(self) -> str | None:
        """Origin of the pages at ``public_url``."""
        return None if self.public_url is None else "/".join(self.public_url.split("/")[:3])

    @property
    def root_path(self) -> str:
        """Path under which a proxy serves this server: ``/avatar``, or nothing."""
        return "" if self.public_url is None else self.public_url.removeprefix(self.public_origin or "")

    @property
    def secure(self) -> bool:
        """Browsers reach this server by HTTPS."""
        return self.tls != "off" or (self.public_url or "").startswith("https:")

    @property
    def loopback(self) -> bool:
        """Only this machine can reach the HTTP port."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_settings(**given: Any) -> Settings:
    """Settings of the environment, with ``given`` in front of it. Raises RequestError ``invalid_settings``."""
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        where = (
            "settings" if not name else f"--{name.replace('_', '-')}" if name in given else f"KNOTCAST_{name.upper()}"
        )
        words = str(first["msg"]).removeprefix("Value error, ")
        raise RequestError("invalid_settings", f"{where}: {words}", param=name or None) from error
    except SettingsError as error:  # a list or an object that is not JSON
        field = re.search(r'field "(\w+)"', str(error))
        where = f"KNOTCAST_{field[1].upper()}" if field else "settings"
        raise RequestError("invalid_settings", f"{where}: this is not JSON") from error


def engine_config(settings: Settings) -> EngineConfig:
    """What one worker process runs under these settings."""
    return EngineConfig(
        model=settings.model,
        device=settings.device,
        dtype=settings.dtype,
        slots=settings.slots,
        threads=settings.threads,
        random_weights=settings.random_weights,
        prompt=settings.prompt,
        text=settings.text_embedding,
        models_dir=models_folder(settings.models_dir),
        preset=settings.preset,
    )


def models_folder(given: Path | None) -> str:
    """Where models lie: as given, else in the user's cache folder (XDG_CACHE_HOME)."""
    if given is not None:
        return str(given.expanduser())
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return str((Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "knotcast" / "models")
