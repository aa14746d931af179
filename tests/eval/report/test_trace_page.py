import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from timelines import decision, frames, timeline

import ebt_policy.cli as cli
from ebt_policy.errors import UserError
from ebt_policy.eval.report.gallery import worst_first, write_pages
from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.report.report import Table
from ebt_policy.eval.rollout.timeline import write
from ebt_policy.eval.rollout.video import encode

VIDEO = encode(frames(), 10)
PATIENCE = 120_000  # ms: the machine may be busy with a training
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def test_pages_need_nothing_but_themselves(tmp_path):
    write(tmp_path / "episodes", timeline(), VIDEO)
    index = write_pages(tmp_path)
    page = (tmp_path / "episodes" / "pusht_keypoints_7.html").read_text()
    for html, links in ((page, {"../index.html"}), (index.read_text(), {"episodes/pusht_keypoints_7.html"})):
        assert "default-src 'none'" in html  # the browser enforces it
        addresses = re.findall(r'(?:src|href|poster)="([^"]*)"', html)
        assert {a for a in addresses if not a.startswith("data:")} == links
        assert not re.search(r"https?://|@import|url\(", html)


def test_a_page_shows_the_sentence_of_the_task_as_text(tmp_path):
    write(tmp_path / "episodes", timeline(task=f"Open a drawer {HOSTILE}"))
    write_pages(tmp_path)
    page = (tmp_path / "episodes" / "pusht_keypoints_7.html").read_text()
    assert "Task: “Open a drawer &lt;/script&gt;" in page and HOSTILE not in page


def test_a_page_says_how_much_of_the_episode_is_longer_than_calibrated(tmp_path):
    usual = timeline()
    late = [replace(decision, beyond=i > 2) for i, decision in enumerate(usual.decisions)]
    write(tmp_path / "episodes", usual)
    write(tmp_path / "episodes", replace(usual, seed=8, decisions=tuple(late)))
    write_pages(tmp_path)
    said = [(tmp_path / f"episodes/pusht_keypoints_{seed}.html").read_text() for seed in (7, 8)]
    assert ["past the calibrated length" in page for page in said] == [False, True]
    assert "2 decisions past the calibrated length" in said[1]


def test_the_worst_false_alarm_and_the_worst_miss_come_first():
    outcomes = {
        "a": (True, 0.2),
        "b": (True, 0.9),
        "c": (False, 0.8),
        "d": (False, 0.1),
        "e": (None, 0.99),
        "f": (True, 0.5),
    }
    episodes = [(Path(name), timeline(success=s, peak=q)) for name, (s, q) in outcomes.items()]
    ordered = worst_first(episodes, lambda t: max(d.quantile for d in t.decisions))
    assert "".join(path.name for path, _ in ordered) == "bdfcae"


def test_the_command_writes_the_pages_and_names_mistakes(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "episodes", timeline(), VIDEO)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ebt-policy", "trace", *arguments])
        try:
            cli.main()
        except SystemExit:
            return capsys.readouterr().err
        return capsys.readouterr().out

    assert str(tmp_path / "index.html") in run(str(tmp_path))
    assert str(path.with_suffix(".html")) in run(str(path))
    assert "--save is for --viewer rerun" in run(str(tmp_path), "--save", "a.rrd")
    assert "is not there" in run(str(tmp_path / "nothing"))
    path.with_suffix(".webm").unlink()
    assert "pusht_keypoints_7.webm" in run(str(tmp_path))


def test_a_video_that_is_too_short_is_told(tmp_path):
    write(tmp_path, timeline(), encode(frames(5), 10))
    with pytest.raises(UserError, match="ends before tick 24"):
        write_pages(tmp_path)


@dataclass
class Seen:
    """A page in the browser, with its console messages and requests."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium here; install one to check the pages: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # Without a sandbox: it needs privileges that a container does not give, and the pages are ours.
        arguments = ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=executable, args=arguments, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def look(browser) -> Iterator[Callable[..., Seen]]:
    """look(path, width, script): the file in a fresh browser, where the script has run first; at the end, nothing may
    have gone wrong or left the page."""
    opened = []

    def at(path: Path, width: int = 1100, script: str = "") -> Seen:
        context = browser.new_context(viewport={"width": width, "height": 800})
        context.set_default_timeout(PATIENCE)
        if script:
            context.add_init_script(script)
        seen = Seen(context.new_page())
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(path.as_uri())
        opened.append((context, seen))
        return seen

    yield at
    for context, seen in opened:
        context.close()
        assert seen.complaints == []
        assert all(url.startswith(("file:", "data:", "blob:")) for url in seen.requests)
        assert sum(url.startswith("file:") for url in seen.requests) == 1


def until(page: Any, expression: str) -> None:
    """Waits until the expression holds. Playwright's own waiting evaluates text, which the pages' policy forbids."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def tick_to_pixel(page: Any, tick: float) -> tuple[float, float]:
    """A point of the chart at that tick."""
    box = page.locator("#chart").bounding_box()
    left, right = page.evaluate("[LEFT, RIGHT]")
    return box["x"] + left + tick / 40 * (box["width"] - left - right), box["y"] + 100


