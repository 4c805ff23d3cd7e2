"""The page in a real browser: what is drawn, what the mouse and the keyboard do, and that nothing is loaded."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meigm_jax import report
from meigm_jax.runs.curves import interval
from tests.report.browser import CHROMIUM, Page, browser
from tests.test_plot_command import write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH (Debian's package: chromium)")
EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"
SMAX = ".chart:nth-child(2)"  # the matrix game comes first
DRAWN = "[...document.querySelectorAll('.chart')].map((chart) => chart.querySelectorAll('{}').length)"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on two environments, two algorithms each, and one with a name that is none in the second."""
    folder = tmp_path_factory.mktemp("report")
    for env, algo in itertools.product(("matrix_game", "smax_3m"), ("qmix", "me_qmix")):
        write_run(folder / "runs" / env / algo, env, algo)
    write_run(folder / "runs/smax_3m/evil", "smax_3m", EVIL, seeds=2, points=2)
    Image.new("RGB", (4, 4)).save(folder / "runs/smax_3m/qmix/episode.gif")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert report.main(["runs", "--title", EVIL]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory):
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def page(tab: Page, written: Path):
    """The page, freshly loaded; at the end it must have asked for nothing and complained about nothing."""
    tab.open(written)
    yield tab
    elsewhere = [url for url in tab.requests if not url.startswith("data:") and url != written.resolve().as_uri()]
    assert elsewhere == [] and tab.complaints == []


def text(page: Page, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).textContent")


def tip(page: Page) -> list[list[str]]:
    """What the tip in the second chart says: its heading, then a row per line; nothing where it is not shown."""
    return page.run(
        f"""(() => {{
            const tip = document.querySelector('{SMAX} .tip');
            if (!tip.offsetWidth) return [];
            const words = (row) => [...row.cells].map((cell) => cell.textContent.trim());
            return [[tip.querySelector('strong').textContent], ...[...tip.querySelectorAll('tr')].map(words)];
        }})()"""
    )


