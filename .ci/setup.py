"""Make the environment of `make demo`, `make docs` and `make test`. Standard library only, Python 3.11 or newer.

    python .ci/setup.py --venv .venv --cache DIR --torch torch==2.13.0 --build cpu [--tests] [--docs] [--cluster]

It writes to the environment and to the cache folder, nowhere else. Three things make it more than one `pip install`:

- A CPU torch must not be joined, or replaced, by a CUDA one. The CPU build is asked for by its local version (`+cpu`),
  from the sources that pip is configured with, else from PyTorch's public index; then every later install is held to
  the very version that is there.
- laplace-torch and backpack declare torchvision, which neither imports, and a torchvision from another place than the
  torch breaks the import. They are installed without dependencies, and what else they declare is installed beside them.
- torch-cluster is source only and compiles for minutes: its wheel is built once for each torch and Python and kept.

A finished set-up leaves a stamp and is not repeated until pyproject.toml, this file or the choice of torch changes; an
interrupted one starts afresh.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "equimd-setup.json"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CLUSTER = "torch-cluster==1.6.3"
# declare torchvision without importing it, or need a package that does
WITHOUT_DEPENDENCIES = ("backpack-for-pytorch", "curvlinops-for-pytorch", "laplace-torch")
NEVER = ("torchvision", "torchaudio")


class SetupError(Exception):
    """The set-up cannot go on; the message says what to do."""


def say(message: str) -> None:
    print(f"set-up: {message}", file=sys.stderr, flush=True)


def distribution(requirement: str) -> str:
    """The normalized name in a requirement: ``torch`` of ``torch>=2.13,<3``."""
    name = requirement
    for stop in "<>=!~;[ (@":
        name = name.split(stop, 1)[0]
    return name.strip().lower().replace("_", "-").replace(".", "-")


class Environment:
    """The virtual environment and the ways to install into it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.stamp = folder / STAMP
        self.env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_TARGET", "PIP_USER")}
        self.env.update(PIP_CACHE_DIR=str(cache / "pip"), PIP_DISABLE_PIP_VERSION_CHECK="1")
        if not (Path.home() / ".rustup").exists():  # pip asks rustc for its version, and rustup would make this folder
            self.env.setdefault("RUSTUP_HOME", str(cache / "rustup"))

    def call(self, *args: str, **env: str) -> str | None:
        """Run the environment's Python. Returns what it printed if it failed, else None."""
        command = [str(self.python), *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(command, **pipes, env={**self.env, **env}, cwd=ROOT, check=False)
        return done.stdout if done.returncode else None

    def ask(self, code: str) -> str:
        """What a line of Python prints in the environment."""
        done = subprocess.run(
            [str(self.python), "-c", code], capture_output=True, text=True, env=self.env, cwd=self.folder, check=False
        )
        if done.returncode:
            raise SetupError(f"the environment does not work: {done.stderr.strip()[-600:]}")
        return done.stdout.strip()

    def pip(self, *args: str, hint: str = "") -> None:
        failure = self.call("-m", "pip", "--no-input", *args)
        if failure is not None:
            tail = "\n".join(failure.strip().splitlines()[-25:])
            raise SetupError(f"pip {args[0]} did not succeed{hint and ': '}{hint}\n{tail}")

    def write_stamp(self, **content: object) -> None:
        self.stamp.write_text(json.dumps(content))

    def read_stamp(self) -> dict[str, object]:
        try:
            return json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {}


def prepare(env: Environment, key: str) -> bool:
    """Make the environment, empty but for pip and the build tools. Returns whether it was there and finished."""
    stamp = env.read_stamp()
    if stamp.get("state") == "done" and stamp.get("base") == key and env.python.exists():
        return True
    if env.folder.exists():
        if not stamp:
            raise SetupError(
                f"{env.folder} was not made by this set-up: move it away, or choose another folder (make ... VENV=DIR)"
            )
        say("the environment is out of date or was interrupted: making it afresh")
        shutil.rmtree(env.folder)
    say(f"Python {platform.python_version()} environment in {env.folder}")
    env.folder.mkdir(parents=True)
    env.write_stamp(state="building")
    venv.create(env.folder, symlinks=os.name != "nt")
    if env.call("-m", "ensurepip", "--upgrade", "--default-pip") is not None:
        raise SetupError(
            "this Python cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"
        )
    env.pip("install", "--upgrade", "pip>=24.2", "setuptools>=77", "wheel", hint="is the package index reachable?")
    return False


def install_torch(env: Environment, torch: str, build: str) -> None:
    """Install the torch that was asked for, and make sure it is that build."""
    say(f"{torch}, {build} build")
    exact = torch.startswith("torch==") and "+" not in torch and "," not in torch
    found = False
    if build == "cpu" and sys.platform == "linux" and exact:
        found = env.call("-m", "pip", "--no-input", "install", f"{torch}+cpu") is None
    if build == "default":
        env.pip("install", torch)
    elif not found:
        index = CPU_INDEX if build == "cpu" else CPU_INDEX.removesuffix("cpu") + build
        env.pip("install", "--index-url", index, torch, hint=f"is {index} reachable, and does it hold {torch}?")
    cuda = env.ask("import torch; print(torch.version.cuda or '')")
    if build == "cpu" and cuda:
        raise SetupError(f"{torch} came as a CUDA {cuda} build; ask for it with TORCH_BUILD=default, or choose another")


def requirements(names: list[str]) -> list[str]:
    """equimd's own requirements and those of the extras ``names``, as pyproject.toml states them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"] + [r for n in names for r in project["optional-dependencies"][n]]


def recipe_key(torch: str, build: str) -> str:
    """A hash of all that decides what the environment holds; the settings of tools in pyproject.toml do not."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = [content["project"], content["build-system"], content["tool"]["setuptools"]]
    text = json.dumps([parts, torch, build, sys.version_info[:2], Path(__file__).read_text()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def declared(env: Environment, names: tuple[str, ...]) -> list[str]:
    """What the installed distributions ``names`` require, extras left out."""
    code = (
        "from importlib.metadata import requires\n"
        f"for n in {names!r}:\n"
        "    for r in requires(n) or ():\n"
        "        if 'extra ==' not in r: print(r)"
    )
    return env.ask(code).splitlines()


def install_packages(env: Environment, extras: list[str]) -> None:
    """Install what equimd needs around the torch that is there, then equimd itself, editable."""
    wanted = requirements(extras)
    version = env.ask("from importlib.metadata import version; print(version('torch'))")
    held = env.folder / "held.txt"
    held.write_text(f"torch=={version}\n")
    apart = [r for r in wanted if distribution(r) in WITHOUT_DEPENDENCIES]
    apart += [n for n in WITHOUT_DEPENDENCIES if n not in map(distribution, apart)]
    say("packages")
    # first those whose declared requirements are read next
    env.pip("install", "--no-deps", *apart)
    rest = [*wanted, *declared(env, WITHOUT_DEPENDENCIES)]
    rest = [r for r in rest if distribution(r) not in (*WITHOUT_DEPENDENCIES, *NEVER)]
    env.pip("install", "--constraint", str(held), *rest)
    env.pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    if env.ask("from importlib.metadata import version; print(version('torch'))") != version:
        raise SetupError("an install replaced the torch that was there")
    env.ask("import torch, e3nn, laplace, equimd.errors")


def install_cluster(env: Environment) -> None:
    """Install torch-cluster from the wheel kept for this torch and Python, built first where there is none."""
    tag = env.ask(
        "import sys, sysconfig, torch\n"
        "print(f'torch-{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}')"
    )
    shelf = env.cache / "wheels" / tag
    if not list(shelf.glob("torch_cluster-*.whl")):
        say("compiling torch-cluster once for this torch (about 10 minutes; `make test CLUSTER=0` goes without)")
        shelf.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=shelf, prefix="building-") as work:
            jobs = Path(work) / "jobs.cfg"  # compile files side by side, and without debug symbols: half the time
            jobs.write_text(f"[build_ext]\nparallel={min(4, os.cpu_count() or 1)}\n")
            failure = env.call(
                *("-m", "pip", "--no-input", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir"),
                *("--wheel-dir", work, CLUSTER),
                FORCE_ONLY_CPU="1",
                CFLAGS="-g0",
                DIST_EXTRA_CONFIG=str(jobs),
                TMPDIR=work,
            )
            built = list(Path(work).glob("torch_cluster-*.whl"))
            if failure is not None or not built:
                say("\n" + "\n".join((failure or "").splitlines()[-25:]))
                raise SetupError(
                    "torch-cluster did not compile: is there a C++ compiler? (`make test CLUSTER=0` goes without)"
                )
            os.replace(built[0], shelf / built[0].name)
    wheel = next(shelf.glob("torch_cluster-*.whl"))
    env.pip("install", "--no-deps", "--force-reinstall", str(wheel))
    env.ask("import torch_cluster; torch_cluster.radius_graph")


def run(args: argparse.Namespace) -> None:
    env = Environment(Path(args.venv).absolute(), Path(args.cache).expanduser().absolute())
    key = recipe_key(args.torch, args.build)
    asked = {"tests": args.tests, "docs": args.docs or args.tests, "cluster": args.cluster}  # tests build the site
    want = {"packages", *(part for part, wanted in asked.items() if wanted)}
    have: set[str] = set()
    if prepare(env, key):
        have = set(env.read_stamp().get("parts", []))  # type: ignore[call-overload]
        if want <= have:
            return
    env.write_stamp(state="building")
    if not have:
        install_torch(env, args.torch, args.build)
    if not have or want - have - {"cluster"}:
        extras = {"packages": ["label"], "docs": ["docs"], "tests": ["tensorboard", "dev"]}
        install_packages(env, [extra for part in sorted(want | have) for extra in extras.get(part, [])])
    if "cluster" in want - have:
        install_cluster(env)
    env.write_stamp(state="done", base=key, parts=sorted(want | have))
    say("done")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", default=".venv", help="the environment's folder")
    parser.add_argument("--cache", required=True, help="where downloads and built wheels are kept")
    parser.add_argument("--torch", default="torch==2.13.0", help="the torch requirement")
    parser.add_argument("--build", default="cpu", help="cpu, cu130, ... (a folder of PyTorch's index), or default")
    parser.add_argument("--tests", action="store_true", help="also what the tests and static checks need")
    parser.add_argument("--docs", action="store_true", help="also what the documentation site needs")
    parser.add_argument("--cluster", action="store_true", help="also torch-cluster, compiled once")
    try:
        run(parser.parse_args())
    except SetupError as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up interrupted; the next run starts it afresh", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
