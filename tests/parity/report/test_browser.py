"""The HTML report in a browser: a thousand cases with hostile names, opened, filtered, unfolded."""

from __future__ import annotations

import html
import math
import re
import shutil
import subprocess

import pytest

from parity.report.html import as_html, write
from parity.results import Report
from tests.parity.report.samples import HOSTILE, result, thousand, verdict

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; apt-get install chromium")

# What a person does, as a script: the page's own policy would refuse it, so it goes with the policy.
PERSON = """<script>
const press = (target, key) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const search = document.getElementById("search");
const type = (text) => { search.value = text; search.dispatchEvent(new Event("input", { bubbles: true })); };
const shown = () => document.getElementById("shown").textContent;
const log = (name, value) => { document.body.dataset[name] = value; };
press(document.body, "/");
log("focused", document.activeElement.id);
type("case501");
log("found", shown());
type("no such case");
log("nothing", `${shown()}, ${document.getElementById("none").hidden}`);
press(search, "Escape");
log("all", shown());
const passed = document.querySelector("input[value=passed]");
passed.click();
log("without", shown());
log("hash", location.hash);
passed.click();
const summary = document.querySelector("tr[data-status=failed] summary");
summary.click();
setTimeout(() => {
  log("open", document.querySelectorAll("tr.open .details").length);
  log("rects", document.querySelectorAll("tr.open svg.heat rect:not(.peak)").length);
  summary.click();
  setTimeout(() => log("closed", document.querySelectorAll("tr.open").length), 50);
}, 50);
</script>"""


def browse(path, fragment, tmp_path, *options):
    """What the browser writes."""
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    known = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", profile]
    command = [CHROMIUM, *known, *options, f"{path.as_uri()}#{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(thousand(), path)
    return path


def shown(dom):
    return re.search(r'<p id="shown" role="status">([^<]*)', dom)[1]


def test_a_thousand_hostile_cases_open_in_a_second(page, tmp_path):
    times = []
    for _ in range(3):  # the best of three: other tests share the machine
        dom = browse(page, "", tmp_path, "--dump-dom")
        assert re.search(r"<h1>([^<]*)", dom)[1] == "Error"
        assert shown(dom) == "1,000 cases"
        assert "<title>parity: Error, " in dom, "an injected script changed it"
        assert "<img" not in dom
        times.append(int(re.search(r'data-ready-ms="(\d+)"', dom)[1]))
        if times[-1] < 1000:
            break
    assert min(times) < 1000


def test_the_address_holds_the_filter_and_the_open_case(page, tmp_path):
    dom = browse(page, "status=failed&text=case1&case=case1" + HOSTILE.replace("&", "%26"), tmp_path, "--dump-dom")
    assert shown(dom).endswith("of 1,000 cases shown")
    rows = re.findall(r'<tr class="case" data-status="(\w+)"( hidden="")?>', dom)
    assert {status for status, hidden in rows if not hidden} == {"failed"}
    (details,) = re.findall(r'<tr class="open">.*?</tr></tbody></table>', dom, re.DOTALL)
    assert "First divergence</dt><dd>case1&lt;script&gt;" in details
    assert "<title>parity: Error, " in dom
    words = html.unescape(re.sub(r"<[^>]*>", " ", details))
    wrong = verdict("failed")
    numbers = (
        f"{wrong.mismatched} of 210",
        str(list(wrong.worst_index)),
        f"{wrong.candidate:.9g}",
        f"{wrong.truth:.9g}",
    )
    for expected in ("Likely cause", "parity run --case case1<script>", *numbers):
        assert expected in re.sub(r"\s+", " ", words)
    assert 'aria-label="Heat map of error / bound in 24 by 7 blocks of 2·3·5 rows × 7 columns' in dom
    assert 'aria-label="Histogram of errors in ulps. at most 1/16 ulp: ' in dom


def test_a_person_at_the_keyboard(tmp_path):
    text = as_html(thousand())
    path = tmp_path / "person.html"
    unguarded = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace(
        "</body>", PERSON + "</body>"
    )
    path.write_text(unguarded, encoding="utf-8")
    dom = browse(path, "", tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<body[^>]*>", dom)[0]))
    assert found["focused"] == "search"
    assert found["found"] == "1 of 1,000 cases shown"
    assert found["nothing"] == "0 of 1,000 cases shown, false"
    assert found["all"] == "1,000 cases"
    assert found["without"] == f"{1000 - thousand().counts['passed']} of 1,000 cases shown"
    assert found["hash"].startswith("#status=error%2Cfailed%2C")
    assert (found["open"], found["closed"]) == ("1", "0")
    assert int(found["rects"]) == 2 * 24 * 7
    assert "<title>parity: Error, " in dom
    assert 'class="later"' not in dom, "all rows are laid out in the end"


def test_a_model_s_hundreds_of_gradients_do_not_all_become_pictures_at_once(tmp_path):
    ratios = [math.inf, *(0.001 * n for n in range(300)), math.nan]
    verdicts = tuple(verdict("failed", f"d({n})", bound_ratio=ratio) for n, ratio in enumerate(ratios))
    path = tmp_path / "model.html"
    write(Report({}, (result("failed", "model", verdicts=verdicts),)), path)
    dom = browse(path, "case=model", tmp_path, "--dump-dom")
    drawn = [int(n) for n in re.findall(r"<figcaption><strong>d\((\d+)\)", dom)]
    assert drawn == [0, *range(291, 302)]
    assert "Draw the other 290" in dom


@pytest.mark.parametrize(("scheme", "paper"), [(1, 255), (0, 17)], ids=["light", "dark"])
def test_light_and_dark(page, tmp_path, scheme, paper):
    import matplotlib.image

    picture = tmp_path / "page.png"
    options = ["--window-size=1280,900", f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}"]
    browse(page, "status=failed", tmp_path, *options)
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (900, 1280)
    assert round(255 * float(pixels[-1, 2, 0])) == paper
    assert pixels.std() > 0.01, "the page is not blank"