def test_every_curve_is_drawn_where_its_values_are(page: Page):
    assert page.run(DRAWN.format(".mean")) == [4, 6]  # and as many samples in the legends
    assert page.run(DRAWN.format("path.mean")) == page.run(DRAWN.format("path.band")) == [2, 3]
    assert page.run(DRAWN.format("path.seed")) == [0, 0]
    titles = page.run("[...document.querySelectorAll('.chart figcaption')].map((title) => title.textContent)")
    assert titles == [
        "matrix_gamereturn, evaluation, greedy policy, 3 seeds",
        "smax_3mwin rate, evaluation, greedy policy",  # here the legend tells how many, as they differ
    ]
    place = "(x, y) => {{ const chart = charts[1]; return [chart.toX(x), chart.toY(y)]; }}"
    d = page.run(f"document.querySelector('{SMAX} [data-line=qmix] path.mean').getAttribute('d')")
    drawn = [[float(each) for each in point.split(",")] for point in d[1:].replace("h0", "").split("L")]
    expected = [page.run(f"({place.format()})({1000 * k}, {0.1 * k})") for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(drawn, expected, atol=0.1)
    assert drawn[3][0] > drawn[0][0] and drawn[3][1] < drawn[0][1]  # to the right and up


def test_a_name_switches_its_lines_off_and_on(page: Page):
    shown = DRAWN.format("[data-line=qmix] path")
    assert page.run(shown) == [2, 2]
    page.click(f"{SMAX} .legend button[data-line=qmix]")
    assert page.run(shown) == [0, 0] and page.run(DRAWN.format("path.mean")) == [1, 2]
    assert page.run(DRAWN.format("button[aria-pressed=false]")) == [1, 1]
    page.run(f"document.querySelector('{SMAX} .legend button[data-line=qmix]').focus()")
    page.press("Enter", 13)
    assert page.run(shown) == [2, 2]


def test_the_mouse_shows_the_values_of_every_line_there(page: Page):
    assert tip(page) == []
    x, y = page.middle(f"{SMAX} .plot")
    page.move(x, y)
    heading, *rows = tip(page)
    assert heading == ["2 k env steps"]
    found = interval(np.array([[0.1], [0.2], [0.3]]))
    limits = f"[{found.low[0]:.3g}, {found.high[0]:.3g}]"
    assert [["qmix", "0.2", limits], ["me_qmix", "0.2", limits]] == sorted(
        (row for row in rows if "qmix" in row[0]), key=lambda row: row[0], reverse=True
    )
    assert [row[:2] for row in rows if row[0] == EVIL] == [[EVIL, "0.15"]]
    left, right = page.run(
        f"(({{left, right}}) => [left, right])(document.querySelector('{SMAX} .plot').getBoundingClientRect())"
    )
    page.move(right - 5, y)
    heading, *rows = tip(page)
    assert heading == ["4 k env steps"] and {row[0] for row in rows} == {"qmix", "me_qmix"}  # the other has ended
    page.move(left - 5, y)
    assert tip(page) == []


def test_the_keyboard_moves_the_cursor(page: Page):
    page.run(f"document.querySelector('{SMAX} .plot').focus()")
    seen = []
    for key, code in [("ArrowRight", 39), ("ArrowRight", 39), ("ArrowLeft", 37), ("ArrowLeft", 37)]:
        page.press(key, code)
        seen.append(tip(page)[0][0])
    assert seen == [f"{k} k env steps" for k in (1, 2, 1, 1)]
    page.press("Escape", 27)
    assert tip(page) == []


def test_another_metric_is_shown_where_it_was_measured(page: Page):
    choose = (
        "select = document.querySelector('#measure'); select.value = '{}'; select.dispatchEvent(new Event('change'))"
    )
    options = page.run("[...document.querySelectorAll('#measure option')].map((option) => option.value)")
    assert "training: alpha" in options and "training: epsilon" not in options
    page.run(choose.format("training: loss_td"))
    assert text(page, f"{SMAX} figcaption span") == "loss td, training"
    assert page.run(DRAWN.format("path.mean")) == [2, 3]
    page.run(choose.format("evaluation, greedy policy: win_rate"))
    assert page.run(DRAWN.format("path.mean")) == [0, 3]
    assert text(page, ".chart .empty") == "Nothing was measured."


def test_seeds_intervals_and_wall_time_can_be_chosen(page: Page):
    page.click("#seeds")
    page.click("#band")
    assert page.run(DRAWN.format("path.seed")) == [6, 8] and page.run(DRAWN.format("path.band")) == [0, 0]
    page.move(*page.middle(f"{SMAX} .plot"))
    assert ["qmix", "0.2", "0.1 0.2 0.3"] in tip(page)
    page.click("input[value=seconds]")
    assert "wall time (s)" in text(page, f"{SMAX} svg:not(.sample)")


@pytest.mark.parametrize(("width", "dark"), [(1200, True), (360, False)])
def test_it_fits_the_window_and_the_theme(page: Page, written: Path, width: int, dark: bool):
    page.open(written, width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(DRAWN.format("path.mean")) == [2, 3]
    paper, ink = (
        np.mean(page.run(f"getComputedStyle(document.body).{key}.match(/\\d+/g).map(Number)"))
        for key in ("backgroundColor", "color")
    )
    assert (paper < 60 and ink > 200) if dark else (paper > 200 and ink < 60)
    across = page.run("[...document.querySelectorAll('.chart')].map((chart) => chart.getBoundingClientRect().width)")
    assert all(0 < each <= width for each in across)


def test_names_are_only_text(page: Page):
    assert text(page, "h1") == EVIL and page.run("document.title") == f"{EVIL} – meigm_jax report"
    assert page.run("document.images.length") == 1  # the episode
    assert page.run("document.images[0].complete && document.images[0].naturalWidth") == 4
    assert EVIL in page.run("[...document.querySelectorAll('.legend button')].map((each) => each.dataset.line)")


def test_the_tables_do_without_scripts(page: Page, written: Path):
    page.open(written, scripts=False)
    shown = page.run("document.body.innerText")
    assert "The curves need JavaScript" in shown and "Probability of improvement" in shown and "0.400 [" in shown
    assert page.run("document.querySelector('.controls').offsetHeight") == 0
    page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_every_control_has_a_name(page: Page):
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "radio", "combobox", "group", "table", "link", "image", "heading"}
    named = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles - {"table"}]
    assert {"button", "checkbox", "radio", "combobox", "group", "link", "image"} <= {
        node["role"]["value"] for node in named
    }
    nameless = [node["role"]["value"] for node in named if not node["name"]["value"].strip()]
    assert set(nameless) <= {"group"} and len(nameless) == 3  # <details>, which its summary names
    charts = [node["name"]["value"] for node in named if node["role"]["value"] == "group"]
    assert any("qmix ends at 0.4" in name for name in charts)
