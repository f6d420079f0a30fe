"""Pages of the documentation site that are made from the tree, a hook of MkDocs (mkdocs.yml).

- the commands, from the app of ``equimd`` itself: what ``--help`` prints, option by option;
- Python: the functions and results of ``equimd`` with their settings, and the packages beneath, from docstrings;
- the tables and plots of benchmarks/results, CHANGELOG.md and CONTRIBUTING.md, as they stand.

Links are written as they hold in a checkout; those that leave docs/ are turned to the page that the site has instead.
"""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
COMMANDS, PYTHON = "reference/commands", "reference/python"
#: Files of the tree that are pages: where each stands in the site.
COPIED = {
    "CHANGELOG.md": "development/changelog.md",
    "CONTRIBUTING.md": "development/contributing.md",
    **{f"benchmarks/results/{p.name}": f"reference/results/{p.name}" for p in sorted(RESULTS.glob("*.md"))},
}
#: What the site says of Python beneath the functions of the commands: a page each.
PACKAGES = ("calculators", "data", "model", "uq", "guard", "forces", "md", "errors", "units", "config")
#: Before a page that search shows after those which explain.
LAST = "---\nsearch: {boost: 0.2}\n---\n\n"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation with the pages that are made."""
    os.environ.pop("EQUIMD_EXTENSIONS", None)  # the reader's equimd has none
    made = {"commands": command_pages(), "python": python_pages(), "results": result_pages()}

    def filled(items: list[Any]) -> list[Any]:
        return [{k: value(v) for k, v in item.items()} if isinstance(item, dict) else item for item in items]

    def value(given: Any) -> Any:
        if isinstance(given, list):
            return filled(given)
        return made[given.removeprefix("generated:")] if given.startswith("generated:") else given

    config.nav = filled(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages themselves."""
    for uri, text in [*commands(), *python()]:
        files.append(File.generated(config, uri, content=text))
    for source, uri in COPIED.items():
        files.append(File.generated(config, uri, content=LAST + (ROOT / source).read_text()))
    for image in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"reference/results/{image.name}", abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as the site has them."""
    here = page.file.src_uri
    source = next((name for name, uri in COPIED.items() if uri == here), f"docs/{here}")
    return LINK.sub(lambda found: site_link(found[1], source, here) + (found[2] or ""), markdown)


def site_link(target: str, source: str, page: str) -> str:
    """The link of ``page`` to what the file ``source`` of the tree links to as ``target``."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    inside = {"README.md": "index.md", **COPIED}.get(path, path.removeprefix("docs/") if path[:5] == "docs/" else None)
    return target if inside is None else posixpath.relpath(inside, posixpath.dirname(page) or ".")


def result_pages() -> list[dict[str, str]]:
    """The tables of the benchmarks, by their titles."""
    pages = [(source, uri) for source, uri in COPIED.items() if source.startswith("benchmarks/")]
    return [{(ROOT / source).read_text().partition("\n")[0].lstrip("# "): uri} for source, uri in pages]


# commands


def command_pages() -> list[Any]:
    from equimd.cli.commands import COMMANDS as TABLE

    return [f"{COMMANDS}/index.md", *({f"equimd {name}": f"{COMMANDS}/{name}.md"} for name in TABLE)]


def commands() -> Iterator[tuple[str, str]]:
    """A page a command, and one that lists them."""
    import click
    from typer.main import get_command

    from equimd.cli.commands import COMMANDS as TABLE
    from equimd.cli.main import app

    group = get_command(app)
    root = click.Context(group, info_name="equimd")
    rows = [f"| [`equimd {name}`]({name}.md) | {entry.help} |" for name, entry in TABLE.items()]
    table = "\n".join(["| command | |", "|---|---|", *rows])
    yield f"{COMMANDS}/index.md", f"# Commands\n\n{helped(group.help)}\n\n{table}\n"
    for name in TABLE:
        command = group.get_command(root, name)
        context = click.Context(command, info_name=name, parent=root)
        text = f"# equimd {name}\n\n{described(command, context)}"
        for sub, below in sorted(getattr(command, "commands", {}).items()):
            inner = click.Context(below, info_name=sub, parent=context)
            text += f"\n## equimd {name} {sub}\n\n{described(below, inner)}"
        yield f"{COMMANDS}/{name}.md", text