def test_video_and_chart_move_together(look, tmp_path):
    page = look(write_pages(write(tmp_path, timeline(peak=0.95), VIDEO))).page
    chart = page.locator("#chart")

    page.mouse.move(*tick_to_pixel(page, 26.5))  # hovering reads the fourth decision ...
    readout = page.locator("#readout").inner_text()
    for value in ("4 of 5", "tick 24 (2.4 s)", "7 → 3.5 → 1.75", "0.95", "answer settled", "12 ms"):
        assert value in readout
    values = page.locator("#chart .value").all_text_contents()
    assert values == ["7 → 3.5 → 1.75", "1.25", "1.9", "0.95", "3, answer settled", "0.65"]
    assert page.evaluate("video.currentTime") == 0  # ... and leaves the video alone

    page.mouse.down()  # clicking seeks, dragging goes on seeking
    until(page, "!video.seeking && Math.abs(video.currentTime - 2.65) < .06")
    page.mouse.move(*tick_to_pixel(page, 10))
    until(page, "!video.seeking && Math.abs(video.currentTime - 1) < .06")
    page.mouse.up()
    assert chart.get_attribute("aria-valuenow") == "10"

    page.keyboard.press("ArrowRight")  # from decision to decision
    until(page, "chart.getAttribute('aria-valuenow') === '16'")
    page.click("#next-alarm")
    until(page, "chart.getAttribute('aria-valuenow') === '24'")

    page.click("#play")  # playing moves the cursor and the readout
    until(page, "+chart.getAttribute('aria-valuenow') > 33")
    until(page, "document.getElementById('readout').innerText.includes('5 of 5')")
    until(page, "video.ended && document.getElementById('play').textContent === 'Play'")


def test_the_chart_can_be_read_before_the_first_frame(look, tmp_path):
    late = "window.ResizeObserver = class { observe() {} }"  # it speaks with the first frame, after the pointer may have
    page = look(write_pages(write(tmp_path, timeline(), VIDEO)), script=late).page
    page.mouse.move(*tick_to_pixel(page, 26.5))
    assert "4 of 5" in page.locator("#readout").inner_text()


def test_marks_are_where_things_happened(look, tmp_path):
    episode = timeline(peak=0.95)
    episode = replace(
        episode, decisions=(*episode.decisions[:4], replace(episode.decisions[4], recovery="hold"))
    )
    page = look(write_pages(write(tmp_path, episode, VIDEO))).page
    at = page.evaluate("[0, 20, 24, 40].map(x)")
    shade = page.evaluate(
        "(s => [+s.getAttribute('x'), +s.getAttribute('width')])(document.querySelector('.disturbance'))"
    )
    assert shade == pytest.approx([at[1], at[2] - at[1]], abs=0.11)
    assert page.locator(".alarm-mark").count() == 1
    assert float(page.locator(".alarm-line").get_attribute("x1")) == at[2]
    assert float(page.locator(".solved-line").get_attribute("x1")) == at[3]
    labels = page.locator("#chart text").all_text_contents()
    assert {"hold", "teleport 1", "tick 40", "alarm above 1.8", "10 % false alarms"} <= set(labels)


@pytest.mark.parametrize(
    "episode",
    [
        timeline(decisions=(), coverage=(), disturbance_begin=None, ticks=0),
        timeline(
            None, success=None, decisions=tuple(decision(i, energy=(), residual_rms=()) for i in range(5))
        ),
        timeline(decisions=tuple(decision(i, energy=(-1.0, 0.0), evaluations=0) for i in range(5))),
        timeline(
            policy=HOSTILE,
            signal=HOSTILE,
            disturbance_kind=HOSTILE,
            decisions=(decision(0, recovery=HOSTILE, stop_reason=HOSTILE, score=1.0),),
        ),
    ],
    ids=["empty", "without energy", "negative energy", "hostile"],
)
def test_any_episode_is_drawn_on_a_phone_even_without_a_video(look, episode, tmp_path):
    index = write_pages(write(tmp_path, episode).parent)
    pages = [path for path in tmp_path.glob("*.html") if path != index]
    for path in (index, *pages):
        page = look(path, width=390).page
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert "taken" not in page.title()
    assert page.locator("#chart text").count() > 3


def test_the_gallery_is_ordered_filtered_and_leads_to_the_pages(look, tmp_path):
    quiet, missed, alarmed = timeline(1, peak=0.3), timeline(2, success=False), timeline(3, peak=0.95)
    for episode in (quiet, replace(missed, disturbance_kind=""), alarmed):
        write(tmp_path / "episodes", episode, VIDEO)
    page = look(write_pages(tmp_path)).page

    def shown() -> list[str]:
        return page.locator(".card:visible h2").all_inner_texts()

    assert shown() == ["seed 3", "seed 2", "seed 1"]
    page.select_option("#order", "quantile")
    assert shown() == ["seed 3", "seed 2", "seed 1"]
    page.select_option("#order", "length")
    assert len(shown()) == 3
    for kind, seeds in {
        "failure": ["seed 2"],
        "alarm": ["seed 3"],
        "disturbed": ["seed 1", "seed 3"],
    }.items():
        page.click(f"[data-kind={kind}]")
        assert sorted(shown()) == seeds
    pictures = page.locator(".card img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert pictures == [220] * 3
    for link in page.locator(".card").evaluate_all("all => all.map(a => a.getAttribute('href'))"):
        assert (tmp_path / link).is_file()


def test_a_results_table_fits_a_phone(tmp_path: Path, look) -> None:
    columns = (
        "Policy",
        "Success",
        "n",
        "Max coverage",
        "Latency p50 / p95, ms",
        "Success minus EBT",
        "McNemar p",
    )
    table = Table(
        columns, (("Diffusion, DDPM-100", "79.9% [78.4, 81.3]", "3 × 500", "0.93", "9 / 12", "+0.5", ".3"),)
    )
    page = tmp_path / "page.html"
    context = {"title": "t", "claim": "c", "table": table, "rows": [], "seed_rule": "", "has_energy": False}
    write_html(page, "demo.html.j2", geometry=None, details={"command": "x" * 200}, **context)
    seen = look(page, width=360)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert seen.page.evaluate("(s => s.scrollWidth <= s.clientWidth)(document.querySelector('.scroll'))")
