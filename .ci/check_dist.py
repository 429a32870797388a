"""``python .ci/check_dist.py dist``: the sdist holds every file of the repository that is not about
git, and the wheel every file of the package.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


def main(folder: Path) -> None:
    """Raises where a file is missing."""
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as tar:
        in_sdist = {name.partition("/")[2] for name in tar.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
    files = {f for f in tracked.stdout.splitlines() if not f.startswith(".git")}
    missing = {
        sdist.name: sorted(files - in_sdist),
        wheel.name: sorted({f for f in files if f.startswith("hsa_geometric/")} - in_wheel),
    }
    for name, lacking in missing.items():
        if lacking:
            raise SystemExit(
                f"Expected '{name}' to hold {lacking}: see MANIFEST.in, pyproject.toml"
            )
    print(f"{len(in_sdist)} files in {sdist.name}, {len(in_wheel)} in {wheel.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
