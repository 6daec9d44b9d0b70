"""Resumable download of single files from the Hugging Face hub.

Uses huggingface_hub for addresses, tokens and its client; only its download is our own, as it keeps nothing of one that
was cut off. Knows no model.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ground.errors import EngineError, RequestError
from models.checkpoints.manifest import HubFile

STALLED_S = 60.0
HINTS = {401: " (a token may be needed: HF_TOKEN)", 403: " (accept its conditions on its page)"}


@dataclass(frozen=True, slots=True)
class Remote:
    """url: at the commit that was looked up. etag: tells its contents from others. sha256: empty = the hub does not
    say."""

    name: str
    url: str
    size: int
    etag: str
    sha256: str
    commit: str

    def partial(self, path: Path) -> Path:
        """What is there of it so far; of other contents it would have another name."""
        return path.with_name(f"{path.name}.{hashlib.sha256(self.etag.encode()).hexdigest()[:12]}.partial")

    def there(self, path: Path) -> int:
        found = path if path.is_file() else self.partial(path)
        return found.stat().st_size if found.is_file() else 0


class Hub:
    """endpoint: None = as huggingface_hub is told (HF_ENDPOINT). Raises EngineError ``no_hub``, RequestError
    ``invalid_endpoint``."""

    def __init__(self, endpoint: str | None = None) -> None:
        try:
            import huggingface_hub
            from huggingface_hub.constants import ENDPOINT

            self._endpoint = endpoint or _checked(ENDPOINT)
        except ImportError as error:
            raise EngineError(
                "no_hub", "fetching needs the package huggingface_hub: pip install 'knotcast[hub]'"
            ) from error
        except ValueError as error:  # some the library itself chokes on when it is imported
            raise RequestError(
                "invalid_endpoint", f"HF_ENDPOINT must be an address as https://huggingface.co is: {error}"
            ) from error
        self._hub: Any = huggingface_hub

    def look_up(self, file: HubFile) -> Remote:
        """Raises EngineError ``hub_unreachable``, ``hub_refused``; ``checkpoint_mismatch`` where the hub's file is not
        the one that the table speaks of."""
        url = self._hub.hf_hub_url(file.repository, file.path, endpoint=self._endpoint)
        try:
            found = self._hub.get_hf_file_metadata(url, endpoint=self._endpoint)
        except (OSError, self._hub.errors.HTTPError) as error:
            raise self._failure(file.path, file.repository, error) from error
        if not (found.etag and found.size is not None and found.commit_hash):
            raise EngineError("hub_refused", f"the hub does not say what {file.path} of {file.repository} is")
        pinned = self._hub.hf_hub_url(file.repository, file.path, revision=found.commit_hash, endpoint=self._endpoint)
        sha256 = found.etag if re.fullmatch("[0-9a-f]{64}", found.etag) else ""
        if file.size not in (None, found.size) or (file.sha256 and sha256 not in ("", file.sha256)):
            raise EngineError(
                "checkpoint_mismatch", f"the hub's {file.path} of {file.repository} is not the file known here any more"
            )
        return Remote(file.path, pinned, found.size, found.etag, file.sha256 or sha256, found.commit_hash)

    def download(self, remote: Remote, path: Path, progress: Callable[[int], None]) -> None:
        """path is there afterwards, with the digest it should have; a part of it stays where it was cut off.

        Raises EngineError ``hub_unreachable``, ``hub_refused``, ``checkpoint_broken``.
        """
        if path.is_file() and path.stat().st_size == remote.size:
            progress(remote.size)
            return
        partial = remote.partial(path)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file:
                if (done := file.tell()) > remote.size:
                    done = file.truncate(0)
                progress(done)
                if done < remote.size:
                    self._receive(remote, file, done, progress)
        except (OSError, self._hub.errors.HTTPError) as error:
            raise self._failure(remote.name, "the hub", error) from error
        if remote.sha256 and _digest(partial) != remote.sha256:
            partial.unlink()
            raise EngineError(
                "checkpoint_broken", f"{remote.name} came with another sha256 than it should have: it was removed"
            )
        os.replace(partial, path)

    def _receive(self, remote: Remote, file: Any, done: int, progress: Callable[[int], None]) -> None:
        headers = self._hub.utils.build_hf_headers(library_name="knotcast") | {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with self._hub.get_session().stream("GET", remote.url, headers=headers, timeout=STALLED_S) as response:
            self._hub.utils.hf_raise_for_status(response)
            if done and response.status_code != 206:  # it sends all of it
                done = file.truncate(0)
            for chunk in response.iter_bytes():  # as they come: none is lost where it is cut off
                file.write(chunk)
                done += len(chunk)
                progress(done)
        if done != remote.size:
            raise ConnectionError(f"{done} of {remote.size} bytes came")

    def _failure(self, name: str, place: str, error: Exception) -> EngineError:
        response = getattr(error, "response", None)
        if response is not None:
            status = response.status_code
            return EngineError("hub_refused", f"the hub refused {name} of {place} with {status}{HINTS.get(status, '')}")
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            return EngineError("cannot_write", f"cannot write {name}: {error.strerror}")
        return EngineError(
            "hub_unreachable", f"the connection to the hub failed at {name}: try again, it goes on from where it was",
            retryable=True,
        )  # fmt: skip


def _checked(endpoint: str) -> str:
    """Raises ValueError."""
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.hostname or address.port == 0:
        raise ValueError(f"not {endpoint!r}")
    return endpoint


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
