"""Pages of a study: Markdown, and beside it the same as HTML that opens by a double click.

The HTML is one file without scripts that asks nothing of a network: its pictures are in it.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from sat_optuna.files import write_text

__all__ = ["markdown_table", "write_html", "write_page"]

_NUMBER = re.compile(r"[<>±+\-\N{MINUS SIGN}]? ?\d")
_PICTURES = {".svg": "image/svg+xml", ".png": "image/png"}
_STYLE = """\
body { margin: 0; color: #22303c; background: #fff; font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1, h2 { line-height: 1.25; }
img { max-width: 100%; height: auto; }
code { font-family: ui-monospace, monospace; font-size: 0.9em; overflow-wrap: anywhere; }
a { color: #00538a; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #c9d1d9; white-space: nowrap; }
th { text-align: left; }
"""
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, whose columns of numbers are aligned at the right.

    >>> print(markdown_table(["network", "n"], [["plain", "3"], ["full", "-"]]))
    | network | n |
    |---|---:|
    | plain | 3 |
    | full | - |

    Args:
        heads: one a column.
        rows: their cells.
    """
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (heads, *rows)]
    head, *below = (f"| {' | '.join(row)} |" for row in cells)
    columns = zip(*cells[1:], strict=True) if cells[1:] else [()] * len(heads)
    marks = ["---:" if any(map(_NUMBER.match, column)) else "---" for column in columns]
    return "\n".join([head, f"|{'|'.join(marks)}|", *below])


def write_page(path: Path, text: str) -> Path:
    """Write a page of Markdown, and the same as HTML beside it, untouched where they are so.

    Args:
        path: of the Markdown file; its pictures are there already.
        text: the page.

    Returns:
        `path`.

    Raises:
        WriteError: a file could not be written.
    """
    _write_changed(path, text)
    write_html(path)
    return path


def write_html(page: Path) -> Path:
    """Write a page of Markdown that is there as HTML beside it, untouched where it is so.

    Args:
        page: the Markdown file.

    Returns:
        The path of the HTML file.

    Raises:
        WriteError: the file could not be written.
    """
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
    tokens = parser.parse(page.read_text(encoding="utf-8", errors="replace"))
    for token in tokens:
        for part in token.children or ():
            _make_whole(part, page.parent.resolve())
    title = page.stem
    if len(tokens) > 1 and tokens[0].type == "heading_open":
        title = "".join(part.content for part in tokens[1].children or ())
    body = str(parser.renderer.render(tokens, parser.options, {}))
    body = body.replace("<table>", '<div class="table" tabindex="0"><table>')
    body = body.replace("</table>", "</table></div>")
    text = _PAGE.format(policy=_POLICY, title=escape(title), style=_STYLE, body=body)
    return _write_changed(page.with_suffix(".html"), text)


def _make_whole(part: Token, folder: Path) -> None:
    """Put a picture into the page, or what it is called; let links go to the other pages' HTML."""
    if part.type == "image":
        picture = _picture(str(part.attrs["src"]), folder)
        if picture is None:
            part.type, part.content = "text", f"[{part.content}]"
        else:
            part.attrs["src"] = picture
    elif part.type == "link_open":
        link = urlsplit(str(part.attrs["href"]))
        beside = folder / unquote(link.path)
        if not link.netloc and beside.suffix == ".md" and beside.with_suffix(".html").is_file():
            to = link._replace(path=f"{link.path.removesuffix('.md')}.html")
            part.attrs["href"] = to.geturl()


def _picture(source: str, folder: Path) -> str | None:
    """Return a picture of a folder as data, its SVG where there is one; None if it has none."""
    named = folder / unquote(source)
    for suffix in dict.fromkeys((".svg", named.suffix)):
        path = named.with_suffix(suffix)
        ours = suffix in _PICTURES and path.is_file()
        if ours and path.resolve().is_relative_to(folder):  # others' files are not shown around
            data = b64encode(path.read_bytes()).decode("ascii")
            return f"data:{_PICTURES[suffix]};base64,{data}"
    return None


def _write_changed(path: Path, text: str) -> Path:
    same = path.is_file() and path.read_bytes() == text.encode()
    return path if same else write_text(path, text)
