"""Every setting of the server, read once from ``KNOTCAST_*`` variables (or arguments), frozen afterwards.

The only place that reads the environment. ``engine_config`` turns it into what the engine takes.
"""

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ground.config import EngineConfig


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
    return json.loads(text) if text.startswith("[") else [part.strip() for part in text.split(",") if part.strip()]


def _origin(value: str) -> str:
    """As a browser writes it: lower case, no path, no slash at the end."""
    origin = value.lower().removesuffix("/")
    if not re.fullmatch(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", origin):
        raise ValueError("an origin is written as https://example.org or http://localhost:3000")
    return origin


Names = Annotated[list[str], NoDecode, BeforeValidator(_listed)]
Origins = Annotated[list[Annotated[str, AfterValidator(_origin)]], NoDecode, BeforeValidator(_listed)]
Secrets = Annotated[list[SecretStr], NoDecode, BeforeValidator(_listed)]


class Settings(BaseSettings):
    """Defaults serve one person on their own machine: loopback, no key, no TLS, nothing kept after the process ends."""

    model_config = SettingsConfigDict(env_prefix="KNOTCAST_", frozen=True, extra="ignore")

    # Where it listens
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    tls: Literal["off", "self-signed"] = "off"
    allowed_hosts: Names = []  # further names by which browsers may call it
    allowed_origins: Origins = []  # further pages that may call the API, e.g. https://example.org
    api_keys: Secrets = []
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    # WebRTC
    advertised_address: str | None = None  # the public address when it stands behind 1:1 NAT
    udp_port_min: int = Field(0, ge=0, le=65535)  # 0: any free port
    udp_port_max: int = Field(0, ge=0, le=65535)
    ice_servers: list[IceServer] = []

    # Engine
    model: str = "embedded"
    device: str = "auto"
    dtype: Literal["auto", "bfloat16", "float32", "float8"] = "auto"
    workers: int = Field(1, ge=1, le=16)
    spares: int = Field(0, ge=0, le=16)  # more workers that stand by, warm
    slots: int = Field(2, ge=1, le=64)
    threads: int = Field(0, ge=0, le=256)
    random_weights: bool = False
    prompt: str = ""  # for models that attend to text
    text_embedding: str = ""  # or a file with its embedding
    preset: Literal["", "quality", "balanced", "realtime"] = ""  # of a video model
    models_dir: Path | None = None  # None: knotcast/models in the user's cache folder

    # Portraits
    data_dir: Path | None = None  # None: a temporary folder that goes when the server ends
    max_portraits: int = Field(200, ge=1)
    max_portrait_bytes: int = Field(10 * 2**20, ge=1024)
    max_portrait_pixels: int = Field(25_000_000, ge=65_536)

    # Calls
    max_sessions: int = Field(16, ge=1)
    session_ttl_s: float = Field(120.0, gt=0)
    setup_deadline_s: float = Field(15.0, gt=0)
    heartbeat_s: float = Field(6.0, gt=0)
    max_call_s: float = Field(3600.0, gt=0)
    delay_ms: int = Field(0, ge=0, le=5000)  # 0: from the model's chunk and its measured cost
    max_say_seconds: float = Field(120.0, gt=0)

    # Measurement: number every generated picture in its lowest rows (server/call/stamp.py)
    stamp_frames: bool = False

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.udp_port_max < self.udp_port_min:
            raise ValueError("udp_port_max must not lie below udp_port_min")
        if self.advertised_address is not None:
            ipaddress.ip_address(self.advertised_address)
        return self

    @property
    def loopback(self) -> bool:
        """Only this machine can reach the HTTP port."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


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
