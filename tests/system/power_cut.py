"""What a power cut would leave behind, worked out from an strace log of a process that really ran.

`kill -9` proves nothing about a disk: what a process has written is in the kernel then, and the
kernel lives on. Here a small file system in memory is driven by the log, and at any moment it can
be laid out as a folder that holds what was on stable storage by then, and nothing else.

What is taken for granted of a disk, no more than POSIX and fsync(2) promise:

    bytes       of a file are there once an fsync or fdatasync of that file has returned; only
                those whose write had returned when it was called
    a name      (of a new file, a folder, a link; a rename; a removal) is there once an fsync of
                the folder it is in has returned; that of the file itself is not enough
    a rename    in one folder happens whole or not at all; between folders each has its own half
    permissions go with the name; sync and syncfs count for nothing

What was not synced is lost entirely, or (`torn`) any part of it survives: of a file any choice of
the writes since its last sync, as a disk brings them there in any order; of a folder any number of
its changes, in their order, as a journal keeps it. A file may so have its name and none of its
bytes.

Left out: a mapping that is written to (SQLite's -shm, which is made anew), and a read that moves
the place that a later plain write goes to. `is_as_on_disk` finds out whether that, or anything
else that the log does not tell, has happened.
"""

import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STRACE = shutil.which("strace")

_LONGEST = 1 << 22  # bytes of one write; a longer one would be cut short in the log
_CALLS = (  # a question mark: not on every machine
    *("openat", "?open", "?creat", "close", "lseek", "dup", "?dup2", "dup3", "fcntl"),
    *("write", "writev", "pwrite64", "ftruncate"),
    *("fsync", "fdatasync"),
    *("?mkdir", "mkdirat", "?rmdir", "?unlink", "unlinkat", "?link", "linkat"),
    *("?rename", "renameat", "renameat2"),
    *("?fork", "?vfork", "clone", "clone3"),
)


def traced(log: Path, *command: str, kill_at: int | None = None) -> list[str]:
    """The words that run a command and write its log.

    kill_at   SIGKILL instead of this fdatasync of its first thread, counted from 1
    """
    assert STRACE is not None
    how = ["-f", "-xx", "-s", str(_LONGEST), "-e", "signal=none", "-o", str(log)]
    how += ["-e", f"trace={','.join(_CALLS)}"]
    if kill_at is None:
        how += ["--seccomp-bpf"]  # far faster, and deaf to what is injected
    else:
        how += ["-e", f"inject=fdatasync:signal=KILL:when={kill_at}"]
    return [STRACE, *how, *command]


# --- the log --------------------------------------------------------------------------------


@dataclass
class Call:
    """A call as it begins, and once more as it returns."""

    name: str
    words: list[str]  # arguments; a text is in `texts`
    texts: list[bytes]
    result: int | None = None  # None as it begins


