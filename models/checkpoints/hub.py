"""Resumable download of single files from the Hugging Face hub.

huggingface_hub provides addresses, tokens and the HTTP client. The download itself is our own because the library
discards an interrupted one. Independent of any model.
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
    """Metadata of a file on the hub.

    name: its path in the repository. url: address at the commit that was looked up. size: bytes. etag: changes with the
    contents. sha256: digest in hexadecimal, empty if unknown.
    """

    name: str
    url: str
    size: int
    etag: str
    sha256: str
    commit: str

    def partial(self, path: Path) -> Path:
        """Path of the partial download. The name contains a hash of the etag, so that a changed file does not continue
        an old part."""
        return path.with_name(f"{path.name}.{hashlib.sha256(self.etag.encode()).hexdigest()[:12]}.partial")

    def there(self, path: Path) -> int:
        """Bytes already on disk, of the complete file or of the partial download."""
        found = path if path.is_file() else self.partial(path)
        return found.stat().st_size if found.is_file() else 0


class Hub:
    """Client of the Hugging Face hub.

    endpoint: base URL; None takes that of huggingface_hub (HF_ENDPOINT). Raises EngineError ``no_hub`` if the package
    is not installed, RequestError ``invalid_endpoint``.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        try:
            import huggingface_hub
            from huggingface_hub.constants import ENDPOINT

            self._endpoint = endpoint or _checked(ENDPOINT)
        except ImportError as error:
            raise EngineError(
                "no_hub", "fetching needs the package huggingface_hub: pip install 'knotcast[hub]'"
            ) from error
        except ValueError as error:  # for some endpoints the import of the library itself fails
            raise RequestError(
                "invalid_endpoint", f"HF_ENDPOINT must be a URL like https://huggingface.co: {error}"
            ) from error
        self._hub: Any = huggingface_hub

    def look_up(self, file: HubFile) -> Remote:
        """Get the metadata of a file in the manifest. Raises EngineError ``hub_unreachable``, ``hub_refused``, and
        ``checkpoint_mismatch`` if size or sha256 differ from the manifest."""
        url = self._hub.hf_hub_url(file.repository, file.path, endpoint=self._endpoint)
        try:
            found = self._hub.get_hf_file_metadata(url, endpoint=self._endpoint)
        except (OSError, self._hub.errors.HTTPError) as error:
            raise self._failure(file.path, file.repository, error) from error
        if not (found.etag and found.size is not None and found.commit_hash):
            raise EngineError(
                "hub_refused", f"the hub's answer on {file.path} of {file.repository} lacks etag, size or commit"
            )
        pinned = self._hub.hf_hub_url(file.repository, file.path, revision=found.commit_hash, endpoint=self._endpoint)
        sha256 = found.etag if re.fullmatch("[0-9a-f]{64}", found.etag) else ""
        if file.size not in (None, found.size) or (file.sha256 and sha256 not in ("", file.sha256)):
            raise EngineError(
                "checkpoint_mismatch", f"{file.path} of {file.repository} has changed on the hub: get a newer knotcast"
            )
        return Remote(file.path, pinned, found.size, found.etag, file.sha256 or sha256, found.commit_hash)

    def download(self, remote: Remote, path: Path, progress: Callable[[int], None]) -> None:
        """Download a file to `path` and verify its sha256. An interrupted download stays on disk and is resumed by the
        next call. progress: called with the bytes received so far.

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
            raise self._failure(remote.name, "its repository", error) from error
        if remote.sha256 and _digest(partial) != remote.sha256:
            partial.unlink()
            raise EngineError(
                "checkpoint_broken", f"the downloaded {remote.name} has a wrong sha256 and was deleted: fetch it again"
            )
        os.replace(partial, path)

    def _receive(self, remote: Remote, file: Any, done: int, progress: Callable[[int], None]) -> None:
        headers = self._hub.utils.build_hf_headers(library_name="knotcast") | {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        with self._hub.get_session().stream("GET", remote.url, headers=headers, timeout=STALLED_S) as response:
            self._hub.utils.hf_raise_for_status(response)
            if done and response.status_code != 206:  # the server ignored Range and sends the whole file
                done = file.truncate(0)
            for (
                chunk
            ) in response.iter_bytes():  # without a chunk size nothing is buffered, so an interruption loses no bytes
                file.write(chunk)
                done += len(chunk)
                progress(done)
        if done != remote.size:
            raise ConnectionError(f"received {done} of {remote.size} bytes")

    def _failure(self, name: str, place: str, error: Exception) -> EngineError:
        response = getattr(error, "response", None)
        if response is not None:
            status = response.status_code
            return EngineError("hub_refused", f"the hub refused {name} of {place} with {status}{HINTS.get(status, '')}")
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            return EngineError("cannot_write", f"cannot write {name}: {error.strerror}")
        return EngineError(
            "hub_unreachable", f"the connection to the hub failed at {name}: try again, the download resumes",
            retryable=True,
        )  # fmt: skip


def _checked(endpoint: str) -> str:
    """Require an http or https URL with a host. Raises ValueError."""
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.hostname or address.port == 0:
        raise ValueError(f"not {endpoint!r}")
    return endpoint


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
