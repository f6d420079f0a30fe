"""One conversion table. Internal units everywhere: eV, Angstrom, fs, amu, K.

Constants are CODATA 2018/2019 exact values (SI redefinition), derived here once so that no two parts
of the package disagree in the seventh digit.
"""

from __future__ import annotations

AVOGADRO = 6.02214076e23  # 1/mol, exact
ELEMENTARY_CHARGE = 1.602176634e-19  # C, exact
BOLTZMANN_J = 1.380649e-23  # J/K, exact
ATOMIC_MASS_KG = 1.66053906660e-27  # kg, CODATA 2018
HARTREE = 27.211386245988  # eV, CODATA 2018
BOHR = 0.529177210903  # Angstrom, CODATA 2018

KB = BOLTZMANN_J / ELEMENTARY_CHARGE  # eV/K
KCAL_PER_MOL = 4184.0 / (AVOGADRO * ELEMENTARY_CHARGE)  # eV, 0.0433641042...
KJ_PER_MOL = 1000.0 / (AVOGADRO * ELEMENTARY_CHARGE)  # eV
# a = F/m in Angstrom/fs^2 for F in eV/Angstrom and m in amu
ACCELERATION = ELEMENTARY_CHARGE / ATOMIC_MASS_KG * 1e-10
# kinetic energy in eV of 1 amu at 1 Angstrom/fs
AMU_A2_PER_FS2 = 1.0 / ACCELERATION

ENERGY_UNITS: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
    "Hartree": HARTREE,
}
LENGTH_UNITS: dict[str, float] = {"Angstrom": 1.0, "nm": 10.0, "Bohr": BOHR}

_ALIASES = {
    "ev": "eV",
    "mev": "meV",
    "kcal": "kcal/mol",
    "kcal/mol": "kcal/mol",
    "kcal_mol": "kcal/mol",
    "kj/mol": "kJ/mol",
    "kj": "kJ/mol",
    "ha": "Hartree",
    "hartree": "Hartree",
    "eh": "Hartree",
    "a": "Angstrom",
    "ang": "Angstrom",
    "angstrom": "Angstrom",
    "å": "Angstrom",
    "nm": "nm",
    "bohr": "Bohr",
    "a0": "Bohr",
}


def canonical_unit(name: str, table: dict[str, float]) -> str:
    """The table's own spelling of a unit name.

    Raises:
        ConfigError: the unit is not in ``table``; the message lists those that are.
    """
    from equimd.errors import ConfigError

    key = _ALIASES.get(name.strip().lower(), name.strip())
    if key not in table:
        raise ConfigError(f"unknown unit '{name}'", hint="one of " + ", ".join(table))
    return key


def force_unit(name: str) -> tuple[str, str]:
    """Energy and length unit of a force unit: ``Hartree/Bohr``, ``kcal/mol/Angstrom``, ``kJ mol-1 nm-1``.

    Raises:
        ConfigError: it is not an energy over a length.
    """
    import re

    from equimd.errors import ConfigError

    text = re.sub(r"\s*\*\*\s*|\^", "", name.strip())  # mol^-1, mol**-1
    text = re.sub(r"[\s*]+([^\W\d]+)-1", r"/\1", text)
    energy, slash, length = text.rpartition("/")
    try:
        if not slash:
            raise ConfigError(name)
        return canonical_unit(energy, ENERGY_UNITS), canonical_unit(length, LENGTH_UNITS)
    except ConfigError:
        raise ConfigError(
            f"unknown force unit '{name}'", hint="an energy over a length, such as eV/Angstrom or Hartree/Bohr"
        ) from None


def force_factor(name: str) -> float:
    """Multiply a force in unit ``name`` by this to get eV/Angstrom."""
    energy, length = force_unit(name)
    return ENERGY_UNITS[energy] / LENGTH_UNITS[length]


def energy_factor(name: str) -> float:
    """Multiply an energy in unit ``name`` by this to get eV."""
    return ENERGY_UNITS[canonical_unit(name, ENERGY_UNITS)]


def length_factor(name: str) -> float:
    """Multiply a length in unit ``name`` by this to get Angstrom."""
    return LENGTH_UNITS[canonical_unit(name, LENGTH_UNITS)]
