"""report.html: one file that shows everything, runs nothing and asks nobody."""

import base64
import html
import html.parser
import json
import re

import pytest
from matplotlib.figure import Figure

from nullmark_jax.errors import InputError
from nullmark_jax.reports import figures, page
from nullmark_jax.reports.table import Table

RESULT = {"environment": {"command": "python -m it", "jax": "0.9"}, "seconds": 12.5}
# What HTML could take for its own, or a reader not see.
BAD = "<script>alert('1')</script> & \"x\" <img src=x onerror=y> é λ"


class Reader(html.parser.HTMLParser):
    """Collects a page's elements, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def write(folder, **changes):
    given = {
        "title": "Piracy: digit",
        "lead": "What it is.",
        "tables": [Table("A table", ("a", "b"), [["1", "**2**"]], "A note.")],
        "captions": {},
        "result": RESULT,
    } | changes
    page.write_page(folder, **given)
    text = (folder / "report.html").read_text()
    return text, Reader(text)


def save_figure(folder, name, value):
    figure = Figure()
    figure.subplots().plot([0, value])
    figures.save(figure, folder / "figures" / f"{name}.png")
    return (folder / "figures" / f"{name}.png").read_bytes()


def test_the_page_shows_what_it_is_given(tmp_path):
    (tmp_path / "config.json").write_text('{"task": "digit"}')
    text, reader = write(tmp_path)
    assert text.startswith("<!doctype html><html lang='en'><head><meta charset='utf-8'>")
    for shown in ("Piracy: digit", "What it is.", "A table", "A note.", '{"task": "digit"}'):
        assert shown in reader.text
    assert "python -m it" in reader.text and "12.5 seconds" in reader.text
    assert "<b>2</b>" in text
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".html"] == [
        "report.html"
    ]


def test_it_asks_nobody_and_runs_nothing(tmp_path):
    save_figure(tmp_path, "one", 1)
    (tmp_path / "config.json").write_text("{}")
    text, reader = write(tmp_path, captions={"one": "A figure."})
    assert "http" not in text and "//" not in re.sub(r"base64,[^']*'", "", text)
    assert "@import" not in text and "url(" not in text
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    sources = [value for _, name, value in reader.attributes if name in ("src", "href")]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")


def test_every_figure_is_inside(tmp_path):
    pngs = [save_figure(tmp_path, name, i) for i, name in enumerate(("one", "two", "three"))]
    captions = {"two": "The second.", "gone": "Not drawn.", "one": f"The first. {BAD}"}
    _, reader = write(tmp_path, captions=captions)
    inside = [
        base64.b64decode(value.removeprefix("data:image/png;base64,"))
        for tag, name, value in reader.attributes
        if (tag, name) == ("img", "src")
    ]
    # In the captions' order; a figure without a caption is not shown, nor a caption without one.
    assert inside == [pngs[1], pngs[0]]
    alternatives = [v for tag, name, v in reader.attributes if (tag, name) == ("img", "alt")]
    assert alternatives == ["The second.", f"The first. {BAD}"]
    assert "Not drawn." not in reader.text


def test_what_html_could_take_for_its_own_is_shown_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"name": BAD}, ensure_ascii=False))
    (tmp_path / "claim.json").write_text(BAD)
    text, reader = write(
        tmp_path,
        title=BAD,
        lead=BAD,
        tables=[Table(BAD, (BAD, "b"), [[BAD, f"**{BAD}**"]], BAD)],
        result={"environment": {"command": BAD}, "seconds": 1},
    )
    assert "<script" not in text and "onerror=y>" not in text
    assert not {"script", "img"} & set(reader.tags)
    # Title twice, lead, the table's title, note, header and two cells, the claim.
    assert reader.text.count(BAD) == 9
    assert reader.text.count(json.dumps(BAD, ensure_ascii=False)) == 1
    assert reader.text.count(json.dumps(BAD)) == 1


def test_a_page_with_triggers_is_secret_too(tmp_path):
    save_figure(tmp_path, "triggers", 1)
    _, reader = write(tmp_path)
    assert "for the owner and the authority alone" in reader.text


@pytest.mark.parametrize("claimed", [True, False])
def test_a_page_with_the_claim_says_that_it_is_secret(tmp_path, claimed):
    if claimed:
        (tmp_path / "claim.json").write_text("{}")
    text, reader = write(tmp_path)
    assert ("for the owner and the authority alone" in reader.text) is claimed
    assert ("<h2>Claim</h2>" in text) is claimed


def test_the_same_input_gives_the_same_bytes(tmp_path):
    save_figure(tmp_path, "one", 1)
    first, _ = write(tmp_path, captions={"one": "A figure."})
    again, _ = write(tmp_path, captions={"one": "A figure."})
    assert first == again


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"report\.html: cannot be written \(No such") as error:
        write(tmp_path / "nowhere")
    assert "\n" not in str(error.value)
