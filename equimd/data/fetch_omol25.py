"""OMol25: gated on Hugging Face, so fetched with the user's own token, or taken from a folder the user has."""

from __future__ import annotations

import json
import os
import urllib.error
from pathlib import Path
from urllib.parse import quote

from equimd.data.catalogue import RemoteFile
from equimd.data.fetch import Progress, fetch_files, open_url, said
from equimd.errors import DataError, MachineError

REPOSITORY = "facebook/OMol25"
GATE = """\
OMol25 is licensed CC-BY-4.0 (cite arXiv:2505.08762) and gated: its publisher asks for your name first.

  1. log in at https://huggingface.co/facebook/OMol25 and accept its terms;
  2. make a token with read access at https://huggingface.co/settings/tokens;
  3. set it as HF_TOKEN and run this command again: it lists the files;
     --file NAME downloads one.

A copy that you have is used as it is, the folder of .aselmdb files:
equimd data fetch omol25 --from FOLDER"""


def user_token() -> str:
    """The user's Hugging Face token, from HF_TOKEN.

    Raises:
        DataError: it is not set; the message explains licence and gate.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise DataError(f"no HF_TOKEN is set.\n{GATE}", where="omol25")
    return token


def endpoint() -> str:
    """Address of the hub: $HF_ENDPOINT, as Hugging Face's own tools use it, else huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def list_files(token: str) -> list[RemoteFile]:
    """The files of the repository, with sizes and the SHA-256 the hub keeps of large ones.

    Raises:
        DataError: the token is refused, or the terms are not accepted.
        MachineError: the hub cannot be reached.
    """
    for kind, prefix in (("models", ""), ("datasets", "datasets/")):
        url = f"{endpoint()}/api/{kind}/{REPOSITORY}/tree/main?recursive=true"
        try:
            with open_url(url, {"Authorization": f"Bearer {token}"}) as response:
                listed = json.loads(response.read())
        except urllib.error.HTTPError as error:
            if error.code == 404 and kind == "models":
                continue
            if error.code in (401, 403):
                raise DataError(f"the hub refuses this token ({error.code}).\n{GATE}", where=url) from error
            raise MachineError(f"the hub answered {error.code} {error.reason}", where=url) from error
        except (OSError, ValueError) as error:
            hint = "the same command with a network, or --from FOLDER, of files that you have"
            raise MachineError(f"the hub cannot be reached: {said(error)}", where=url, hint=hint) from error
        base = f"{endpoint()}/{prefix}{REPOSITORY}/resolve/main/"
        return [_remote(base, entry) for entry in listed if entry.get("type") == "file"]
    raise DataError("no such repository", where=f"{endpoint()}/{REPOSITORY}")


def _remote(base: str, entry: dict) -> RemoteFile:
    path = str(entry["path"])
    sha = str(entry.get("lfs", {}).get("oid", ""))
    packed = path.endswith((".tar.gz", ".tar", ".tgz", ".tar.bz2"))
    checksum = f"sha256:{sha}" if sha else ""
    return RemoteFile(base + quote(path), Path(path).name, checksum, int(entry.get("size", 0)), unpack="tar" * packed)


def fetch(names: list[str], folder: Path, progress: Progress | None = None) -> list[Path]:
    """Download the files ``names`` of the repository into ``folder``; archives are unpacked.

    Raises:
        DataError: no token, a refused one, or no such file.
        MachineError: the network failed; what was downloaded is kept.
    """
    token = user_token()
    table = {f.name: f for f in list_files(token)}
    missing = [n for n in names if Path(n).name not in table]
    if missing:
        raise DataError(f"no file {', '.join(missing)}", where=REPOSITORY, hint="one of " + ", ".join(sorted(table)))
    return fetch_files(tuple(table[Path(n).name] for n in names), folder, token=token, progress=progress)


def local_folder(folder: Path) -> tuple[Path, int]:
    """Check that ``folder`` holds OMol25 shards that open; the folder and its number of frames.

    Raises:
        DataError: it does not.
    """
    from equimd.data.readers import open_dataset

    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), hint="the folder that holds the .aselmdb files")
    if not any(folder.glob("*.aselmdb")):
        raise DataError("no .aselmdb files in it", where=str(folder), hint=_nearest_shards(folder))
    return folder, len(open_dataset(folder))


def _nearest_shards(folder: Path) -> str:
    below = next(folder.rglob("*.aselmdb"), None)
    return f"--from {below.parent}" if below else "unpack the archive first"
