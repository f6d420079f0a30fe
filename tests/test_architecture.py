"""What holds for the whole tree: the direction of dependencies, and habits no single file can show to be broken."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("equimd", "cli", "benchmarks")

# Each part may import those before it and itself, nothing after it; parts on one line do not know each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("notices", "shown"),
    ("tables",),
    ("registry", "units", "files", "progress", "interrupts", "chemistry"),
    ("fields", "terminal"),
    ("config", "machine", "workers"),
    ("data",),
    ("model",),
    ("run",),
    ("training", "uq"),
    ("guard",),
    ("forces", "md"),
    ("calculators", "methods", "plots"),
    ("labels",),
    ("tasks.keywords",),
    ("tasks.doctor", "tasks.export", "tasks.generate", "tasks.label", "tasks.predict"),
    ("tasks.calibrate", "tasks.evaluate", "tasks.pretrain", "tasks.simulate"),
    ("tasks.audit", "tasks.compare", "tasks.train", "tasks.trajectory"),
    ("tasks.learn",),
    ("tasks.report",),
    ("benchmarks",),
    ("cli",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


#: Where PaiNN is known by name: models, what trains it, and what is timed beside the peers.
KNOW_PAINN = ("equimd.model", "equimd.training", "equimd.benchmarks.peers.run_equimd")
#: An attribute of laplace-torch's models, not of ours, that is called like one.
LAPLACE_TORCH = "self.model.last_layer"


def module_name(path: Path) -> str:
    """The name a file is imported under: ``cli/main.py`` is ``equimd.cli.main``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "equimd" else ("equimd", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for s in SOURCES for p in sorted((ROOT / s).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _nodes(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """The nodes that run (not those under TYPE_CHECKING), on import alone unless ``inside_functions``."""
    for node in ast.iter_child_nodes(tree):
        if _is_type_checking(node):
            continue
        yield node
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _nodes(node, inside_functions=inside_functions)


def _imports(name: str, *, inside_functions: bool) -> set[str]:
    """The modules that module ``name`` imports, by full name."""
    found = set()
    for node in _nodes(TREES[name], inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def _part(name: str) -> str | None:
    """The part of the package a module belongs to, each task one; None for the packages and what is not equimd's."""
    pieces = name.split(".")
    if pieces[0] != "equimd" or len(pieces) == 1 or pieces[1:] == ["tasks"]:
        return None
    return ".".join(pieces[1:3]) if pieces[1] == "tasks" else pieces[1]


def _calls(name: str) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def test_every_part_has_a_place() -> None:
    assert {_part(name) for name in MODULES} - {None} == RANK.keys()


@pytest.mark.parametrize("name", sorted(n for n in MODULES if _part(n)))
def test_dependencies_go_one_way(name: str) -> None:
    own = str(_part(name))
    for imported in _imports(name, inside_functions=True):
        other = _part(imported)
        if other is not None and other != own:
            assert RANK[other] < RANK[own], f"{name} imports {imported}"


def test_nothing_imports_the_package_root_from_inside() -> None:
    """``equimd/__init__.py`` is the public face and imports what it shows; the inside goes to the source."""
    for name in MODULES:
        if name != "equimd" and _part(name) != "benchmarks":
            assert "equimd" not in _imports(name, inside_functions=True), name


def _in(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _public_members(module: str, *classes: str) -> set[str]:
    """What the instances of some classes offer: methods, attributes set on ``self``, and registered buffers."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    found.add(inner.name)
                elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                    found.add(inner.attr)
                elif isinstance(inner, ast.Call) and ast.unparse(inner.func) == "self.register_buffer":
                    found.add(ast.literal_eval(inner.args[0]))
    return {name for name in found if not name.startswith("_")}


@cache
def _beyond_the_interface() -> set[str]:
    """What PaiNN's potential offers and the interface does not ask for."""
    own = _public_members("equimd.model.painn.potential", "Potential")
    own |= _public_members("equimd.model.differentiable", "DifferentiableModel")
    return own - _public_members("equimd.model.interface", "Model", "CompilableModel", "VirialModel")


@pytest.mark.parametrize("name", sorted(n for n in MODULES if not _in(n, KNOW_PAINN)))
def test_a_model_is_known_by_its_interface(name: str) -> None:
    """No module but those of ``KNOW_PAINN`` imports PaiNN, or takes from a model what the interface does not have."""
    assert not {i for i in _imports(name, inside_functions=True) if _in(i, ("equimd.model.painn",))}, name
    own = _beyond_the_interface()
    assert {"network", "config", "last_layer", "atomic_energies", "backbone", "force_head", "scale"} <= own
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and node.attr in own:
            holder = ast.unparse(node.value).rsplit(".", 1)[-1]
            where = f"{name}:{node.lineno}: {ast.unparse(node)}"
            assert holder not in ("model", "potential") or where.endswith(LAPLACE_TORCH), where


def test_no_import_cycles() -> None:
    graph = {name: _imports(name, inside_functions=False) & MODULES.keys() - {name} for name in MODULES}
    while graph:
        free = [name for name, needed in graph.items() if not needed & graph.keys()]
        assert free, f"modules that import each other, or import such modules: {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_habits(name: str) -> None:
    tree = TREES[name]
    if tree.body:
        assert ast.get_docstring(tree), f"{name} has no docstring"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"{name}:{node.lineno}: bad input raises equimd.errors, not assert"
    for node, function in _calls(name):
        where = f"{name}:{node.lineno}"
        last = function.rsplit(".", 1)[-1]
        assert last not in ("set_default_dtype", "set_default_device", "set_float32_matmul_precision"), where
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if function == "torch.load":
            assert keywords.get("weights_only") == "True", f"{where}: torch.load runs code without weights_only=True"
        assert keywords.get("allow_pickle") != "True", f"{where}: unpickling runs code"
    assert not _imports(name, inside_functions=True) & {"pickle", "cPickle", "dill", "joblib"}, name


def test_third_party_imports_are_declared() -> None:
    """What the package imports is in pyproject.toml: as a dependency, or in an extra for what runs without."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    declared = {re.split(r"[<>=!~;\[ ]", r, maxsplit=1)[0].lower().replace("-", "_") for r in every}
    declared |= {"yaml"} if "pyyaml" in declared else set()
    declared |= {"torch_sim"} if "torch_sim_atomistic" in declared else set()
    declared |= {"metatomic", "metatensor"} if "metatomic_torch" in declared else set()  # metatensor: it brings that
    declared |= {"laplace"} if "laplace_torch" in declared else set()
    for name in MODULES:
        if name.startswith("equimd.benchmarks.peers."):  # run in the peers' own environments
            continue
        outside = {i.split(".")[0] for i in _imports(name, inside_functions=True)} - sys.stdlib_module_names
        outside = {each.lower() for each in outside}
        assert outside <= declared | {"equimd"}, name


def test_pyproject_lists_every_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {module_name(p) for s in SOURCES for p in (ROOT / s).rglob("__init__.py")}
    assert sorted(listed) == sorted(folders)


def test_the_version_is_stated_once() -> None:
    """In pyproject.toml. The citation says the same, and the changelog says what came with it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = [x for x in (ROOT / "CITATION.cff").read_text().splitlines() if x.startswith("version:")]
    assert cited == [f"version: {version}"]
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()
    for name, tree in TREES.items():
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        assert version not in texts, name


def test_importing_the_package_is_light() -> None:
    code = "import sys, equimd, equimd.data, equimd.config; print('torch' in sys.modules, 'ase' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def _text_files() -> list[Path]:
    """Every text file of the tree, as git has it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / line for line in listed.stdout.splitlines()]
    return [f for f in files if f.is_file() and b"\0" not in f.read_bytes()[:8192]]


def test_no_machine_paths_or_registry_addresses() -> None:
    """Paths of one machine and addresses of package registries do not belong in the tree."""
    slash = "/"
    patterns = [rf"(?<![\w.{slash}]){slash}{folder}{slash}\w" for folder in ("work", "root", "home", "opt", "Users")]
    patterns += [r"pypi\.(?:org|python)", r"pythonhosted\.", r"(?:find-links|extra-index-url)\s*="]
    forbidden = re.compile("|".join(patterns))
    files = _text_files()
    assert len(files) > 30
    for file in files:
        if file == Path(__file__).resolve():
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            assert not forbidden.search(line), f"{file.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
