"""A file system that stops just after a manifest got its name: python tests/powercut/stopped.py ext4|xfs

Its journal never had that name, so the save must not return as if it were durable. (XFS answers 0 to an fsync of a
directory after it stopped, and EIO to one of a file.) Exit status: 0; 1 a save was acknowledged that is gone; 77 this
machine cannot, and why.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import ostraca
from disks import LIBRARY, Unable, build, make_image, mounted, private_mounts

HERE: Final = Path(__file__).parent
SAVE: Final = """
import sys, ostraca
try:
    ostraca.save(sys.argv[1], {"x": 2}, overwrite=True)
    print("acknowledged")
except (ostraca.OstracaError, OSError) as error:
    print(f"{type(error).__name__}: {error}")
"""


def main(file_system: str) -> int:
    try:
        private_mounts()
        with tempfile.TemporaryDirectory(prefix="powercut-") as scratch:
            return sum(_stop(file_system, Path(scratch), overwrite) for overwrite in (False, True)) and 1
    except Unable as error:
        print(f"cannot stop a file system here: {error}")
        return 77


def _stop(file_system: str, scratch: Path, overwrite: bool) -> int:
    library, image, mount = scratch / "stop.so", scratch / "image", scratch / "mount"
    build(HERE / "stop_at_publish.c", library, *LIBRARY)
    make_image(file_system, image)
    with mounted(file_system, image, mount) as root:
        if overwrite:
            ostraca.save(root / "a", {"x": 1})
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        command = [sys.executable, "-c", SAVE, root / "a"]
        said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    with mounted(file_system, image, mount) as root:
        try:
            found = ostraca.load(root / "a")["x"]
        except ostraca.NotFoundError:
            found = None
    print(f"{file_system}, {'overwrite' if overwrite else 'save'}: {said}; afterwards it holds {found}")
    return said == "acknowledged" and found != 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