def described(command: Any, context: Any) -> str:
    """What ``--help`` says: usage, text, arguments, options."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"```text\n{usage}\n```", helped(command.help)]
    for kind in ("argument", "option"):
        shown = [
            p for p in command.get_params(context) if p.param_type_name == kind and not getattr(p, "hidden", False)
        ]
        records = [r for p in shown if (r := p.get_help_record(context)) and "--help" not in r[0]]
        if records:
            rows = [f"| {code(name)} | {cell(text)} |" for name, text in records]
            parts.append("\n".join([f"| {kind} | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def cell(text: str) -> str:
    """A text in a table."""
    return escaped(re.sub(r"\s+", " ", text).replace("|", r"\|").strip())


def code(text: str) -> str:
    """A name in a table, as it stands."""
    return f"`{' '.join(text.split())}`"


def escaped(text: str) -> str:
    """Without what Markdown would take for HTML."""
    return text.replace("<", "&lt;")


def helped(text: str | None) -> str:
    """A help text as Markdown: what is printed as it stands (after a ``\\b``) becomes a block of code."""
    parts = []
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        body = paragraph.removeprefix("\b\n")
        block = body != paragraph or body.startswith("    ")
        parts.append(f"```bash\n{textwrap.dedent(body)}\n```" if block else escaped(body))
    return "\n\n".join(parts)


# Python


def python_pages() -> list[Any]:
    names = [{f"equimd.{name}": f"{PYTHON}/{name}.md"} for name in PACKAGES]
    return [{"equimd": f"{PYTHON}/index.md"}, *names]


def python() -> Iterator[tuple[str, str]]:
    """A page of what ``import equimd`` gives, and one for each package beneath."""
    yield f"{PYTHON}/index.md", "\n\n".join([f"{LAST}# Python: equimd", *functions(), ""])
    for name in PACKAGES:
        first, *rest = modules(name)
        found = "\n\n".join([f"::: {first}\n    options: {{show_root_heading: false}}", *(f"::: {m}" for m in rest)])
        yield f"{PYTHON}/{name}.md", f"{LAST}# equimd.{name}\n\n{found}\n"


def functions() -> Iterable[str]:
    """Every public name of ``equimd``: a table, then functions with their settings, and what they return."""
    import equimd

    names = sorted((n for n in equimd.__all__ if n not in PACKAGES), key=lambda n: (n[0].isupper(), n))
    found = {name: getattr(equimd, name) for name in names}
    rows = [f"| [`equimd.{n}`][{of.__module__}.{of.__qualname__}] | {first_line(of)} |" for n, of in found.items()]
    yield "\n".join(["| name | |", "|---|---|", *rows])
    for name, of in found.items():
        if of.__module__.split(".")[1] in PACKAGES:
            continue
        yield f"::: {of.__module__}.{of.__qualname__}"
        settings = settings_of(of)
        if settings:
            yield "\n".join([f"**Settings of {name}**", "", "| keyword | default | |", "|---|---|---|", *settings])


def first_line(of: Any) -> str:
    """What the docstring begins with."""
    return cell(re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", (inspect.getdoc(of) or "").split("\n\n")[0]))


def settings_of(function: Any) -> list[str]:
    """A row a setting: its name, default, and what the settings class says of it."""
    if not inspect.isfunction(function) or "\n\nSettings:\n" not in (function.__doc__ or ""):
        return []
    listed = textwrap.dedent((function.__doc__ or "").split("\n\nSettings:\n")[1])
    said = dict(line.split(": ", 1) for line in re.sub(r"\n\s+", " ", listed).strip().splitlines())
    parameters = inspect.signature(function).parameters
    return [f"| `{key}` | {code(repr(parameters[key].default))} | {cell(text)} |" for key, text in said.items()]


def modules(package: str) -> list[str]:
    """A module or, of a package, its public modules; how readers and PaiNN work inside is left out."""
    top = ROOT / "equimd" / package
    if not top.is_dir():
        return [f"equimd.{package}"]
    paths = [p for p in sorted(top.glob("*.py")) if not p.stem.startswith("_")]
    return [f"equimd.{package}", *(".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths)]
