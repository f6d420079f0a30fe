"""``equimd.generate``: labelled frames by molecular dynamics with a reference method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimd.data.convert import output_format
from equimd.data.given import structures_of, with_state
from equimd.data.state import read_state
from equimd.errors import ConfigError
from equimd.files import check_output, locked
from equimd.notices import note, warn
from equimd.progress import Callback, counting
from equimd.tasks.generate.sampling import load_molecule, unconstrained
from equimd.tasks.generate.settings import GenerationSettings
from equimd.tasks.generate.task import GenerationResult, parts_folder, sample
from equimd.tasks.keywords import settings_of, takes

if TYPE_CHECKING:
    from ase import Atoms


@takes(GenerationSettings.model_fields)
def generate(
    molecule: str | Path | Atoms | None,
    out: str | Path,
    *,
    settings: GenerationSettings | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> GenerationResult:
    """Make labelled frames by MD with a reference method; what ``equimd data generate`` does.

    Interrupted, the same call goes on with the trajectories that are missing. The frames do not depend on ``jobs``.

    Args:
        molecule: a structure file, a name ASE knows (ethanol, CH3CH2OH, H2O ...), or ASE ``Atoms``; None if the
            settings name it.
        out: NAME.h5 for equimd's store, NAME.xyz for extended XYZ.
        settings: an object of settings, beneath those given as keywords.
        jobs: trajectories made at the same time, each in its own process.
        overwrite: replace the file if it is there.
        progress: called with :class:`~equimd.progress.Progress`.

    Raises:
        DataError: unknown molecule, the file is there, a calculation that fails, or a mean temperature that is off.
        ConfigError: impossible settings, or a calculator that is not there.
    """
    out, atoms = Path(out), None
    if isinstance(molecule, (str, Path)):
        options["molecule"] = str(molecule)
    elif molecule is not None:
        atoms = unconstrained(structures_of(molecule)[0], "molecule")
        options["molecule"] = atoms.get_chemical_formula("hill")
    s = settings_of(GenerationSettings, settings, options)
    if not s.molecule:
        raise ConfigError("no molecule", hint="a structure file, or a name such as ethanol")
    output_format(out)
    check_output(out, overwrite)
    atoms = load_molecule(s.molecule) if atoms is None else atoms
    own = read_state(with_state(atoms, s.charge or None, s.spin or None, s.molecule).info, where=s.molecule)
    s = s.model_copy(update={"charge": own.charge, "spin": own.spin})
    with locked(parts_folder(out)), counting(progress, "frames", "generating") as tell:
        check_output(out, overwrite)  # another process may have ended meanwhile
        done = sample(s, out, jobs=jobs, progress=tell, atoms=atoms)
    note(
        f"{done.frames} frames of {done.trajectories} trajectories, {done.theory}, mean temperature "
        f"{done.temperature_mean:.1f} K (standard error {done.temperature_error:.1f} K)"
    )
    if done.turned is not None:
        note(f"{100 * done.turned:.1f} % of the turns of single bonds were accepted")
    if done.broken:
        warn(f"a bond is open in {len(done.broken)} frames: {', '.join(map(str, done.broken[:10]))}")
    return done
