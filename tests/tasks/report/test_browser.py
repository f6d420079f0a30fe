"""The page in a browser, with real clicks: no error, nothing asked for, a click on a flag shows its frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import equimd
from tests.tasks.report.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"no {CHROMIUM}")

VIEW = "[...equimdReport.views.values()]"
SIGMA = "[...equimdReport.plots.values()].filter(p => p.spec.title.startsWith('Largest force sigma'))"
#: Where on the window a plot shows a point of its data.
AT = """(() => {{ const p = {plot}; p.box.scrollIntoView({{block: 'center'}});
const b = p.u.over.getBoundingClientRect();
return [b.x + p.u.valToPos({x}, 'x'), b.y + p.u.valToPos({y}, 'y')]; }})()"""


@pytest.fixture(scope="module")
def page(watched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(watched)
        equimd.report("conservative", "flagged", "halted", out=path, frames=10)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_clicks(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark=dark)
    value, click = browser.value, browser.click
    assert value("document.documentElement.scrollWidth") <= width, "wider than the window"
    assert value("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert value("document.querySelectorAll('canvas').length") >= 12 and value(f"{VIEW}.length") == 2

    # the flags of a replica that is chosen: a click on one in the plot shows its frame in 3D
    flag = value(f"{SIGMA}[0].spec.layers.filter(l => l.name === 'flagged frames').slice(-1)[0]")
    value(f"(s => {{ s.value = {flag['replica']}; s.dispatchEvent(new Event('change')); }})"
          "(document.querySelector('select.replica'))")  # fmt: skip
    click(AT.format(plot=f"{SIGMA}[0]", x=flag["x"][-1], y=flag["y"][-1]))
    shown = value(f"(v => [v.frames().time[v.frame], v.frames().mark[v.frame], v.replica])({VIEW}[0])")
    assert shown[0] == pytest.approx(flag["x"][-1], abs=1e-3) and "flagged" in shown[1]
    assert shown[2] == flag["replica"]

    # paper: light, and with every molecule, also those that nobody scrolled to
    assert not value(f"!!{VIEW}[1].viewer")
    value("dispatchEvent(new Event('beforeprint'))")
    assert value(f"[!!{VIEW}[1].viewer, document.documentElement.dataset.theme]") == [True, "light"]
    value("dispatchEvent(new Event('afterprint'))")
    assert value("document.documentElement.dataset.theme") == ("dark" if dark else "light")

    # the button of the frame that was refused
    click("document.querySelector('.events button.halt')")
    assert value(f"(v => v.frames().mark[v.frame])({VIEW}[1])").startswith("refused: force sigma")
    assert "refused" in value(f"{VIEW}[1].where.textContent")
    browser.wait(f"!!{VIEW}[1].viewer && {VIEW}[1].stage.querySelector('canvas').width > 100")

    # play, pause, next frame, and the other colours
    before = value(f"{VIEW}[1].frame")
    click(f"{VIEW}[1].play")
    browser.wait(f"{VIEW}[1].frame !== {before}")
    click(f"{VIEW}[1].play")
    at = value(f"{VIEW}[1].frame")
    click(f"{VIEW}[1].box.querySelector('.next')")
    assert value(f"{VIEW}[1].frame") == (at + 1) % value(f"{VIEW}[1].frames().step.length")
    click("document.getElementById('theme')")
    assert value("document.documentElement.dataset.theme") == ("light" if dark else "dark")

    if width > 600:  # a drag of the mouse enlarges a plot
        browser.drag(*(value(AT.format(plot=f"{SIGMA}[0]", x=x, y=0.1)) for x in (0.005, 0.01)))
        assert value(f"(x => [x.min, x.max])({SIGMA}[0].u.scales.x)") == pytest.approx([0.005, 0.01], abs=1e-3)
    assert value("[...document.querySelectorAll('button, select, input')].every(e => e.tabIndex === 0)")
    assert value("[...document.querySelectorAll('.canvas, .stage')].every(e => e.getAttribute('aria-label'))")
    assert [line for line in browser.said if "GL Driver" not in line] == []
    assert browser.asked == []


def test_a_page_that_loads_something_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text(
        "<script>window.equimdReport = {}; console.error('loud'); fetch('http://127.0.0.1:9/x').catch(() => 0)</script>"
    )
    asked, said = len(browser.asked), len(browser.said)
    browser.open(tmp_path / "other.html", 1280)
    browser.wait("true")
    assert "http://127.0.0.1:9/x" in browser.asked[asked:]
    assert any("loud" in line for line in browser.said[said:])
    del browser.asked[asked:], browser.said[said:]
