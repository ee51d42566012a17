"""The demo in a real browser: a generation finishes, stops, errors are messages, and only this machine is asked."""

import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from PIL import Image

from mvdiff.demo.line import Line
from mvdiff.demo.page import Form, build_page, launch_settings, require_gradio
from mvdiff.demo.uploads import upload_folder
from tests.browser import Browser, find_chromium

pytestmark = pytest.mark.browser

STATE = "const f = document.querySelector('#result iframe'); const v = f && f.contentWindow.mvdiffViewer; "


@contextmanager
def served(pipeline, line):
    """Serve the page of a pipeline from this process; return its address."""
    with upload_folder():
        page = build_page(pipeline, "mvdiff://toy-caa", Form("a red sofa in the middle", 2, 1.0, max_steps=20), line)
        settings = launch_settings(require_gradio(), "127.0.0.1", None, line)
        _, address, _ = page.launch(**settings, prevent_thread_lock=True)
        try:
            yield address
        finally:
            line.close()
            page.close(verbose=False)


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """A window of its own that notes every request."""
    if find_chromium() is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    with Browser(tmp_path_factory.mktemp("profile"), 1400, 1000, log_requests=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def line():
    return Line()


@pytest.fixture(scope="module")
def address(toy_pipeline, line):
    with served(toy_pipeline, line) as found:
        yield found


@pytest.fixture
def demo(window, address):
    """The page of the toy model, freshly loaded."""
    return loaded(window, address)


@pytest.fixture
def second_step(toy_pipeline, monkeypatch):
    """An event; until it is set, the second step of the scheduler waits."""
    released, calls, kind = threading.Event(), [], type(toy_pipeline.scheduler)
    step = kind.step

    def waiting(self, *args, **kwargs):
        calls.append(len(calls))
        if len(calls) == 2:
            released.wait(60)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(kind, "step", waiting)
    yield released
    released.set()


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


def click(demo, selector: str) -> None:
    demo.run(f"document.querySelector({selector!r}).click()")


def generate(demo) -> None:
    click(demo, "#generate")


def notice(demo, part: str, place: str = "#notice") -> str:
    """Wait for a message of the page that contains a part; return the message."""
    return demo.wait_for(
        f"const text = document.querySelector({place!r}).innerText; return text.includes({part!r}) && text"
    )


def finished(demo) -> None:
    """Wait until no run goes on and none is asked for."""
    demo.wait_for("const stop = document.querySelector('#stop'); return !stop || !stop.offsetParent")


def working(demo) -> None:
    """Wait until the page says that a step is done and offers to stop; before the first, Gradio writes "queue: 1/1"."""
    demo.wait_for(r"return /\b1\/\d+ steps/.test(document.querySelector('#result').innerText)")
    demo.wait_for("const stop = document.querySelector('#stop'); return stop && stop.offsetParent !== null")


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


def test_the_progress_is_shown(demo, second_step):
    """The second of two steps waits until the page has said that one of two is done."""
    generate(demo)
    said = demo.wait_for(
        "const text = document.querySelector('#result').innerText; return text.includes('Generating') && text"
    )
    assert "1/2 steps" in said
    second_step.set()
    assert demo.wait_for(f"{STATE} return v && v.state")["method"] == "generated"
    finished(demo)


def test_stop_ends_the_run_at_the_next_step_and_the_next_run_works(demo, second_step):
    write(demo, "#steps input", 5)
    generate(demo)
    working(demo)
    generate(demo)  # asks nothing while a run goes on
    click(demo, "#stop")
    demo.wait_for("return document.querySelector('#stop').innerText.includes('Stopping')")
    second_step.set()
    assert "Stopped after 2 of 5 steps. Nothing was generated." in notice(demo, "Stopped")
    finished(demo)
    assert demo.run(f"{STATE} return f") is None
    generate(demo)
    assert demo.wait_for(f"{STATE} return v && v.state")["method"] == "generated"
    demo.wait_for("return document.querySelector('#notice').innerText.trim() === ''")


def test_a_double_click_gives_one_result_and_no_message(demo):
    """Gradio may send both clicks; the second run then replaces the first, which says nothing."""
    demo.run(
        "window.notices = []; const notice = document.querySelector('#notice'); "
        "new MutationObserver(() => window.notices.push(notice.innerText.trim()))"
        ".observe(notice, {childList: true, subtree: true, characterData: true})"
    )
    demo.run("const button = document.querySelector('#generate'); button.click(); button.click()")
    assert demo.wait_for(f"{STATE} return v && v.state")["method"] == "generated"
    finished(demo)
    assert demo.run("return window.notices.filter((text) => text)") == []


def test_a_visitor_who_leaves_frees_the_line(demo, address, line, second_step):
    first = demo.call("GET", "/window")
    write(demo, "#steps input", 20)
    generate(demo)
    working(demo)
    second = demo.call("POST", "/window/new", {"type": "tab"})["handle"]
    demo.call("POST", "/window", {"handle": second})
    loaded(demo, address)
    generate(demo)
    assert "Waiting for another visitor." in notice(demo, "Waiting")
    assert line.num_active == 2
    demo.call("POST", "/window", {"handle": first})
    demo.call("DELETE", "/window")
    demo.call("POST", "/window", {"handle": second})
    for _ in range(100):
        if line.num_active == 1:
            break
        threading.Event().wait(0.1)
    assert line.num_active == 1  # while its step still goes on
    second_step.set()
    assert demo.wait_for(f"{STATE} return v && v.state")["method"] == "generated"
    assert demo.run("return document.querySelector('#notice').innerText.trim()") == ""


def test_a_prompt_for_one_view_is_text_whatever_it_holds(demo):
    click(demo, "#views button")
    demo.wait_for("return document.querySelectorAll('.view-prompt textarea, .view-prompt input').length === 8")
    lamp = "a blue lamp 🛋 שלום <img src=x onerror='top.hacked = 1'> ${1 + 1} {{2}}"
    demo.run(
        "const field = document.querySelectorAll('.view-prompt textarea, .view-prompt input')[3]; "
        f"field.value = {lamp!r}; field.dispatchEvent(new Event('input', {{bubbles: true}}))"
    )
    generate(demo)
    text = demo.wait_for(f"{STATE} return v && f.contentDocument.querySelector('.captions').textContent")
    assert f"135°: {lamp}" in text
    assert "90°: a red sofa in the middle" in text
    assert demo.run("return window.hacked === undefined")


def test_an_error_replaces_no_result_and_ends_with_the_next_run(demo):
    generate(demo)
    demo.wait_for(f"{STATE} return v && v.state")
    finished(demo)
    write(demo, "#steps input", -3)
    generate(demo)
    said = notice(demo, "Not generated")
    assert said.strip() == "Not generated: steps must be a whole number between 1 and 20; got -3."
    assert demo.run(f"{STATE} return v.state")["method"] == "generated"  # the earlier one, which says whose it is
    assert "Seed 0, 2 steps, guidance 1." in demo.run(f"{STATE} return f.contentDocument.body.innerText")
    write(demo, "#steps input", 1)
    generate(demo)
    demo.wait_for("return document.querySelector('#notice').innerText.trim() === ''")
    demo.wait_for(f"{STATE} return v && f.contentDocument.body.innerText.includes('Seed 0, 1 steps')")
    assert demo.run("return document.querySelector('.toast-body')") is None


@pytest.mark.parametrize(
    ("selector", "value", "expected"),
    [
        ("#prompt textarea", "", "prompt must describe the scene; got none for all views."),
        ("#prompt textarea", "a" * 2001, "prompt must have at most 2000 characters; got 2001."),
        ("#steps input", 21, "steps must be a whole number between 1 and 20; got 21."),
        ("#steps input", 2.5, "steps must be a whole number between 1 and 20; got 2.5."),
        ("#seed input", "1e400", "seed must be a whole number between 0 and 9007199254740991"),
        ("#guidance input", "1e9", "guidance must lie between 0 and 100"),
    ],
)
def test_fields_out_of_range_are_messages(demo, selector, value, expected):
    write(demo, selector, value)
    generate(demo)
    assert expected in notice(demo, "Not generated")
    assert demo.run(f"{STATE} return f") is None


def test_an_unforeseen_failure_is_a_message_without_a_stack_trace(demo, toy_pipeline, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the <b>scheduler</b> broke")

    monkeypatch.setattr(type(toy_pipeline.scheduler), "set_timesteps", broken)
    generate(demo)
    said = notice(demo, "generation failed")
    assert "generation failed: the <b>scheduler</b> broke. See the terminal of mvdiff demo for details." in said
    assert "Traceback" not in said


def test_a_picture_is_asked_for_where_the_task_continues_one(demo, picture_pipeline, tmp_path):
    assert demo.run("return document.querySelector('#image')") is None  # panoramas need none
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "sofa.png")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic")
    with served(picture_pipeline, Line()) as address:
        loaded(demo, address)
        generate(demo)
        assert "image must be the picture to extend; got none." in notice(demo, "Not generated")
        demo.upload("#image input[type=file]", tmp_path / "photo.heic")
        assert "photo.heic cannot be decoded (it is HEIC" in notice(demo, "Not usable", "#preview")
        generate(demo)
        assert "it is HEIC, which is not read; save it as JPEG or PNG" in notice(demo, "HEIC")
        click(demo, "#image button[aria-label='Clear']")
        demo.wait_for("return document.querySelector('#preview').innerText.trim() === ''")
        demo.wait_for("return document.querySelector('#image input[type=file]') !== null")
        (tmp_path / "large.png").write_bytes(bytes(33 * 2**20))
        demo.upload("#image input[type=file]", tmp_path / "large.png")
        toast = "const toast = document.querySelector('.toast-body'); return toast && toast.innerText"
        assert 'exceed the maximum allowed size of 32.0 Mb: "large.png"' in demo.wait_for(toast)
        demo.upload("#image input[type=file]", tmp_path / "sofa.png")
        demo.wait_for("const shown = document.querySelector('#preview img'); return shown && shown.naturalWidth === 40")
        write(demo, "#yaw input", 90)
        generate(demo)
        assert demo.wait_for(f"{STATE} return v && v.state")["method"] == "generated"
        assert demo.run(toast) is None
    assert picture_pipeline.given == {"size": (40, 30), "angles": (90.0, 90.0, 0.0), "paste_back": True}


def test_only_this_machine_is_asked(demo):
    """Of all requests since the window was opened, those of the tests above included."""
    asked = [urlsplit(url) for url in demo.requests()]
    asked = [url for url in asked if url.scheme in ("http", "https", "ws", "wss")]
    assert len(asked) > 10
    assert {url.hostname for url in asked} == {"127.0.0.1"}
