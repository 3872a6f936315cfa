"""Download one file of the hub piece by piece over cut connections, and compare its hash."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from avatarctl import __version__, console, durable
from avatarctl.errors import AvatarError, DeviceError, WeightsError
from avatarctl.fetching.hub import GO_ON, HUB_ERRORS, WAITS_S, Remote, explain, wait_or_raise
from avatarctl.fetching.record import ELSEWHERE, MAKE_ROOM

CHUNK = 1 << 20
LARGE = 10 * CHUNK  # from here on the hub's own machinery is worth its beginning
Received = Callable[[int], None]  # bytes more (fewer, when some had to be thrown away)


def through_hub(repo: str, commit: str, remote: Remote, received: Received) -> Path | None:
    """Download a large file with the hub's own machinery into the hub's own cache, where other programs find it too.

    That is done for files which the hub serves in chunks (hf_xet: many at once, and none twice); None for all others,
    for small ones, and where HF_HUB_DISABLE_XET is set. What was received stays in its cache when the process is killed.
    """
    if constants.HF_HUB_DISABLE_XET or remote.sha256 is None or remote.size < LARGE or find_spec("hf_xet") is None:
        return None
    try:
        # A look at the file alone: a store without chunks, or an answer of another kind, is left to plain HTTP.
        about = get_hf_file_metadata(
            hf_hub_url(repo, remote.name, revision=commit), library_name="avatarctl", library_version=__version__
        )
    except (*HUB_ERRORS, ValueError):
        return None
    if about.xet_file_data is None:
        return None
    try:
        path = hf_hub_download(
            repo,
            remote.name,
            revision=commit,
            tqdm_class=_counter(received),
            library_name="avatarctl",
            library_version=__version__,
        )
    except HUB_ERRORS as error:
        raise explain(error, repo, remote.path) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DeviceError(f"{constants.HF_HUB_CACHE}: the disk is full", f"{MAKE_ROOM}, or set HF_HOME") from error
        raise
    return Path(path).resolve()


def _counter(received: Received) -> type[Any]:
    """Return what the hub's library counts bytes with: it draws nothing."""
    from tqdm.auto import tqdm

    class Counter(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, count: float | None = 1) -> None:
            received(int(count or 0))

    return Counter


def receive(repo: str, commit: str, remote: Remote, part: Path, received: Received) -> None:
    """Fill ``part`` until it has all bytes of ``remote``, going on after what it holds.

    A cut connection is taken up again for as long as each new one brings something. Plain HTTP with ranges: what was
    received stays when the process is killed. Raises ``WeightsError`` for what the hub answers, ``DeviceError`` for a
    full disk.
    """
    tried = 0
    while (before := _size(part)) != remote.size:
        problem: AvatarError | None = None
        try:
            _receive_some(repo, commit, remote, part, received)
        except HfHubHTTPError as error:
            try:
                wait_or_raise(error, tried)
            except HfHubHTTPError as final:
                raise explain(final, repo, remote.path) from final
        except httpx2.TransportError as error:
            problem = explain(error, repo, remote.path)
        except HUB_ERRORS as error:
            raise explain(error, repo, remote.path) from error
        have = _size(part)
        if have != before:
            tried = 0
        elif tried < len(WAITS_S):
            tried += 1
        else:
            raise problem or WeightsError(f"{remote.path}: got nothing after {have} of {remote.size} bytes", GO_ON)
        if problem:
            console.note(f"{remote.path}: the connection was cut at {have} of {remote.size} bytes; continuing")
            time.sleep(WAITS_S[tried - 1] if tried else 0)


def _receive_some(repo: str, commit: str, remote: Remote, part: Path, received: Received) -> None:
    """Ask once for what is missing and append what comes."""
    have = _size(part)
    if have > remote.size:
        part.unlink()
        received(-have)
        have = 0
    url = hf_hub_url(repo, remote.name, revision=commit)
    # Compressed answers would make bytes and ranges mean something else.
    headers = {**build_hf_headers(library_name="avatarctl", library_version=__version__), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    stream = get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with stream as response:
        if response.status_code == 416:  # what is there can't be gone on with
            part.unlink(missing_ok=True)
            received(-have)
            return
        hf_raise_for_status(response)
        going_on = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        with durable.guarded(part, MAKE_ROOM, ELSEWHERE), part.open("ab" if going_on else "wb") as file:
            if have and not going_on:
                received(-have)
            for piece in response.iter_raw():  # as they come: what is gathered first is lost with the connection
                if file.tell() + len(piece) > remote.size:
                    raise WeightsError(f"{remote.path}: got more than the {remote.size} bytes that the hub tells of")
                file.write(piece)
                file.flush()  # a kill loses nothing
                received(len(piece))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def matches(path: Path, remote: Remote) -> str | None:
    """Return the SHA-256 of a file if it has the bytes that the hub tells of, else None."""
    if path.stat().st_size != remote.size:
        return None
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if remote.sha256 is not None:
            return sha256 if sha256 == remote.sha256 else None
        file.seek(0)
        # Git's name of a blob: SHA-1 over a header with the length, and the bytes.
        whole = hashlib.sha1(f"blob {remote.size}\0".encode(), usedforsecurity=False)
        while piece := file.read(CHUNK):
            whole.update(piece)
    return sha256 if whole.hexdigest() == remote.git_id else None
