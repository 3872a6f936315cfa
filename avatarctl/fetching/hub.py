"""List the files of a repository with sizes and hashes, and explain what went wrong with the hub."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from avatarctl import __version__, console
from avatarctl.errors import AvatarError, WeightsError

# What passes by itself: asked too often, or trouble at the hub.
PASSING = (408, 429, 500, 502, 503, 504)
WAITS_S = (1, 2, 4, 8)
LONGEST_WAIT_S = 120
ANSWER_S = 15.0  # a hub that says nothing for so long won't
GO_ON = "run the same command again to resume"
# What the library and the network raise for what a user can meet.
HUB_ERRORS = (HfHubHTTPError, OfflineModeIsEnabled, httpx2.TransportError, httpx2.InvalidURL, httpx2.TooManyRedirects)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Remote:
    """A file as the hub tells of it. Large files have a SHA-256, small ones the id that git gives their content."""

    path: str
    size: int
    sha256: str | None
    git_id: str
    below: str = ""  # the folder that its path begins with here, and not in the repository

    @property
    def name(self) -> str:
        """The path within the repository."""
        return self.path.removeprefix(f"{self.below}/") if self.below else self.path

    @property
    def content(self) -> str:
        """Return what names the content: the same for the same bytes."""
        return self.sha256 or self.git_id


def api() -> HfApi:
    """Return the hub's client: endpoint, token and offline mode are those of ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` …"""
    return HfApi(library_name="avatarctl", library_version=__version__)


def list_files(repo: str, revision: str, below: str = "") -> tuple[str, list[Remote]]:
    """Return the commit that ``revision`` stands for, and its files, under the folder ``below``; raises ``WeightsError``."""
    try:
        console.note(f"asking {constants.ENDPOINT} what {repo} consists of")
        info = patiently(lambda: api().model_info(repo, revision=revision, files_metadata=True, timeout=ANSWER_S))
    except HUB_ERRORS as error:
        raise explain(error, repo, f"revision {revision}") from error
    except (ValueError, KeyError, TypeError) as error:  # no JSON, or JSON of another kind
        raise _no_hub() from error
    files = []
    for each in info.siblings or []:
        if each.size is None or each.blob_id is None:
            raise _no_hub()
        path = f"{below}/{each.rfilename}" if below else each.rfilename
        files.append(Remote(path, each.size, each.lfs.sha256 if each.lfs else None, each.blob_id, below))
    if not info.sha:
        raise _no_hub()
    return info.sha, files


def _no_hub() -> WeightsError:
    return WeightsError(
        f"{constants.ENDPOINT}: got an answer that is not a model hub's",
        "check HF_ENDPOINT, the proxy and the firewall",
    )


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask again, a few times, when the hub says that it is busy; waits as long as it says, within reason."""
    for tried in range(len(WAITS_S) + 1):
        try:
            return ask()
        except HfHubHTTPError as error:
            wait_or_raise(error, tried)
    raise AssertionError("the last try raises")


def wait_or_raise(error: HfHubHTTPError, tried: int) -> None:
    """Wait before another try, or raise the error when waiting doesn't help or was done often enough."""
    wait_s = retry_after_s(error)
    if error.response.status_code not in PASSING or tried >= len(WAITS_S) or (wait_s or 0) > LONGEST_WAIT_S:
        raise error
    wait_s = WAITS_S[tried] if wait_s is None else wait_s
    console.note(f"the hub answers {error.response.status_code}; trying again in {wait_s} s")
    time.sleep(wait_s)


def retry_after_s(error: HfHubHTTPError) -> int | None:
    """Return how many seconds the hub asks to wait, if it says so in seconds."""
    asked = error.response.headers.get("Retry-After", "").strip()
    return int(asked) if asked.isdecimal() else None


def explain(error: Exception, repo: str, what: str) -> AvatarError:
    """Say in words what the hub or the network answered to a request for ``what`` of a repository, and what helps."""
    where = f"{repo}, {what}"
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, OfflineModeIsEnabled):
        return WeightsError(
            f"{where}: got HF_HUB_OFFLINE set, expected leave to use the network",
            "unset HF_HUB_OFFLINE, or take files that are on this machine: avatarctl fetch --from FOLDER",
        )
    if not isinstance(error, HfHubHTTPError):
        said = str(error) or type(error).__name__
        kind = "no answer in time" if isinstance(error, httpx2.TimeoutException) else f"no connection ({said})"
        return WeightsError(
            f"{constants.ENDPOINT}: got {kind} for {where}",
            f"check the network, HTTPS_PROXY and HF_ENDPOINT; {GO_ON}",
        )
    code = error.response.status_code
    if isinstance(error, GatedRepoError):
        return WeightsError(
            f"{where}: got {code}, this repository asks for consent to its terms",
            f"agree to them on {page}, then set HF_TOKEN to a token of that account",
        )
    if isinstance(error, RevisionNotFoundError):
        return WeightsError(f"{where}: got {code}, the hub has no such revision", "avatarctl fetch --revision main")
    if isinstance(error, RemoteEntryNotFoundError):
        return WeightsError(f"{where}: got {code}, the hub has no such file", "avatarctl fetch --revision main")
    if code == 401:
        return WeightsError(
            f"{where}: got 401, the hub doesn't know who asks, or has no such repository at {page}",
            "set HF_TOKEN to a valid token, or unset it and remove the stored one (`hf auth logout`)",
        )
    if code == 403:
        return WeightsError(
            f"{where}: got 403, the token may not read this repository",
            f"set HF_TOKEN to a token with the right to read {page}",
        )
    if code == 404 or isinstance(error, RepositoryNotFoundError):
        return WeightsError(
            f"{where}: got 404, there is no such repository at {page}",
            "check HF_ENDPOINT; for a private copy, set HF_TOKEN",
        )
    if code == 429:
        wait_s = retry_after_s(error)
        after = f"wait {wait_s} s" if wait_s else "wait some minutes"
        return WeightsError(
            f"{where}: got 429, the hub was asked too often from here",
            f"{after}, or set HF_TOKEN, which allows more; {GO_ON}",
        )
    return WeightsError(f"{where}: got {code} from {constants.ENDPOINT}", f"try again later; {GO_ON}")
