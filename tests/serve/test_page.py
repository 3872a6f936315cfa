"""Tests of the page in a real Chromium: filled, watched, played, paused, reordered, reloaded; and read by axe-core."""

from __future__ import annotations

import os
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import PICTURE, VOICE, Running, quick, wait_for

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
AXE = Path(os.environ.get("AXE_CORE", Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"))
playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium isn't installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as play:
        words = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream",
                 "--use-fake-ui-for-media-stream"]  # fmt: skip
        made = play.chromium.launch(executable_path=CHROMIUM, args=words)
        yield made
        made.close()


class Errors(list[str]):
    """What a page complains of: errors of scripts, and requests to anywhere but its server."""

    def watch(self, page: Any, address: str) -> None:
        page.on("pageerror", lambda error: self.append(f"error: {error}"))
        page.on("console", lambda said: self._hear(said.text) if said.type == "error" else None)
        page.on("request", lambda request: self._look(request.url, address))

    def _hear(self, text: str) -> None:
        if not text.startswith("Failed to load resource"):  # an answer that says no, which the page shows
            self.append(text)

    def _look(self, url: str, address: str) -> None:
        if not url.startswith((address, "blob:", "data:")):
            self.append(f"asked {url}")


@pytest.fixture(scope="module")
def shared(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for all tests of the page."""
    running = Running(home, tmp_path_factory.mktemp("page") / "jobs").start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    """The server, without jobs; those of a test are removed after it."""
    yield shared
    for name in shared.all():
        shared.client.delete(f"/v1/videos/{name}")
    wait_for(lambda: not list(shared.folder.glob("video_*")))


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
    made = context.new_page()
    made.set_default_timeout(90_000)
    errors = Errors()
    errors.watch(made, server.address)
    made.goto(server.address)
    made.wait_for_selector("#preset option", state="attached")
    yield made
    context.close()
    assert errors == []


def until(page: Any, what: str, seconds: float = 120) -> None:
    """Wait until an expression is true in the page. (Playwright's own way needs eval, which the page forbids.)"""

    def there() -> bool:
        try:
            return bool(page.evaluate(what))
        except playwright_api.Error:  # in the middle of being loaded again
            return False

    wait_for(there, seconds)


def fill(page: Any) -> None:
    page.set_input_files("#picture", str(PICTURE))
    until(page, "document.querySelector('#picture-note').textContent.includes('is used')")
    assert page.locator("#crop-drawing .crop").count() == 1
    page.set_input_files("#voice", str(VOICE))
    until(page, "document.querySelector('#estimate').textContent.includes('of video')")


def more(page: Any, **values: str) -> None:
    page.eval_on_selector("form details", "element => { element.open = true; }")
    for name, value in values.items():
        page.fill(f"#form [name={name}]", value)


def show_face(page: Any) -> None:
    """Let the page frame the picture around its face."""
    more(page)
    page.select_option("#form [name=fit]", "face")
    until(page, "document.querySelectorAll('#crop-drawing .face').length === 1")


def row(page: Any, name: str) -> Any:
    return page.locator(f".job[data-id='{name}']")


def test_a_video_is_queued_watched_and_played(page: Any, server: Running) -> None:
    fill(page)
    show_face(page)
    said = page.text_content("#picture-note")
    assert "around the face" in said and "the picture: the head is cut off" in said and "spool" not in said
    page.select_option("#form [name=fit]", "")
    more(page, duration="2", steps="12")
    page.click("#queue")
    [name] = wait_for(lambda: list(server.all()), 20)
    mine = row(page, name)
    until(page, "document.querySelector('.job .status')?.textContent.includes('%')")
    page.reload()  # in the middle
    mine.get_by_role("button", name="Pause").click()
    until(page, "document.querySelector('.job .status').textContent.startsWith('Paused')")
    mine.get_by_role("button", name="Resume").click()
    until(page, "document.querySelector('.job').dataset.status === 'completed'")
    mine.get_by_role("button", name="Play").click()
    until(page, "document.querySelector('video').currentTime > 0.3")
    facts = page.eval_on_selector("video", "v => [v.duration, v.videoWidth, v.webkitAudioDecodedByteCount]")
    assert facts[0] == pytest.approx(2, abs=0.1) and facts[1] == 512 and facts[2] > 0  # the sound is decoded
    with page.expect_download() as download:
        mine.get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_bytes() == server.content(name)
    mine.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete", exact=True).last.click()
    wait_for(lambda: not server.all(), 20)
    page.wait_for_selector("#empty:not([hidden])")


def test_what_is_finished_plays_while_the_rest_is_rendered(page: Any, server: Running, tmp_path: Path) -> None:
    with wave.open(str(VOICE)) as read, wave.open(str(tmp_path / "long.wav"), "wb") as written:
        written.setparams(read.getparams())
        written.writeframes(5 * read.readframes(read.getnframes()))
    fields = {
        "size": "64x64",
        "segment_latent_frames": "4",
        "checkpoint_every": "0",
        "steps": "8",
        "window": "9",
        "overlap": "2",
    }
    name = server.create(voice=tmp_path / "long.wav", model="puppet", **fields)["id"]
    mine = row(page, name)
    mine.get_by_role("button", name="Watch what is finished").click(timeout=150_000)
    until(page, "document.querySelector('video')?.currentTime > 0.2")
    assert server.get(name)["status"] == "in_progress"
    server.until(name, "completed")  # in the middle of the view, which continues with the pictures of the video
    until(page, "document.querySelector('video').currentTime > 4")
    facts = page.eval_on_selector("video", "v => [v.videoWidth, v.webkitAudioDecodedByteCount, v.error]")
    assert facts[0] == 256 and facts[1] > 0 and facts[2] is None


def test_the_line_is_reordered_and_jobs_are_cancelled_by_keyboard(page: Any, server: Running) -> None:
    server.create(**quick(seconds="4", steps="100"))
    one, two = (server.create(**quick(seed=str(n)))["id"] for n in range(2))
    page.wait_for_selector(f".job[data-id='{two}']")
    until(page, "document.querySelectorAll('.job[data-status=queued]').length === 2")
    button = row(page, two).get_by_role("button", name="Earlier")
    button.focus()
    page.keyboard.press("Enter")
    wait_for(lambda: server.get(two)["detail"]["position"] == 1, 10)
    assert page.evaluate("document.activeElement.closest('.job')?.dataset.id") == two  # focus stays
    cancel = row(page, one).get_by_role("button", name="Cancel")
    cancel.focus()
    page.keyboard.press("Space")
    page.wait_for_selector(f".job[data-id='{one}'][data-state='cancelled']")
    row(page, one).get_by_role("button", name="Try again").click()
    wait_for(lambda: server.get(one)["status"] == "queued", 10)


def test_samples_record_and_mistakes(page: Any, server: Running) -> None:
    page.click("#queue")
    assert "voice" in page.text_content("#form-error")
    page.click("#sample")
    until(page, "document.querySelector('#estimate').textContent.includes('of video')")
    page.click("#record")
    until(page, "document.querySelector('#record-time').textContent >= '0:02'")
    page.click("#record")
    until(page, "document.querySelector('#voice-note').textContent.startsWith('recording.')")
    until(page, "document.querySelector('#estimate').textContent.includes('of video')")
    more(page, size="65x65")
    page.click("#queue")
    until(page, "document.querySelector('#form-error').textContent.includes('divisible by 16')")
    more(page, size="", duration="0.5", steps="1")
    page.click("#queue")
    [name] = wait_for(lambda: list(server.all()), 20)
    server.until(name, "completed")
    page.set_input_files("#picture", str(VOICE))
    until(page, "document.querySelector('#form-error').textContent.includes('recording')")


@pytest.mark.long
def test_a_finished_video_is_measured(page: Any, server: Running) -> None:
    name = server.create(**quick())["id"]
    row(page, name).get_by_role("button", name="Measure").click()
    until(page, "document.querySelector('.job dl').textContent.includes('being measured')")
    until(page, "document.querySelector('.job dl').textContent.includes('Lips follow the voice')", 600)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_nothing_serious_for_axe_and_phones(
    browser: Any, server: Running, width: int, scheme: str, tmp_path: Path
) -> None:
    if not AXE.is_file():
        pytest.skip(f"axe-core isn't installed (npm install axe-core): {AXE}")
    done, failed = server.create(**quick())["id"], server.create(**quick(seconds="1"))["id"]
    server.post(f"/v1/videos/{failed}/cancel")
    server.until(done, "completed")
    server.create(**quick(seconds="4", steps="100"))
    server.create(**quick(seconds="5", steps="8"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.goto(server.address)
    fill(page)
    page.wait_for_selector(f".job[data-id='{done}'] button[data-verb=watch]:not([hidden])")
    row(page, done).locator("details").evaluate("element => { element.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing is cut off or scrolls sideways
    page.add_script_tag(path=str(AXE))
    for _ in range(2):
        found = page.evaluate("axe.run().then(found => found.violations)")
        serious = [
            (each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")
        ]
        assert serious == []
        page.goto(f"{server.address}/docs")
        page.wait_for_selector("h2")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.add_script_tag(path=str(AXE))
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/docs-{width}-{scheme}.png")
        page.goto(server.address)
        fill(page)
        show_face(page)
        page.wait_for_selector(".job[data-status=completed]")
        until(page, "document.querySelector('.job .status')?.textContent.includes('%')")
        page.screenshot(path=f"{folder}/page-{width}-{scheme}.png", full_page=True)
        row(page, done).get_by_role("button", name="Play").click()
        until(page, "document.querySelector('video').currentTime > 0.2")
        row(page, done).screenshot(path=f"{folder}/playing-{width}-{scheme}.png")
    context.close()


def test_a_token_is_asked_for(browser: Any, own: Any) -> None:
    server = own("--token", "correct-horse-battery")
    page = browser.new_page()
    page.goto(server.address)
    page.fill("#token", "wrong")
    page.click("#login-form button")
    until(page, "document.querySelector('#login-error').textContent.includes('not this')")
    page.fill("#token", "correct-horse-battery")
    page.click("#login-form button")
    until(page, "document.querySelector('#server').textContent === 'Ready'")
    page.close()
