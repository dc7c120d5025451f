"""Tables of results as Markdown and as HTML, to the letter."""

import pytest

from nullmark_jax.reports.table import Table


def test_markdown_to_the_letter():
    table = Table(
        "After the attack, %",
        ("attacker", "NC", "null"),
        [["sgd, 0.001", "98.51", ""], ["**adam**", "**99.20**", "12.00 (1.00 to 30.00)"]],
        "NC: ordinary accuracy.",
    )
    assert table.markdown() == (
        "**After the attack, %**\n"
        "\n"
        "| attacker | NC | null |\n"
        "|---|---|---|\n"
        "| sgd, 0.001 | 98.51 |  |\n"
        "| **adam** | **99.20** | 12.00 (1.00 to 30.00) |\n"
        "\n"
        "NC: ordinary accuracy."
    )


def test_markdown_without_a_note_or_rows():
    assert Table("T", ("a",), []).markdown() == "**T**\n\n| a |\n|---|"
    assert Table("T", ("a",), [["1"]]).markdown() == "**T**\n\n| a |\n|---|\n| 1 |"


def test_html_to_the_letter():
    table = Table("T, %", ("a", "b"), [["1", "**2**"], ["", "3"]], "A note.")
    assert table.html() == (
        "<table><caption>T, %</caption>"
        "<tr><th>a</th><th>b</th></tr>"
        "<tr><td>1</td><td><b>2</b></td></tr>"
        "<tr><td></td><td>3</td></tr>"
        "</table><p class='note'>A note.</p>"
    )
    assert Table("T", ("a",), []).html() == "<table><caption>T</caption><tr><th>a</th></tr></table>"


def test_html_escapes_whatever_it_holds():
    table = Table("<i>", ("a&b", '"'), [["<script>", "**<b>'**"]], "x < y > z")
    assert table.html() == (
        "<table><caption>&lt;i&gt;</caption>"
        "<tr><th>a&amp;b</th><th>&quot;</th></tr>"
        "<tr><td>&lt;script&gt;</td><td><b>&lt;b&gt;&#x27;</b></td></tr>"
        "</table><p class='note'>x &lt; y &gt; z</p>"
    )


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("**x**", "<b>x</b>"),
        ("**", "**"),
        ("****", "****"),
        ("**x", "**x"),
        ("x**", "x**"),
        ("a **x** b", "a **x** b"),
    ],
)
def test_bold_is_a_whole_cell_s(cell, shown):
    assert f"<td>{shown}</td>" in Table("T", ("a",), [[cell]]).html()
