"""Files under a folder, found by name."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath

from capbench.data.captions import open_image
from capbench.data.rows import Picture
from capbench.errors import UserError

DEPTH = 3


class Folder:
    """A folder and those below it to a depth of `DEPTH`, hidden ones left out, looked through once.

    Raises:
        UserError: it is no folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"--data.root {root} is no folder: name the one that holds the images and their captions.")
        self.root = root
        self.files: dict[str, list[Path]] = defaultdict(list)
        for path, below, names in os.walk(root, followlinks=True):
            depth = len(Path(path).relative_to(root).parts)
            below[:] = sorted(name for name in below if not name.startswith(".")) if depth < DEPTH else []
            for name in names:
                self.files[name].append(Path(path, name))

    def named(self, *patterns: str) -> list[Path]:
        """Files whose names match one of the patterns, those highest up first."""
        names = [name for name in self.files if any(fnmatch(name, pattern) for pattern in patterns)]
        paths = [path for name in names for path in self.files[name] if not name.startswith(".")]
        return sorted(paths, key=lambda path: (len(path.parts), path))

    def pictures(self, names: list[str]) -> Callable[[str], Picture | None]:
        """Finds images by name: of several files of one name that whose folder holds most of the names."""
        holds = Counter(path.parent for name in names for path in self.files.get(_last(name), []))

        def find(name: str) -> Picture | None:
            parts = PurePosixPath(name.replace("\\", "/")).parts
            paths = self.files.get(parts[-1] if parts else "", [])
            as_written = [path for path in paths if path.parts[-len(parts) :] == parts]
            for path in sorted(as_written or paths, key=lambda path: -holds[path.parent]):
                if path.is_file():
                    stat = path.stat()
                    return Picture(partial(open_image, path), f"{stat.st_size}-{stat.st_mtime_ns}")
            return None

        return find


def _last(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name
