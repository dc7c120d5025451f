"""report.html in headless Chromium, opened from a disk: figures decode, nothing overflows or complains."""

import html
import json
import re
import shutil
import subprocess

import pytest
import tiny_victim
from matplotlib.figure import Figure

from nullmark_jax.reports import figures, page
from nullmark_jax.reports.table import Table

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the PATH"),
]

# Opens the page in a frame of so many pixels, and writes what the browser made of it as its own text.
OUTER = """<!doctype html><iframe id="page" src="report.html" width="{width}" height="800"></iframe>
<pre id="seen"></pre><script>
onload = () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  const shown = (each) => each.getBoundingClientRect().height > 0;
  document.getElementById("seen").textContent = JSON.stringify({{
    title: page.title,
    mode: page.compatMode,
    images: [...page.images].map((each) => each.complete && each.naturalWidth > 0 && shown(each)),
    tables: [...page.querySelectorAll("table")].map(shown),
    overflow: root.scrollWidth - root.clientWidth,
    fetched: page.defaultView.performance.getEntriesByType("resource").map((each) => each.name),
  }});
}};
</script>"""


def browse(folder, width):
    """Returns what Chromium made of a run folder's report, and what it complained of."""
    (folder / "outer.html").write_text(OUTER.format(width=width))
    run = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",  # Chromium has none for root.
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--dump-dom",
            (folder / "outer.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = re.search(r'<pre id="seen">(.*?)</pre>', run.stdout, re.DOTALL)
    assert seen, run.stdout[:500]
    return json.loads(html.unescape(seen[1])), re.findall(r".*CONSOLE.*", run.stderr)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_training_runs_report(tmp_path_factory, tmp_path, width):
    folder = shutil.copytree(tiny_victim.folder(tmp_path_factory), tmp_path / "run")
    seen, complaints = browse(folder, width)
    assert seen["title"] and seen["mode"] == "CSS1Compat"
    assert seen["images"] and all(seen["images"])
    assert seen["tables"] and all(seen["tables"])
    assert seen["overflow"] <= 0
    assert seen["fetched"] == [] and complaints == []


def test_a_wide_table_and_a_broken_figure(tmp_path):
    figure = Figure()
    figure.subplots().plot([0, 1])
    figures.save(figure, tmp_path / "figures" / "whole.png")
    (tmp_path / "figures" / "broken.png").write_bytes(b"no picture")
    page.write_page(
        tmp_path,
        title="A title",
        lead="A lead.",
        tables=[Table("Wide", tuple("abcdefghij"), [["123456789012"] * 10], "A note.")],
        captions={"whole": "Whole.", "broken": "Broken."},
        result={"environment": {"command": "c" * 300}, "seconds": 1.0},
    )
    seen, _ = browse(tmp_path, 390)
    # The check can fail: what is no picture is seen not to be one.
    assert seen["images"] == [True, False]
    # A wide table scrolls in itself, not the page.
    assert seen["overflow"] <= 0
