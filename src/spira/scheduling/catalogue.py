"""The experiments that can be asked for: those files of one folder that can be read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from spira.domain.errors import InputError
from spira.domain.suggestions import nearest
from spira.training.experiments import Experiment, parse_experiment

_LARGEST_BYTES = 1 << 20
_MOST_FILES = 2000


@dataclass(frozen=True)
class Catalogue:
    """What a folder of experiment files holds."""

    folder: Path
    experiments: Mapping[str, Experiment]  # by name
    files: Mapping[str, str]  # name -> file, relative to the folder
    broken: Mapping[str, str]  # file -> why it cannot be read

    def find(self, name: str) -> Experiment:
        """The experiment of this name.

        raises    InputError when there is none, saying where it was looked for and what is wrong
                  with a file that may be meant
        """
        if name in self.experiments:
            return self.experiments[name]
        place = self.folder.absolute()
        if not place.is_dir():
            raise InputError(
                f"experiment {name!r}: unknown; the folder {place} is not there; "
                "setting scheduling.experiments names it"
            )
        known = "; known: " + ", ".join(self.experiments) if self.experiments else ""
        broken = f"; {len(self.broken)} files cannot be read: " if self.broken else ""
        broken += "; ".join(f"{file} ({why})" for file, why in self.broken.items())
        meant = nearest(name, self.experiments)
        raise InputError(f"experiment {name!r}: unknown in {place}{meant}{known}{broken}")


def read_catalogue(folder: Path) -> Catalogue:
    """Read every experiment file (*.yaml, *.yml) below a folder.

    A file that cannot be read, is no experiment, or has another one's name is listed as broken.
    """
    experiments: dict[str, Experiment] = {}
    files: dict[str, str] = {}
    broken: dict[str, str] = {}
    found = [path for pattern in ("*.yaml", "*.yml") for path in folder.rglob(pattern)]
    for path in sorted(found)[:_MOST_FILES]:
        place = path.relative_to(folder)
        if any(part.startswith(".") for part in place.parts):
            continue  # an editor's, or the second sight of a mounted ConfigMap
        file = str(place)
        try:
            state = path.stat()
            experiment = _read(path, state.st_mtime_ns, state.st_size)
        except OSError as error:
            broken[file] = f"cannot be read ({str(error.strerror).lower()})"
        except InputError as error:
            broken[file] = " · ".join(error.mistakes)
        else:
            if experiment.name in experiments:
                other = files[experiment.name]
                broken[file] = f"its name, {experiment.name}, is that of {other} already"
                continue
            experiments[experiment.name] = experiment
            files[experiment.name] = file
    return Catalogue(folder, experiments, files, broken)


@lru_cache(maxsize=_MOST_FILES)
def _read(path: Path, _changed_ns: int, size: int) -> Experiment:
    if size > _LARGEST_BYTES:
        raise InputError(f"{size} bytes; an experiment has at most {_LARGEST_BYTES}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})") from error
    return parse_experiment(text, where=path.name)
