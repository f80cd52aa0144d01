"""HTML written so that nothing gets into a page unescaped: only what `element` makes is markup.

``element("td", "a < b")`` is ``<td>a &lt; b</td>``: a string is text, a `Markup` is an element.
A page is one file with one style, no script and nothing to fetch, and tells the browser so.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Union

# Inside these no line may be broken: blanks count there.
_PHRASES = frozenset(("a", "abbr", "b", "code", "small", "span", "strong", "time"))
_LINES = frozenset(("caption", "dd", "dt", "h1", "h2", "h3", "li", "p", "pre", "style", "summary", "td", "th", "title"))
_EMPTY = frozenset(("meta",))


class Markup(str):
    """Text that is HTML already."""


Content = Union[str, None, Iterable["Content"]]


def element(tag: str, /, *content: Content, **attributes: str | int | None) -> Markup:
    """Return an element. Attributes that are None are left out; ``class_`` is ``class``, ``a_b`` is ``a-b``."""
    words = [tag]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(str(value))}"')
    start, end = f"<{' '.join(words)}>", f"</{tag}>"
    if tag in _EMPTY:
        return Markup(start + "\n")
    if tag in _PHRASES:
        return Markup(start + text(content) + end)
    if tag in _LINES:
        return Markup(start + text(content) + end + "\n")
    return Markup(f"{start}\n{text(content)}{end}\n")


def text(content: Content) -> Markup:
    """Return content as HTML: elements as they are, everything else escaped."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup("")
    if isinstance(content, str):
        return Markup(escape(content))
    return Markup("".join(text(part) for part in content))


def page(title: str, *body: Content, note: str = "", style: str = "") -> str:
    """Return a page with this body; ``note`` goes into a comment before everything, ``style`` after the common one."""
    if "--" in note or ">" in note or "<" in style:
        raise ValueError("neither a note may end its comment, nor a style its element")
    head = [
        element("meta", charset="utf-8"),
        # The browser itself refuses what the page must not do, whatever came into it.
        element("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(_STYLE + style)),
    ]
    comment = Markup(f"<!-- {note} -->\n" if note else "")
    html = element("html", element("head", head), element("body", element("main", body)), lang="en")
    return f"<!DOCTYPE html>\n{comment}{html}"


_STYLE = """
:root {
  --paper: #fff; --ink: #1b2230; --quiet: #566073; --line: #d5dae2; --band: #f4f6f9;
  --accent: #0b5a8a; --good: #1a6b3c; --good-band: #e2f3e8; --plain: #2f4f8f; --plain-band: #e5ecfa;
  --warn: #8a4b00; --warn-band: #fdf1dc;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181f; --ink: #e6e9ee; --quiet: #a3adbd; --line: #363e4b; --band: #1d232d;
  --accent: #7cc1ee; --good: #8fdcae; --good-band: #163524; --plain: #abc4f7; --plain-band: #1d2c4a;
  --warn: #f3c27e; --warn-band: #3a2a10;
} }
@media print { :root {
  --paper: #fff; --ink: #000; --quiet: #333; --line: #999; --band: #fff;
  --accent: #000; --good: #000; --good-band: #fff; --plain: #000; --plain-band: #fff;
  --warn: #000; --warn-band: #fff;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 80rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin-top: 0; }
h2 { font-size: 1.25rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; }
p, ul, dl { margin: .5rem 0; max-width: 48rem; }
p, li, dd { overflow-wrap: anywhere; }
.quiet { color: var(--quiet); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; }
dt { color: var(--quiet); }
dd { margin: 0; }
code, pre, .value { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .9em; }
pre {
  margin: .5rem 0; padding: .75rem; background: var(--band); border: 1px solid var(--line); border-radius: 4px;
  max-width: 50rem; white-space: pre-wrap; overflow-wrap: anywhere;
}
@media print {
  @page { margin: 15mm; }
  body { font-size: 10pt; }
  main { padding: 0; max-width: none; }
  h1, h2, h3 { break-after: avoid; }
  pre { break-inside: avoid; }
  dl { break-inside: avoid; }
}
"""
