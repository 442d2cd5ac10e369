"""Print, one per line, the options that let uv find packages where pip is configured to find them.

uv reads none of pip's settings. PyTorch's own index, which has the CPU builds of torch, is added only if no
find-links folder of pip holds the wheel that the given file pins. USERMODEL_TORCH_INDEX names another index;
empty means none. Runs before the environment exists: standard library and pip only.
"""

import ast
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
SECTIONS = ("global", "install", ":env:")  # a later one wins


def pip_settings() -> dict[str, str]:
    """pip's settings from its files and the environment."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = [re.fullmatch(r"([^.]+)\.\.?([a-z-]+)=(.*)", line) for line in listed.splitlines()]
    rows = [match.groups() for match in found if match and match[1] in SECTIONS]
    rows.sort(key=lambda row: SECTIONS.index(row[0]))
    return {name: ast.literal_eval(value) for _, name, value in rows}


def holds(place: str, wheel: str) -> bool:
    """Whether a find-links place is a folder of this machine with such a wheel."""
    folder = Path(urllib.parse.unquote(place.removeprefix("file://")))
    return folder.is_dir() and next(folder.glob(wheel), None) is not None


def options(requirements: str) -> list[str]:
    """The options for a file of requirements or a lock."""
    settings = pip_settings()
    find_links = settings.get("find-links", "").split()
    extra = settings.get("extra-index-url", "").split()
    torch_index = os.environ.get("USERMODEL_TORCH_INDEX", TORCH_INDEX)  # noqa: TID251
    if cpu := re.search(r"^torch==(\S+\+cpu)", requirements, flags=re.MULTILINE):
        if torch_index and not any(holds(place, f"torch-{cpu[1]}-*.whl") for place in find_links):
            extra.append(torch_index)
    else:  # torch==2.13.0 would be satisfied by 2.13.0+cpu
        find_links = [place for place in find_links if not holds(place, "torch-*+cpu-*.whl")]
    words = [word for place in find_links for word in ("--find-links", place)]
    if "index-url" in settings:
        words += ["--default-index", settings["index-url"]]
    for index in extra:
        words += ["--index", index]
    # pip looks at all indexes as one, uv only at the first that knows the name; the hashes guard the choice
    return [*words, "--index-strategy", "unsafe-best-match"] if extra else words


if __name__ == "__main__":
    print(*options(Path(sys.argv[1]).read_text()), sep="\n")
