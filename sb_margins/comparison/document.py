"""A report as a list of blocks, written as one HTML page and as Markdown."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 70rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; }
.scroll { overflow-x: auto; margin: 0.8rem 0; border: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 0.9rem; min-width: 100%; }
th, td { padding: 0.35rem 0.7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e4e4e4; font-variant-numeric: tabular-nums; }
th { background: #f3f3f3; } th:first-child, td:first-child { text-align: left;
  position: sticky; left: 0; background: #fafafa; border-right: 1px solid #ddd; }
td.text, th.text { text-align: left; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto;
  display: block; }
figcaption, .note { font-size: 0.9rem; color: #444; }
pre { background: #f3f3f3; padding: 0.7rem; overflow-x: auto; font-size: 0.85rem; }
@media (max-width: 40rem) { body { padding: 0.6rem; font-size: 15px; }
  th, td { padding: 0.3rem 0.5rem; }
  th:first-child, td:first-child { white-space: normal; min-width: 6.5rem; }
  figure div { overflow-x: auto; }
  figure.wide img { max-width: none; width: 44rem; } }
"""


@dataclass(frozen=True)
class Heading:
    """A section's heading; ``level`` 1 is the title.

    Example
    -------
    >>> Heading("Results").level
    2
    """

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Example
    -------
    >>> Text("All is well.").text
    'All is well.'
    """

    text: str


@dataclass(frozen=True)
class Code:
    """Something to be typed.

    Example
    -------
    >>> Code("sb-margins losses").text
    'sb-margins losses'
    """

    text: str


@dataclass(frozen=True)
class Table:
    """A table with a caption; the columns in ``left`` hold words.

    Example
    -------
    >>> Table(["system", "EER"], [["am", "9.1"]], "test").left
    ()
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    left: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG with a caption; a wide one is scrolled, not shrunk, on a phone.

    Example
    -------
    >>> Picture(Path("det.png"), "DET curves").caption
    'DET curves'
    """

    path: Path
    caption: str
    wide: bool = False


Block = Heading | Text | Code | Table | Picture


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One page that needs no other file.

    Arguments
    ---------
    blocks : sequence of blocks
    title : str
        Of the window.

    Returns
    -------
    str

    Example
    -------
    >>> page = to_html([Heading("A < B", 1), Table(["x"], [["1"]])], "A")
    >>> "<h1>A &lt; B</h1>" in page and "http" not in page
    True
    """
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>",
        "</head>\n<body>",
    ]
    parts += [_html(block) for block in blocks]
    return "\n".join([*parts, "</body>\n</html>\n"])


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre><code>{html.escape(block.text)}</code></pre>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.path.read_bytes()).decode()
        words = html.escape(block.caption)
        wide = ' class="wide"' * block.wide
        return (
            f'<figure{wide}><div><img alt="{words}" '
            f'src="data:image/png;base64,{data}"></div>\n'
            f"<figcaption>{words}</figcaption></figure>"
        )

    def row(cells: Sequence[str], tag: str) -> str:
        words = ' class="text"'
        made = [
            f"<{tag}{words if i in block.left else ''}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(row(cells, "td") for cells in block.rows)
    caption = f'<p class="note">{html.escape(block.caption)}</p>'
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead>{row(block.head, "th")}'
        f"</thead>\n<tbody>\n{body}\n</tbody></table></div>"
        + (caption if block.caption else "")
    )


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """The same in Markdown; pictures are named relative to ``folder``.

    Arguments
    ---------
    blocks : sequence of blocks
    folder : Path
        Where the text will lie.

    Returns
    -------
    str

    Example
    -------
    >>> print(to_markdown([Heading("A"), Table(["x", "y"], [["a", "1"]])], Path(".")))
    ## A
    <BLANKLINE>
    | x | y |
    | :--- | ---: |
    | a | 1 |
    <BLANKLINE>
    """
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Picture):
        place = block.path.relative_to(folder).as_posix()
        return f"![{block.caption}]({place})\n\n{block.caption}"
    safe = [[cell.replace("|", "\\|") for cell in row] for row in block.rows]
    marks = [
        ":---" if i == 0 or i in block.left else "---:" for i in range(len(block.head))
    ]
    lines = [block.head, marks, *safe]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{block.caption}" if block.caption else text
