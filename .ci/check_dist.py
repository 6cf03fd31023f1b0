"""
What will be published is whole: the sdist holds every file of the repository, the wheel every file of the package.

    python .ci/check_dist.py build/dist
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


ROOT = Path(__file__).parent.parent


def repository() -> set[str]:
    """The files that git knows, but those that are no part of a release."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.splitlines() if not name.startswith("comparison/results/")}


def main() -> None:
    folder = Path(sys.argv[1])
    sdist, wheel = next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    missing = sorted(repository() - packed)
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    package = {name for name in repository() if name.startswith("trl_negalign/")}
    package |= {
        f"trl_negalign/{name}"
        for name in repository()
        if name.startswith("accelerate_configs/") and name.endswith((".py", ".yaml"))
    }
    missing += sorted(f"{name} (wheel)" for name in package - installed)
    foreign = sorted(name for name in installed if not name.startswith("trl_negalign"))
    if missing or foreign:
        lines = [f"missing: {name}" for name in missing] + [f"not of the package: {name}" for name in foreign]
        sys.exit("\n".join(lines))
    print(f"{sdist.name}: all {len(repository())} files; {wheel.name}: {len(installed)} files.")


if __name__ == "__main__":
    main()