_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)")
_RESULT = re.compile(r"(.*)\) += (-?\d+|0x[0-9a-f]+|\?)(?: .*)?$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_UNFINISHED = "<unfinished ...>"


def calls(log: Path) -> Iterator[Call]:
    """Every call twice, at its beginning and its return, in the order of the log.

    One that was never returned from comes once.
    """
    begun: dict[str, tuple[str, Call]] = {}
    for number, line in enumerate(log.read_text().splitlines(), 1):
        found = _LINE.match(line)
        if found is None:
            continue  # a signal, an end
        thread, resumed, name, rest = found.groups()
        if resumed is None and rest.endswith(_UNFINISHED):
            call = _call(name, rest.removesuffix(_UNFINISHED), number)
            begun[thread] = (rest.removesuffix(_UNFINISHED), call)
            yield call
            continue
        ended = _RESULT.match(rest)
        if ended is None:
            raise ValueError(f"{log}, line {number}: is not understood")
        said, result = ended.groups()
        if resumed is None:
            call = _call(name, said, number)
            yield call
        else:
            before, call = begun.pop(thread)
            call = _call(resumed, before + said, number)
        if result != "?":
            call.result = int(result, 0)
            yield call


def _call(name: str, said: str, number: int) -> Call:
    texts = []
    for text, cut in _TEXT.findall(said):
        if cut:
            raise ValueError(f"line {number}: {name} writes more than {_LONGEST} bytes at once")
        texts.append(bytes.fromhex(text.replace("\\x", "")))
    return Call(name, [word.strip() for word in _TEXT.sub("", said).split(",")], texts)


# --- the disk -------------------------------------------------------------------------------


@dataclass
class Entry:
    """A file or a folder: what is synced of it, and every change since, the earliest first."""

    mode: int
    synced: Any
    unsynced: list[Any] = field(default_factory=list)
    n_synced: int = 0  # changes that are in `synced`

    @property
    def n_changes(self) -> int:
        """How many changes there were, ever."""
        return self.n_synced + len(self.unsynced)

    def sync(self, n_changes: int) -> None:
        """So many changes are on the disk now."""
        n_new = n_changes - self.n_synced
        self.synced = self.after(self.unsynced[:n_new])
        del self.unsynced[:n_new]
        self.n_synced = n_changes

    def now(self) -> Any:
        """What the process sees."""
        return self.after(self.unsynced)

    def left(self, torn: random.Random | None) -> Any:
        """What a power cut leaves; `torn` draws what survives of what was not synced."""
        return self.after([] if torn is None else self.draw(torn))

    def after(self, changes: Sequence[Any]) -> Any:
        """What is synced, with these changes."""
        raise NotImplementedError

    def draw(self, torn: random.Random) -> Sequence[Any]:
        """Changes that may survive while others do not."""
        raise NotImplementedError


class File(Entry):
    """Bytes. A change is bytes and where they go, or the size it is cut or grown to."""

    def after(self, changes: Sequence[tuple[int, bytes] | int]) -> bytearray:
        data = bytearray(self.synced)
        for change in changes:
            if isinstance(change, int):
                del data[change:]
                data += bytes(change - len(data))
            else:
                at, new = change
                data += bytes(max(0, at - len(data)))
                data[at : at + len(new)] = new
        return data

    def draw(self, torn: random.Random) -> Sequence[Any]:
        return [change for change in self.unsynced if torn.random() < 0.5]


class Folder(Entry):
    """Names. A change is what some of them stand for from then on; None: for nothing."""

    def after(self, changes: Sequence[dict[str, Entry | None]]) -> dict[str, Entry]:
        names = dict(self.synced)
        for change in changes:
            names |= change
        return {name: entry for name, entry in names.items() if entry is not None}

    def draw(self, torn: random.Random) -> Sequence[Any]:
        return self.unsynced[: torn.randint(0, len(self.unsynced))]


@dataclass
class _Opened:
    entry: Entry
    place: Path
    appends: bool
    at: int = 0


class Disk:
    """Everything below a folder that is there, and empty, before the first process starts."""

    def __init__(self, root: Path) -> None:
        self.said: list[str] = []  # lines on standard output: what was acknowledged by now
        self._root = root
        self._top = Folder(0o755, {})
        self._opened: dict[int, _Opened] = {}

    def replay(self, log: Path) -> Iterator[None]:
        """Let one process do what it did; its log begins where the one before has ended.

        Stops in front of every change of what is on stable storage, and at the end. Between two
        stops that stays the same and more is acknowledged: whoever looks at every stop has looked
        behind every line of the log.
        """
        self._opened = {}
        syncing: dict[int, int] = {}  # by descriptor: changes when the sync was called
        for call in calls(log):
            if call.result is None:
                self._begin(call, syncing)
            elif call.result >= 0 and call.name in ("fsync", "fdatasync"):
                opened = self._opened.get(_number(call.words[0]))
                if opened is not None:
                    n_changes = syncing[_number(call.words[0])]
                    if n_changes > opened.entry.n_synced:
                        yield
                        opened.entry.sync(n_changes)
            elif call.result >= 0:
                self._end(call)
        yield

    def leave(self, place: Path, torn: random.Random | None = None) -> None:
        """Lay out, in a new folder, what a power cut would leave now.

        torn      draws what survives of what was not synced; None: nothing does
        """
        _leave(self._top, place, torn)

    def is_as_on_disk(self) -> bool:
        """Whether the folder holds what the process saw last; -shm files are not looked at."""
        return _is(self._top, self._root)

    def _begin(self, call: Call, syncing: dict[int, int]) -> None:
        """What counts from the moment at which it is called."""
        descriptor = _number(call.words[0])
        if call.name in ("fork", "vfork") or (
            call.name.startswith("clone") and not any("CLONE_FILES" in word for word in call.words)
        ):
            raise ValueError(f"{call.name}: another process; only one is understood")
        if call.name == "write" and descriptor == 1 and 1 not in self._opened:
            self.said += call.texts[0].decode().splitlines()
        if call.name in ("fsync", "fdatasync") and descriptor in self._opened:
            syncing[descriptor] = self._opened[descriptor].entry.n_changes
        if call.name == "close":
            self._opened.pop(descriptor, None)

    def _end(self, call: Call) -> None:
        """What has happened when it returns."""
        assert call.result is not None
        words, texts = call.words, call.texts
        opened = self._opened.get(_number(words[0]))
        match call.name:
            case "open":
                self._open(self._path("", texts[0]), words[1], words[2:], call.result)
            case "creat":
                self._open(
                    self._path("", texts[0]), "O_WRONLY|O_CREAT|O_TRUNC", words[1:], call.result
                )
            case "openat":
                self._open(self._path(words[0], texts[0]), words[2], words[3:], call.result)
            case "mkdir":
                self._name(self._path("", texts[0]), Folder(_mode(words[1]), {}))
            case "mkdirat":
                self._name(self._path(words[0], texts[0]), Folder(_mode(words[2]), {}))
            case "unlink" | "rmdir":
                self._name(self._path("", texts[0]), None)
            case "unlinkat":
                self._name(self._path(words[0], texts[0]), None)
            case "link":
                self._link(self._path("", texts[0]), self._path("", texts[1]))
            case "linkat":
                self._link(self._path(words[0], texts[0]), self._path(words[2], texts[1]))
            case "rename":
                self._rename(self._path("", texts[0]), self._path("", texts[1]))
            case "renameat" | "renameat2":
                self._rename(self._path(words[0], texts[0]), self._path(words[2], texts[1]))
            case "dup" | "dup2" | "dup3" if opened is not None:
                self._opened[call.result] = opened
            case "fcntl" if opened is not None and "F_DUPFD" in words[1]:
                self._opened[call.result] = opened
            case "lseek" if opened is not None:
                opened.at = call.result
            case "write" | "writev" if opened is not None:
                assert isinstance(opened.entry, File)
                if opened.appends:
                    opened.at = len(opened.entry.now())
                opened.entry.unsynced.append((opened.at, b"".join(texts)[: call.result]))
                opened.at += call.result
            case "pwrite64" if opened is not None:
                assert isinstance(opened.entry, File)
                opened.entry.unsynced.append((_number(words[3]), texts[0][: call.result]))
            case "ftruncate" if opened is not None:
                assert isinstance(opened.entry, File)
                opened.entry.unsynced.append(_number(words[1]))

    def _path(self, folder: str, name: bytes) -> Path | None:
        """A place below the root, from it on; None for any other."""
        path = Path(os.fsdecode(name))
        opened = self._opened.get(_number(folder))
        if not path.is_absolute():
            return None if opened is None else opened.place / path
        return path.relative_to(self._root) if path.is_relative_to(self._root) else None

    def _find(self, path: Path) -> Entry | None:
        entry: Entry | None = self._top
        for name in path.parts:
            entry = entry.now().get(name) if isinstance(entry, Folder) else None
        return entry

    def _open(self, path: Path | None, flags: str, mode: list[str], descriptor: int) -> None:
        if path is None:
            return
        entry = self._find(path)
        if entry is None:
            entry = File(_mode(mode[0]), b"")
            self._name(path, entry)
        elif "O_TRUNC" in flags and isinstance(entry, File):
            entry.unsynced.append(0)
        self._opened[descriptor] = _Opened(entry, path, "O_APPEND" in flags)

    def _name(self, path: Path | None, entry: Entry | None) -> None:
        """A name stands for something else now."""
        if path is not None:
            self._folder(path).unsynced.append({path.name: entry})

    def _link(self, old: Path | None, new: Path | None) -> None:
        if old is not None:
            self._name(new, self._find(old))

    def _rename(self, old: Path | None, new: Path | None) -> None:
        if old is None and new is None:
            return
        if old is None or new is None:
            raise ValueError(f"rename of {old or new}: from or to another disk")
        entry = self._find(old)
        if old.parent == new.parent:
            self._folder(new).unsynced.append({old.name: None, new.name: entry})
        else:
            self._name(new, entry)
            self._name(old, None)

    def _folder(self, path: Path) -> Folder:
        found = self._find(path.parent)
        assert isinstance(found, Folder), path
        return found


def _number(word: str) -> int:
    return int(word) if word.isdecimal() else -1


def _mode(word: str) -> int:
    return int(word, 8) & ~0o022


def _leave(entry: Entry, place: Path, torn: random.Random | None) -> None:
    if isinstance(entry, Folder):
        place.mkdir()
        for name, inside in entry.left(torn).items():
            _leave(inside, place / name, torn)
    elif isinstance(entry, File):
        place.write_bytes(entry.left(torn))
    place.chmod(entry.mode)


def _is(entry: Entry, place: Path) -> bool:
    if isinstance(entry, File):
        return place.name.endswith("-shm") or entry.now() == place.read_bytes()
    assert isinstance(entry, Folder)
    names = entry.now()
    return names.keys() == {each.name for each in place.iterdir()} and all(
        _is(inside, place / name) for name, inside in names.items()
    )
