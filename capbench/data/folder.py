"""Files under a folder, found by name."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from fnmatch import translate
from functools import partial
from itertools import takewhile
from pathlib import Path

from capbench.data.rows import Picture
from capbench.errors import UserError
from capbench.pictures import open_image

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
        """Files whose names match one of the patterns, whatever their case, those highest up first."""
        match = re.compile("|".join(map(translate, patterns)), re.IGNORECASE).match
        names = [name for name in self.files if match(name) and not name.startswith(".")]
        paths = [path for name in names for path in self.files[name]]
        return sorted(paths, key=lambda path: (len(path.parts), path))

    def pictures(self, names: list[str]) -> Callable[[str], Picture | None]:
        """Finds images by name: of several files of one name that in the folders which the name says.

        Where it says none, that in the folder with most of the names.

        Raises:
            UserError: two names have the same file, or two different files may be meant by a name.
        """
        holds = Counter(path.parent for name in names for path in self.files.get(_parts(name)[-1], []))
        name_of: dict[Path, str] = {}

        def find(name: str) -> Picture | None:
            parts = _parts(name)
            paths = [path for path in self.files.get(parts[-1], []) if path.is_file()]
            if not paths:
                return None
            fits = {path: (_common_end(path.parts, parts), holds[path.parent]) for path in paths}
            path = max(paths, key=lambda path: fits[path])
            stat = path.stat()
            for rival in paths:
                if fits[rival] == fits[path] and rival.stat().st_size != stat.st_size:
                    raise UserError(f"{name} may be {path} or {rival}: say which, with its folder before its name.")
            if (other := name_of.setdefault(path, name)) != name:
                raise UserError(f"{other} and {name} have the same file, {path}: an image has one name.")
            return Picture(partial(open_image, path), f"{stat.st_size}-{stat.st_mtime_ns}")

        return find


def read_text(path: Path) -> str:
    """The text of a file, line ends as they are.

    Raises:
        UserError: it is not in UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8 ({error.reason}): save the file as UTF-8.") from error


def _parts(name: str) -> tuple[str, ...]:
    """Folders and file of an image's name, as Windows or others write it."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".")) or ("",)


def _common_end(path: tuple[str, ...], name: tuple[str, ...]) -> int:
    """How many parts are the same, from the last one on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(path), reversed(name), strict=False)))
