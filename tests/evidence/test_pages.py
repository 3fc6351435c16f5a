"""Pages as HTML: valid, without scripts and networks, and nothing of what a user wrote runs."""

import re
from base64 import b64decode
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from typing_extensions import override

from sat_optuna.bench.training_report import accuracy_line
from sat_optuna.cost.timing import interval_text
from sat_optuna.errors import WriteError
from sat_optuna.evidence.claims import Claim
from sat_optuna.evidence.effects import signed
from sat_optuna.evidence.pages import markdown_table, write_html, write_page
from sat_optuna.ticket import ACCURACY, Measure

BENCH = {
    "difference": {"n": 2, "mean": -0.004, "low": -0.1, "high": 0.1},
    "ours": [90.0],
    "usual": [90.0],
    **dict.fromkeys(("data", "network", "epochs", "precision", "memory_format"), ""),
}
EMPTY = {"meta", "img", "br", "hr"}  # elements of HTML that have no end
PARENTS = {
    "html": {""},
    "head": {"html"},
    "body": {"html"},
    "main": {"body"},
    "title": {"head"},
    "style": {"head"},
    "meta": {"head"},
    "table": {"div"},
    "thead": {"table"},
    "tbody": {"table"},
    "tr": {"thead", "tbody"},
    "th": {"tr"},
    "td": {"tr"},
    "li": {"ul", "ol"},
}


