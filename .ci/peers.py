"""Environments of the packages that the benchmarks compare equimd with. Standard library only, Python 3.11 or newer.

    python .ci/peers.py --cache DIR [schnetpack] [nequip] [mace]

One environment each, in DIR/peers, since their requirements exclude each other (mace-torch pins an old e3nn). Each
holds exactly the versions of benchmarks/peers/requirements/<peer>.txt, installed without resolving anything: what was
measured once can be measured again. What was really installed is kept beside it in versions.txt.

An environment that is finished is left alone until its requirements or the choice of torch change; one that was
interrupted is made again from the downloads that are kept in DIR. A peer that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import setup

REQUIREMENTS = setup.ROOT / "benchmarks" / "peers" / "requirements"
#: what must work in the finished environment
CHECKS = {
    "schnetpack": "import schnetpack.interfaces",
    "nequip": "import nequip.model, nequip.integrations.ase",
    "mace": "import mace.modules, mace.calculators",
}


def recipe_key(peer: str, torch: str, build: str) -> str:
    """A hash of all that decides what the environment holds."""
    parts = [(REQUIREMENTS / f"{peer}.txt").read_text(), torch, build, sys.version_info[:2]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def install(peer: str, cache: Path, torch: str, build: str) -> None:
    """Make the environment of one peer, or find it finished.

    Raises:
        SetupError: something failed; the message has the last lines of pip.
    """
    env = setup.Environment(cache / "peers" / peer, cache)
    key = recipe_key(peer, torch, build)
    if setup.prepare(env, key):
        setup.say(f"{peer} is ready in {env.folder}")
        return
    setup.install_torch(env, torch, build)
    setup.say(f"{peer} and what it needs")
    # the versions are pinned one by one: no resolver, which would bring another torch, or the tools of a developer.
    # schnetpack 2.2 declares a newer Python than it needs
    listed = str(REQUIREMENTS / f"{peer}.txt")
    env.pip("install", "--no-deps", "--ignore-requires-python", "--requirement", listed)
    env.ask(CHECKS[peer])
    lines = "import importlib.metadata as m\nfor d in m.distributions(): print(d.metadata['Name'] + '==' + d.version)"
    (env.folder / "versions.txt").write_text("\n".join(sorted(env.ask(lines).splitlines(), key=str.lower)) + "\n")
    env.write_stamp(state="done", base=key, parts=[peer])
    setup.say(f"{peer} is ready in {env.folder}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", choices=[*CHECKS, []], metavar="PEER", help=f"of {', '.join(CHECKS)}")
    parser.add_argument("--cache", required=True, help="where the environments, and downloads, are kept")
    parser.add_argument("--torch", default="torch==2.13.0", help="the torch requirement")
    parser.add_argument("--build", default="cpu", help="cpu, cu130, ... (a folder of PyTorch's index), or default")
    args = parser.parse_args()
    failed = []
    for peer in args.peers or CHECKS:
        try:
            install(peer, Path(args.cache).expanduser().absolute(), args.torch, args.build)
        except setup.SetupError as error:
            print(f"{peer} failed: {error}", file=sys.stderr)
            failed.append(peer)
        except KeyboardInterrupt:
            print("interrupted; the next run goes on with this peer", file=sys.stderr)
            return 130
    if failed:
        missing = ", ".join(failed)
        print(f"not there: {missing}; benchmarks run without, and `make peers` tries again", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
