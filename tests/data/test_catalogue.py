"""The catalogue names every file, its address and what is known of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from equimd.data import bundled
from equimd.data.catalogue import collections, files_of, find
from equimd.errors import DataError


def test_every_collection_says_what_a_user_must_know() -> None:
    table = collections()
    assert list(table) == ["bundled", "rmd17", "rmd17-full", "md17", "ccsd", "md22", "qm9", "omol25"]
    for c in table.values():
        assert c.title
        assert c.units
        assert c.licence
        assert c.citation
        assert c.entries
        for e in c.entries:
            assert e.collection == c.name
            assert e.frames > 0
            assert e.theory


def test_rmd17_agrees_with_the_published_checksums(shared_data: Path) -> None:
    published = {}
    for line in (shared_data / "rmd17" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        published[name] = f"sha256:{digest}"
    ours = {}
    for entry in collections()["rmd17"].entries:
        for split, files in entry.splits:
            assert [f.name for f in files] == [f"rmd17_{entry.item}_{part}_{split}.npz" for part in ("train", "test")]
            ours.update({f.name: f.checksum for f in files})
            assert all(f.url.startswith("https://") and f.url.endswith(f.name) for f in files)
    assert ours == published
    assert len(ours) == 100


def test_names_are_found_without_regard_to_case() -> None:
    collection, entry = find("MD22", "ac-ala3-nhme")
    assert (collection.name, entry.item, entry.frames) == ("md22", "Ac-Ala3-NHMe", 85_109)
    assert find("qm9")[1].labels == "energy"
    assert files_of(find("rmd17", "ethanol")[1], "3")[0].name == "rmd17_ethanol_train_03.npz"


@pytest.mark.parametrize(
    ("name", "item", "hint"),
    [("rmd71", None, "rmd17"), ("rmd17", "etanol", "ethanol"), ("rmd17", None, "aspirin"), ("nothing", None, "md22")],
)
def test_wrong_names_get_the_nearest(name: str, item: str | None, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        find(name, item)
    assert hint in str(caught.value.hint)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="split '6'"):
        files_of(find("rmd17", "ethanol")[1], "6")


def test_the_bundled_names_are_those_that_open() -> None:
    assert tuple(e.item for e in collections()["bundled"].entries) == bundled.NAMES
