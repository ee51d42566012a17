"""The demo in a real browser: a generation finishes, errors are messages, and only this machine is asked."""

import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from PIL import Image

from mvdiff.demo.page import Defaults, build_page, launch_settings, require_gradio
from tests.browser import Browser, find_chromium

pytestmark = pytest.mark.browser

STATE = "const f = document.querySelector('#result iframe'); const v = f && f.contentWindow.mvdiffViewer; "


@contextmanager
def served(pipeline):
    """Serve the page of a pipeline from this process; return its address."""
    page = build_page(pipeline, "mvdiff://toy-caa", Defaults("a red sofa in the middle", 2, 1.0))
    _, address, _ = page.launch(**launch_settings(require_gradio(), "127.0.0.1", None), prevent_thread_lock=True)
    try:
        yield address
    finally:
        page.close()


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """A window of its own that notes every request."""
    if find_chromium() is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    with Browser(tmp_path_factory.mktemp("profile"), 1400, 1000, log_requests=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(toy_pipeline):
    with served(toy_pipeline) as found:
        yield found


@pytest.fixture
def demo(window, address):
    """The page of the toy model, freshly loaded."""
    return loaded(window, address)


def loaded(window, address):
    window.visit(address)
    window.wait_for("return document.querySelector('#generate') !== null")
    return window


def write(demo, selector: str, text: object) -> None:
    """Type into a field as a visitor would."""
    demo.run(
        f"const field = document.querySelector({selector!r}); field.value = {str(text)!r}; "
        "field.dispatchEvent(new Event('input', {bubbles: true})); field.dispatchEvent(new Event('change'))"
    )


def generate(demo) -> None:
    demo.run("document.querySelector('#generate').click()")


def message(demo) -> str:
    return demo.wait_for("const toast = document.querySelector('.toast-body'); return toast && toast.innerText")


def test_a_generation_finishes_and_its_viewer_turns(demo):
    assert demo.run("return document.querySelectorAll('.view-prompt').length") in (0, 8)  # closed, or drawn hidden
    generate(demo)
    assert demo.wait_for(f"{STATE} return v && v.state")["yaw"] == 0
    demo.run_async(f"{STATE} v.ready.then(done)")
    before = demo.run(f"{STATE} return v.canvas.toDataURL()")
    x, y, width, height = demo.run(
        f"{STATE} f.scrollIntoView({{block: 'start', behavior: 'instant'}}); "
        "const a = f.getBoundingClientRect(), b = v.canvas.getBoundingClientRect(); "
        "return [a.x + b.x, a.y + b.y, b.width, b.height]"
    )
    demo.drag((round(x + width / 2), round(y + height / 2)), (-200, 0))
    assert 10 < demo.run(f"{STATE} return v.state.yaw") < 60
    assert demo.run(f"{STATE} return v.canvas.toDataURL()") != before
    assert demo.run(f"{STATE} return f.contentDocument.querySelectorAll('.strips img').length") == 8
    assert demo.run(f"{STATE} return f.contentDocument.querySelector('.captions').textContent") == (
        "a red sofa in the middle"
    )


def test_the_progress_is_shown(demo, toy_pipeline, monkeypatch):
    """The second of two steps waits until the page has said that one of two is done."""
    seen, calls, kind = threading.Event(), [], type(toy_pipeline.scheduler)
    step = kind.step

    def waiting(self, *args, **kwargs):
        calls.append(len(calls))
        if len(calls) == 2:
            seen.wait(60)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(kind, "step", waiting)
    generate(demo)
    said = demo.wait_for(
        "const text = document.querySelector('#result').innerText; return text.includes('Generating') && text"
    )
    assert "1/2 steps" in said
    seen.set()
    assert demo.wait_for(f"{STATE} return v && v.state")["method"] == "generated"


def test_a_prompt_for_one_view(demo):
    demo.run("document.querySelector('#views button').click()")
    demo.wait_for("return document.querySelectorAll('.view-prompt textarea, .view-prompt input').length === 8")
    demo.run(
        "const field = document.querySelectorAll('.view-prompt textarea, .view-prompt input')[3]; "
        "field.value = 'a blue lamp'; field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    generate(demo)
    text = demo.wait_for(f"{STATE} return v && f.contentDocument.querySelector('.captions').textContent")
    assert "135°: a blue lamp" in text
    assert "90°: a red sofa in the middle" in text


def test_an_empty_prompt_is_a_message(demo):
    write(demo, "#prompt textarea", "")
    generate(demo)
    assert "prompt must describe the scene; got none for all views." in message(demo)
    assert demo.run(f"{STATE} return f") is None


def test_negative_steps_are_a_message(demo):
    write(demo, "#steps input", -3)
    generate(demo)
    assert "steps must be a whole number between 1 and 1000; got -3." in message(demo)


def test_an_unforeseen_failure_is_a_message_without_a_stack_trace(demo, toy_pipeline, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the <b>scheduler</b> broke")

    monkeypatch.setattr(type(toy_pipeline.scheduler), "set_timesteps", broken)
    generate(demo)
    said = message(demo)
    assert "generation failed: the <b>scheduler</b> broke. See the terminal of mvdiff demo for details." in said
    assert "Traceback" not in said


def test_a_picture_is_asked_for_where_the_task_continues_one(demo, picture_pipeline, tmp_path):
    assert demo.run("return document.querySelector('#image')") is None  # panoramas need none
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "sofa.png")
    with served(picture_pipeline) as address:
        loaded(demo, address)
        generate(demo)
        assert "image must be the picture to extend; got none." in message(demo)
        demo.upload("#image input[type=file]", tmp_path / "sofa.png")
        demo.wait_for("const shown = document.querySelector('#image img'); return shown && shown.naturalWidth === 40")
        write(demo, "#yaw input", 90)
        generate(demo)
        assert demo.wait_for(f"{STATE} return v && v.state")["method"] == "generated"
    assert picture_pipeline.given == {"size": (40, 30), "angles": (90.0, 90.0, 0.0), "paste_back": True}


def test_only_this_machine_is_asked(demo):
    """Of all requests since the window was opened, those of the tests above included."""
    asked = [urlsplit(url) for url in demo.requests()]
    asked = [url for url in asked if url.scheme in ("http", "https", "ws", "wss")]
    assert len(asked) > 10
    assert {url.hostname for url in asked} == {"127.0.0.1"}