class Parsed(HTMLParser):
    """A page as a strict reader takes it: each element ends, and holds what it may."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.title = self.text = ""

    @classmethod
    def of(cls, path):
        raw = path.read_text(encoding="utf-8")
        assert raw.startswith('<!DOCTYPE html>\n<html lang="en">\n')
        page = cls()
        page.feed(raw)
        page.close()
        assert page.open == []
        for once in ("html", "head", "title", "body", "main", "h1"):
            assert page.tags.count(once) == 1, once
        assert page.tags[:2] == ["html", "head"]
        assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & {*page.tags}
        assert page.title
        return page

    @override
    def handle_starttag(self, tag, attrs):
        parent = self.open[-1] if self.open else ""
        assert parent in PARENTS.get(tag, {parent}), (tag, parent)
        assert parent != "p" or tag in ("a", "code", "em", "strong", "img", "br"), tag
        assert len(dict(attrs)) == len(attrs), "an attribute stands twice"
        given = dict(attrs)
        assert not [name for name in given if name.startswith("on")]
        self.tags.append(tag)
        if tag == "img":
            assert given.keys() >= {"src", "alt"}
            assert given["alt"]
            assert given["src"].startswith("data:image/")
            self.pictures.append((given["alt"], given["src"]))
        if tag == "a":
            self.links.append(given["href"])
        if tag not in EMPTY:
            self.open.append(tag)

    @override
    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    @override
    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "title":
            self.title += data


def page_of(folder, text):
    page = folder / "report.md"
    write_page(page, text)
    return Parsed.of(folder / "report.html")


@pytest.mark.parametrize(
    ("column", "mark"),
    [
        (["1", "2.5"], "---:"),
        (["+1.00", "\N{MINUS SIGN}0.50", "-0.5"], "---:"),
        (["17,000 (+700)", "\N{EN DASH}"], "---:"),
        (["the same network", "+0.10"], "---:"),
        (["< 0.001", "0.5"], "---:"),
        (["\N{EN DASH}", ""], "---"),
        (["`100-010`", "`000-000`"], "---"),
        (["s1.b00"], "---"),
        ([], "---"),
    ],
)
def test_columns_of_numbers_are_aligned_at_the_right(column, mark):
    lines = markdown_table(["a", "b"], [["x", cell] for cell in column]).splitlines()
    assert lines[1] == f"|---|{mark}|"
    assert len(lines) == 2 + len(column)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (ACCURACY.number(-0.004), "0.00"),
        (Measure("log_loss", "nats", "lower").number(-0.00004), "0.0000"),
        (ACCURACY.number(-0.006), "-0.01"),
        (signed(-0.004), "+0.00"),
        (interval_text({"x": -0.004, "x_low": -0.2, "x_high": -0.0}, "x", "{:z.2f}"),
         "0.00 (-0.20 to 0.00)"),
        (Claim("a", "b", "holds", -0.004, -0.2, -0.0, "points", 0.95).line(),
         "a: holds: b: +0.00 points (95 % interval \N{MINUS SIGN}0.20 to +0.00)"),
        (str(accuracy_line(BENCH)), "+0.00 points"),
    ],
)  # fmt: skip
def test_a_zero_has_no_minus(text, wanted):
    assert wanted in text


def test_a_table_holds_any_text(tmp_path):
    table = markdown_table(["na|me", "n"], [["`a|b`", "1"], ["<i>", "2"]])
    page = page_of(tmp_path, f"# Table\n\n{table}\n")
    assert page.tags.count("td") == 4
    assert "na|me" in page.text
    assert "a|b" in page.text
    assert "<i>" in page.text
    html = (tmp_path / "report.html").read_text()
    assert '<td style="text-align:right">1</td>' in html
    # What is too wide scrolls, and no scheme is broken within a cell.
    assert '<div class="table" tabindex="0"><table>' in html
    assert re.search(r"\.table \{[^}]*overflow-x: auto", html)
    assert re.search(r"td \{[^}]*white-space: nowrap", html)


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "a & b", "\"quoted\" 'too'", "</title><b>", "&lt;b&gt;", "<!--"],
)
def test_nothing_that_a_user_named_is_markup(tmp_path, name):
    page = page_of(tmp_path, f"# {name}: which\n\nOf {name} and\n\n- {name}\n\n{name}\n")
    said = MarkdownIt("commonmark", {"html": False}).parseInline(name)[0].children
    shown = "".join(part.content for part in said or ())
    assert page.title == f"{shown}: which"
    assert page.text.count(shown) == 5
    assert "b" not in page.tags


def test_links_cannot_run_anything_and_lead_to_the_other_pages(tmp_path):
    write_page(tmp_path / "evidence.md", "# Evidence\n")
    page = page_of(
        tmp_path,
        "# Links\n\n[run](javascript:alert(1)) [one](evidence.md#c1) [two](folded.md) "
        "[far](https://arxiv.org/abs/2207.07858)\n",
    )
    assert page.links == ["evidence.html#c1", "folded.md", "https://arxiv.org/abs/2207.07858"]


@pytest.mark.parametrize(
    "source",
    ["https://example.org/a.png", "//example.org/a.png", "../secret.png", "missing.png", "",
     "data:image/png;base64,AA", "notes.txt", "%00.png", "/etc/hostname", "link.png"],
)  # fmt: skip
def test_a_picture_that_is_none_of_the_folders_own_is_named_and_not_shown(tmp_path, source):
    folder = tmp_path / "study"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "notes.txt").write_text("secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    page = page_of(folder, f"# Pictures\n\n![what it shows]({source})\n")
    assert page.pictures == []
    assert "[what it shows]" in page.text
    assert b"c2VjcmV0" not in (folder / "report.html").read_bytes()


def test_pictures_are_in_the_page_the_sharp_ones_first(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("a b.png", "c.png", "c.svg"):
        (tmp_path / "figures" / name).write_bytes(name.encode())
    page = page_of(tmp_path, "# P\n\n![one](figures/a%20b.png)\n\n![two](figures/c.png)\n")
    (one, first), (two, second) = page.pictures
    assert (one, two) == ("one", "two")
    assert b64decode(first.removeprefix("data:image/png;base64,")) == b"a b.png"
    assert b64decode(second.removeprefix("data:image/svg+xml;base64,")) == b"c.svg"


def test_a_page_asks_nothing_of_a_network(tmp_path):
    write_page(tmp_path / "report.md", "# P\n\nSee https://example.org and `url(http://a)`.\n")
    html = (tmp_path / "report.html").read_text()
    assert "default-src 'none'; img-src data:" in html
    head = html.partition("<body>")[0]
    assert not re.search(r"https?:|@import|url\(", head)
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in head


def test_a_page_is_written_only_where_it_is_another(tmp_path, monkeypatch):
    page = write_page(tmp_path / "report.md", "# One\n")
    html = tmp_path / "report.html"
    before = [path.stat().st_mtime_ns for path in (page, html)]
    write_page(page, "# One\n")
    assert [path.stat().st_mtime_ns for path in (page, html)] == before
    html.write_bytes(b"\xff edited")
    assert write_html(page) == html
    assert Parsed.of(html).title == "One"
    page.write_bytes(b"# Somebody's \xff words\n")
    write_html(page)
    assert "Somebody's" in Parsed.of(html).text
    monkeypatch.chdir(tmp_path)  # a page without a folder in its path
    (tmp_path / "a.png").write_bytes(b"a")
    page.write_text("# P\n\n![a](a.png)\n")
    assert len(Parsed.of(write_html(page.relative_to(tmp_path))).pictures) == 1


def test_a_page_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(WriteError):
        write_page(tmp_path / "file" / "report.md", "# P\n")
