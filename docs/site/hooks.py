"""mkdocs: pages that stand elsewhere in the repository, and links that lead out of docs/.

README.md is the first page and CHANGELOG.md one more, as they are: nothing is told twice. A source file that a page
links to becomes a page itself, so that the site is whole without a network.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")  # neither a URL nor a place on the same page
_LANGUAGES = {".py": "python", ".sh": "sh"}


def on_files(files: Any, *, config: Any) -> Any:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_moved((ROOT / source).read_text())))
    texts = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    for path in sorted(
        {path for page, text in texts for link in _LINK.findall(text) if (path := _outside(link, page))}
    ):
        listing = File.generated(config, _page(path), content=_listing(path), inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(listing)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """A link out of docs/ becomes one to the page that was made of that file."""
    here = page.file.src_uri

    def target(match: re.Match[str]) -> str:
        path = _outside(match[1], here)
        return posixpath.relpath(_page(path), posixpath.dirname(here)) if path else match[1]

    return _LINK.sub(target, markdown)


def _moved(text: str) -> str:
    """A page of the root as one of docs/: its links are relative to there."""
    return _LINK.sub(lambda link: PAGES.get(link[1]) or posixpath.relpath(link[1], "docs"), text)


def _outside(link: str, page: str) -> str | None:
    """The path of a linked file that is not in docs/, else None."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    if path.startswith("docs/"):
        return None
    if not (ROOT / path).is_file():
        raise PluginError(f"{page} links to {link}, which is no file of the repository")
    return path


def _page(path: str) -> str:
    return f"source/{path}.md"


def _listing(path: str) -> str:
    language = _LANGUAGES.get(posixpath.splitext(path)[1], "text")
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text()}````\n"
