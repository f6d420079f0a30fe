"""The table of ensembles: what it says of each is what the integrators do, and settings and options follow it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from equimd.errors import ConfigError
from equimd.md.ensembles import ENSEMBLES
from equimd.tasks.simulate.settings import parse_settings, settings_text
from tests.extended import extended

#: An ensemble with an option of its own.
TOY = """
from equimd.md.ensembles import ENSEMBLES, Ensemble, EnsembleOption
from equimd.md.integrators import VelocityVerlet

class Slowed(VelocityVerlet):
    name = "slowed"

    def __init__(self, dt, slowness):
        super().__init__(dt / slowness)

SLOWNESS = EnsembleOption("slowness", 2.0, "1", "how much slower time goes", zero=False)
ENSEMBLES.add("slowed", Ensemble(Slowed, "total energy", options=(SLOWNESS,)))
"""


def test_the_table_says_what_the_integrators_are() -> None:
    baths = {name: ensemble.bath for name, ensemble in ENSEMBLES.items()}
    assert baths == {"langevin": True, "nose-hoover": False, "nve": False}
    assert [name for name, ensemble in ENSEMBLES.items() if ensemble.constant_energy] == ["nve"]
    for name, ensemble in ENSEMBLES.items():
        made = ensemble.make(0.5, temperature=300.0, dof=9, seed=3)
        assert made.name == name and made.dt == 0.5
        assert {"friction_per_fs" in made.settings()} == {ensemble.has_friction}


def test_the_table_is_read_without_torch() -> None:
    code = "import sys, equimd.md.ensembles as table; list(table.ENSEMBLES.values()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_unknown_ensemble_is_told_the_others() -> None:
    with pytest.raises(ConfigError, match="'langevin', 'nose-hoover' or 'nve'; did you mean 'nve'"):
        parse_settings({"ensemble": "nvee"})


def test_an_ensemble_of_an_extension_has_its_own_options(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    with extended(tmp_path / "toy.py"):
        settings = parse_settings({"ensemble": "slowed", "slowness": "4"})
        assert ENSEMBLES["slowed"].make(0.5, temperature=0.0, dof=1, seed=0, settings=settings).dt == 0.125
        text = settings_text(settings)
        assert text.splitlines()[-1].split("  # ") == [f"{'slowness: 4.0':<40}", "how much slower time goes"]
        assert parse_settings({"ensemble": "slowed"}).slowness == 2.0  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match="greater than 0"):
            parse_settings({"ensemble": "slowed", "slowness": 0})
        with pytest.raises(ConfigError, match="did you mean 'slowness'"):
            parse_settings({"slownes": 1})
        assert "slowness" not in settings_text(parse_settings({"slowness": 3}, base=parse_settings({})))
    with pytest.raises(ConfigError, match="unknown key 'slowness'"):
        parse_settings({"slowness": 3})
