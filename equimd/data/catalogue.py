"""The catalogue: public data sets by name, what they hold, under which licence, and where their files are.

A name is a collection and an item of it: ``rmd17 ethanol``, ``md22 stachyose``. Frame counts, levels of theory and
units are the publishers'; checksums are given where the publisher, or a second party that pins them, states one.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from equimd.data.rmd17_sha256 import RMD17_SHA256
from equimd.errors import DataError

RMD17_BASE = "https://raw.githubusercontent.com/andersx/rmd17-npz/4f6bb0a186822c90d47cd98b7a27991fe0b3173b/rmd17-npz/"
GDML_BASE = "http://www.quantum-machine.org/gdml/"


@dataclass(frozen=True)
class RemoteFile:
    """One file to download.

    ``checksum`` reads ``sha256:HEX`` or ``md5:HEX`` and is empty where none is published; ``sgdml`` files carry an
    MD5 of their own arrays instead, which is checked after the download. ``unpack`` is how an archive is opened.
    """

    url: str
    name: str
    checksum: str = ""
    size: int = 0
    sgdml: bool = False
    unpack: str = ""


@dataclass(frozen=True)
class Entry:
    """One item of a collection. ``splits`` holds the file lists of ready-made splits, by name; else ``files``."""

    collection: str
    item: str
    n_atoms: str
    frames: int
    theory: str
    labels: str = "energy, forces"
    files: tuple[RemoteFile, ...] = ()
    splits: tuple[tuple[str, tuple[RemoteFile, ...]], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.collection} {self.item}".strip()


@dataclass(frozen=True)
class Collection:
    """What the items of a collection have in common."""

    name: str
    title: str
    units: str
    licence: str
    citation: str
    note: str = ""
    entries: tuple[Entry, ...] = ()


_MOLECULES = {
    "aspirin": 21, "azobenzene": 24, "benzene": 12, "ethanol": 9, "malonaldehyde": 9, "naphthalene": 18,
    "paracetamol": 20, "salicylic": 16, "toluene": 15, "uracil": 12,
}  # fmt: skip


def _rmd17() -> Collection:
    entries = []
    for molecule, sums in RMD17_SHA256.items():
        splits = []
        for k in range(5):
            names = [f"rmd17_{molecule}_{part}_0{k + 1}.npz" for part in ("train", "test")]
            pair = zip(names, (sums[k], sums[5 + k]), strict=True)
            splits.append((f"0{k + 1}", tuple(RemoteFile(RMD17_BASE + n, n, f"sha256:{s}") for n, s in pair)))
        entries.append(Entry("rmd17", molecule, str(_MOLECULES[molecule]), 2000, "PBE/def2-SVP", splits=tuple(splits)))
    return Collection(
        "rmd17", "revised MD17, five ready splits of 1000 train and 1000 test frames", "kcal/mol", "CC0-1.0",
        "Christensen, von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), doi:10.1088/2632-2153/abba6f",
        "published protocol: 950 train + 50 validation from a train file, 1000 test; never train on more than 1000",
        tuple(entries),
    )  # fmt: skip


def _rmd17_full() -> Collection:
    archive = RemoteFile(
        "https://figshare.com/ndownloader/files/23950376", "rmd17.tar.bz2",
        "md5:cb1a927628d96f2e966025da4fb63d18", 1_066_301_513, unpack="tar",
    )  # fmt: skip
    return Collection(
        "rmd17-full", "revised MD17, all frames of the ten molecules and the index files of the splits", "kcal/mol",
        "CC0-1.0",
        "Christensen, von Lilienfeld, figshare (2020), doi:10.6084/m9.figshare.12672038.v3",
        "one archive of 1.1 GB; neighbouring frames are correlated in time",
        (Entry("rmd17-full", "all", "9-24", 999_988, "PBE/def2-SVP", files=(archive,)),),
    )  # fmt: skip


def _md17() -> Collection:
    files = {
        "aspirin": ("md17_aspirin.npz", 211_762), "benzene": ("md17_benzene2017.npz", 627_983),
        "ethanol": ("md17_ethanol.npz", 555_092), "malonaldehyde": ("md17_malonaldehyde.npz", 993_237),
        "naphthalene": ("md17_naphthalene.npz", 326_250), "salicylic": ("md17_salicylic.npz", 320_231),
        "toluene": ("md17_toluene.npz", 442_790), "uracil": ("md17_uracil.npz", 133_770),
        "paracetamol": ("paracetamol_dft.npz", 106_490), "azobenzene": ("azobenzene_dft.npz", 99_999),
    }  # fmt: skip
    entries = []
    for molecule, (name, frames) in files.items():
        file = RemoteFile(GDML_BASE + "data/npz/" + name, name, sgdml=True)
        entries.append(Entry("md17", molecule, str(_MOLECULES[molecule]), frames, "PBE+vdW-TS", files=(file,)))
    return Collection(
        "md17", "MD17, ab initio MD at 500 K, frames 0.5 fs apart", "kcal/mol", "not stated by the publisher",
        "Chmiela et al., Sci. Adv. 3, e1603015 (2017), doi:10.1126/sciadv.1603015",
        "noisy labels, net forces up to 0.5 kcal/mol/A: rmd17 is the better choice", tuple(entries),
    )  # fmt: skip


def _ccsd() -> Collection:
    zips = {
        "aspirin": ("aspirin_ccsd", 1500, "CCSD/cc-pVDZ"), "benzene": ("benzene_ccsd_t", 1500, "CCSD(T)/cc-pVDZ"),
        "ethanol": ("ethanol_ccsd_t", 2000, "CCSD(T)/cc-pVTZ"),
        "malonaldehyde": ("malonaldehyde_ccsd_t", 1500, "CCSD(T)/cc-pVDZ"),
        "toluene": ("toluene_ccsd_t", 1500, "CCSD(T)/cc-pVDZ"),
    }  # fmt: skip
    entries = []
    for molecule, (stem, frames, theory) in zips.items():
        file = RemoteFile(f"{GDML_BASE}data/npz/{stem}.zip", f"{stem}.zip", sgdml=True, unpack="zip")
        entries.append(Entry("ccsd", molecule, str(_MOLECULES[molecule]), frames, theory, files=(file,)))
    return Collection(
        "ccsd", "coupled-cluster energies and forces of MD17 molecules, ready split", "kcal/mol",
        "not stated by the publisher",
        "Chmiela et al., Nat. Commun. 9, 3887 (2018), doi:10.1038/s41467-018-06169-2", "", tuple(entries),
    )  # fmt: skip


def _md22() -> Collection:
    items = {
        "Ac-Ala3-NHMe": (42, 85_109), "DHA": (56, 69_753), "stachyose": (87, 27_272), "AT-AT": (60, 20_001),
        "AT-AT-CG-CG": (118, 10_153), "buckyball-catcher": (148, 6_102), "double-walled_nanotube": (370, 5_032),
    }  # fmt: skip
    entries = []
    for item, (n_atoms, frames) in items.items():
        name = f"md22_{item}.npz"
        file = RemoteFile(f"{GDML_BASE}repo/datasets/{name}", name, sgdml=True)
        entries.append(Entry("md22", item, str(n_atoms), frames, "PBE+MBD", files=(file,)))
    return Collection(
        "md22", "MD22, ab initio MD of molecules of 42 to 370 atoms", "kcal/mol", "not stated by the publisher",
        "Chmiela et al., Sci. Adv. 9, eadf0873 (2023), doi:10.1126/sciadv.adf0873", "", tuple(entries),
    )  # fmt: skip


def _qm9() -> Collection:
    archive = RemoteFile(
        "https://ndownloader.figshare.com/files/3195389", "dsgdb9nsd.xyz.tar.bz2",
        "sha256:3a63848ac80691bdb8d41834b575afad345b9300d7a2db0c38adb7f6eaa8360c", 86_144_227, unpack="tar",
    )  # fmt: skip
    entry = Entry("qm9", "all", "3-29", 133_885, "B3LYP/6-31G(2df,p)", "energy", files=(archive,))
    return Collection(
        "qm9", "QM9, relaxed molecules of up to nine heavy atoms: energies only", "Hartree", "CC0-1.0",
        "Ramakrishnan et al., Sci. Data 1, 140022 (2014), doi:10.1038/sdata.2014.22",
        "no forces: a warm-up with --forces-weight 0, nothing that needs forces", (entry,),
    )  # fmt: skip


def _omol25() -> Collection:
    entry = Entry("omol25", "", "1-350", 100_000_000, "wB97M-V/def2-TZVPD")
    return Collection(
        "omol25", "Open Molecules 2025: molecules, ions, metal complexes, electrolytes", "eV", "CC-BY-4.0",
        "Levine et al., The Open Molecules 2025 (OMol25) Dataset, arXiv:2505.08762 (2025)",
        "gated: accept the terms at https://huggingface.co/facebook/OMol25, then use a token or a local folder",
        (entry,),
    )  # fmt: skip


def _bundled() -> Collection:
    parts = {
        "ethanol": (3200, "300 K, all"), "ethanol-train": (1000, "300 K"), "ethanol-validation": (200, "300 K"),
        "ethanol-calibration": (1000, "300 K"), "ethanol-test": (1000, "300 K"),
        "ethanol-600K": (500, "600 K"), "ethanol-1000K": (500, "1000 K"),
    }  # fmt: skip
    entries = tuple(Entry("bundled", k, "9", n, f"GFN2-xTB, {note}") for k, (n, note) in parts.items())
    return Collection(
        "bundled", "ethanol, part of equimd: nothing to fetch, opened as bundled:NAME", "eV", "MIT",
        "made by `equimd data generate`; GFN2-xTB: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019)",
        "the parts at 300 K are separate trajectories", entries,
    )  # fmt: skip


def collections() -> dict[str, Collection]:
    """All collections by name, in the order they are listed."""
    made = (_bundled(), _rmd17(), _rmd17_full(), _md17(), _ccsd(), _md22(), _qm9(), _omol25())
    return {c.name: c for c in made}


def find(collection: str, item: str | None = None) -> tuple[Collection, Entry]:
    """The entry called ``collection item``; the item may be left out where there is only one. Case does not matter.

    Raises:
        DataError: no such collection or item; the message names the nearest one or lists them.
    """
    table = {name.lower(): c for name, c in collections().items()}
    found = table.get(collection.lower())
    if found is None:
        near = get_close_matches(collection.lower(), table, n=1, cutoff=0.5)
        raise DataError(f"no collection '{collection}'", hint=f"{near[0]}" if near else "one of " + ", ".join(table))
    entries = {e.item.lower(): e for e in found.entries}
    if item is None:
        if len(entries) == 1:
            return found, found.entries[0]
        names = ", ".join(e.item for e in found.entries)
        raise DataError(f"{found.name} has several items; name one", hint=f"one of {names}")
    if item.lower() not in entries:
        near = get_close_matches(item.lower(), entries, n=1, cutoff=0.5)
        names = ", ".join(e.item for e in found.entries) or "no item"
        raise DataError(f"{found.name} has no '{item}'", hint=near[0] if near else f"one of {names}")
    return found, entries[item.lower()]


def files_of(entry: Entry, split: str = "01") -> tuple[RemoteFile, ...]:
    """The files of an entry, of one split where it has several.

    Raises:
        DataError: the entry has no such split.
    """
    if not entry.splits:
        return entry.files
    table = dict(entry.splits)
    key = split.zfill(2)
    if key not in table:
        raise DataError(f"{entry.name} has no split '{split}'", hint="one of " + ", ".join(table))
    return table[key]
