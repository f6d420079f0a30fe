"""Errors as the literature prints them, to stand beside those measured here. Energies in meV, forces in meV/Angstrom.

Mean absolute errors on rMD17, trained on 950 + 50 frames; the PaiNN of its paper was trained on the original MD17
labels, which are noisier. Sources:

- PaiNN: Schuett, Unke, Gastegger, ICML 2021 (PMLR 139, 9377), table 1, converted from kcal/mol;
- NequIP: Batzner et al., Nature Communications 13, 2453 (2022), l = 3;
- MACE: Batatia et al., NeurIPS 2022. Later papers quote its force errors on malonaldehyde and salicylic acid
  differently (4.1 and 5.0, 3.1 and 3.8); the range is printed.
"""

from __future__ import annotations

#: name -> molecule -> (energy, forces), as printed
RMD17: dict[str, dict[str, tuple[str, str]]] = {
    "PaiNN (MD17 labels)": {
        "aspirin": ("6.9", "16.1"),
        "ethanol": ("2.7", "10.0"),
        "malonaldehyde": ("3.9", "13.8"),
        "salicylic": ("4.9", "9.1"),
    },
    "NequIP": {
        "aspirin": ("2.3", "8.2"),
        "ethanol": ("0.4", "2.8"),
        "malonaldehyde": ("0.8", "5.1"),
        "salicylic": ("0.7", "4.0"),
    },
    "MACE": {
        "aspirin": ("2.2", "6.6"),
        "ethanol": ("0.4", "2.1"),
        "malonaldehyde": ("0.8", "4.1-5.0"),
        "salicylic": ("0.9", "3.1-3.8"),
    },
}


def figure(printed: str) -> float:
    """A printed error as a number; the upper end of a range."""
    return float(printed.split("-")[-1])
