"""Hooks of mkdocs: what the site shows beside the pages of docs/, without a copy of it in the repository.

- The start page is README.md; CONTRIBUTING.md, CHANGELOG.md and SECURITY.md are pages, too.
- Each room (a package of dictpfl) gets a page with the docstrings of its modules.
- A page may link to any file of the repository, as it does where the repository itself is read. Such a file goes into the
  site, under its own path, so that the same link works in both places. A link to no file fails the strict build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PROJECT = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
"""Target of a relative link or picture, without its anchor."""
FENCE = re.compile(r"^```(\w+) (.+)$", re.MULTILINE)
"""Opening of a block with words after the language: the manuals in docs/deploy say there who types it, and the tests read it."""
MODULE = re.compile(r"(?<!\[)`(dictpfl(?:\.[a-z_]+)+)`")
ITEM = re.compile(r"(?:[-*+]|\d+\.) ")
_HIDDEN = "---\nsearch:\n  exclude: true\n---\n"
"""Front matter of copies that a search should not find."""


def rooms() -> dict[str, list[str]]:
    """Dotted names of the modules of each package, by the package's name; packages without a module are left out."""
    packages: dict[str, list[str]] = {"dictpfl": ["dictpfl"]}
    for top in ("common", "client", "server", "deploy"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] != "__main__":
                package = ".".join(("dictpfl", *parts[:-1]))
                packages.setdefault(package, []).append(
                    package if parts[-1] == "__init__" else f"{package}.{parts[-1]}"
                )
    return packages


def api_page(package: str, modules: list[str]) -> str:
    """Markdown of a room's page: mkdocstrings puts each module's docstrings in place of its `:::` line."""
    return "\n".join([f"# {package}\n", *(f"::: {name}\n" for name in modules)])


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made here into the navigation."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    sections: dict[str, list[Any]] = {
        "API": [{name.removeprefix("dictpfl."): f"reference/api/{name}.md"} for name in rooms()],
        "Decisions": ["decisions/index.md", *(f"decisions/{path.name}" for path in decisions)],
        "Project": [f"project/{name}" for name in PROJECT],
    }

    def filled(nav: list[Any]) -> list[Any]:
        return [
            {
                title: sections.get(title, filled(inner) if isinstance(inner, list) else inner)
                for title, inner in item.items()
            }
            if isinstance(item, dict)
            else item
            for item in nav
        ]

    config.nav = filled(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page, the project's pages, the API's pages, and every file outside docs/ that a page links to."""
    files.append(File.generated(config, "index.md", content=_moved(ROOT / "README.md", "index.md")))
    for name in PROJECT:
        files.append(File.generated(config, f"project/{name}", content=_moved(ROOT / name, f"project/{name}")))
    for package, modules in rooms().items():
        files.append(File.generated(config, f"reference/api/{package}.md", content=api_page(package, modules)))
    waiting = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", *PROJECT))]
    while waiting:
        for target in outside(waiting.pop()):
            uri = _uri(target)
            if files.get_file_from_path(uri) is None:
                files.append(_copy(config, target, uri))
                if target.suffix == ".md":
                    waiting.append(target)
    return files


def outside(page: Path) -> list[Path]:
    """Files of the repository, outside docs/, that a page links to."""
    targets = {(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
    return sorted(
        path
        for path in targets
        if path.is_file() and path.is_relative_to(ROOT) and _uri(path).startswith("repository/")
    )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/ towards the copies in the site, and names of modules into links to their docstrings.

    Links of generated pages are turned already.
    """
    del config, files
    if not page.file.generated_by:
        markdown = _turned(markdown, ROOT / "docs" / page.file.src_uri, page.file.src_uri)
    if page.file.src_uri.startswith("reference/api/"):
        return markdown
    known = {name for modules in rooms().values() for name in modules}
    return spaced(MODULE.sub(lambda m: f"[{m[0]}][{m[1]}]" if m[1] in known else m[0], FENCE.sub(_titled, markdown)))


def _titled(match: re.Match[str]) -> str:
    """A fence whose further words are its title."""
    language, words = match.groups()
    return f"```{language}" if words == "output" else f'```{language} title="{words}"'


def spaced(markdown: str) -> str:
    """Markdown with an empty line before each list: GitHub does without, Python-Markdown needs it."""
    lines: list[str] = []
    fenced = listed = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        item = not fenced and ITEM.match(line) is not None
        if item and not listed and lines and lines[-1].strip():
            lines.append("")
        listed = item or (listed and bool(line.strip()) and line.startswith(" ")) or (listed and not line.strip())
        lines.append(line)
    return "\n".join(lines) + "\n"


def _uri(target: Path) -> str:
    """Path of a file of the repository within the site's sources."""
    if target.is_relative_to(ROOT / "docs"):
        return target.relative_to(ROOT / "docs").as_posix()
    name = target.relative_to(ROOT).as_posix()
    return "index.md" if name == "README.md" else f"project/{name}" if name in PROJECT else f"repository/{name}"


def _turned(markdown: str, source: Path, uri: str) -> str:
    """Markdown of a file as it stands at `uri`: relative links lead to where their targets are in the site."""

    def turn(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        if not target.is_file() or not target.is_relative_to(ROOT):
            return match[1]  # left as it is: the strict build names it
        return posixpath.relpath(_uri(target), posixpath.dirname(uri) or ".")

    return LINK.sub(turn, markdown)


def _moved(source: Path, uri: str) -> str:
    return _turned(source.read_text(encoding="utf-8"), source, uri)


def _copy(config: MkDocsConfig, target: Path, uri: str) -> File:
    """A linked file as a part of the site: Markdown as a page, anything else as it is."""
    if target.suffix == ".md":
        return File.generated(config, uri, content=_HIDDEN + _moved(target, uri), inclusion=InclusionLevel.NOT_IN_NAV)
    return File.generated(config, uri, abs_src_path=str(target))
