"""The examples of docs/how-to.md and docs/tutorial.md are run, and print what the pages show.

In a console block a line after `$ ` is a command and the lines below it are its output, in which
`...` stands for anything. Blocks marked `console elsewhere` need a server, a GPU or more time: they
are parsed by tests/unit/test_docs.py and not run here. A block with a file's name after its kind
is that file.
"""

import csv
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from spira.cli import main
from spira.stores.artifacts import ArtifactStore
from spira.stores.registry import Registry
from spira.stores.settings import StoresSettings

ROOT = Path(__file__).parents[2]
VOICE = ROOT / "tests/data/fsdd/george_3.flac"
_BLOCK = re.compile(r"^```(\S+)(?: ([^\n]*))?\n(.*?)^```$", re.M | re.S)
_HEADS = {
    "file": "arquivo",
    "participant": "paciente",
    "utterance": "tarefa",
    "label": "desfecho",
    "sex": "sexo",
    "age": "idade",
    "site": "setor",
}


@dataclass(frozen=True)
class Example:
    """One command of a page, and what the page says that it prints."""

    line: str
    output: str

    @property
    def fails(self) -> bool:
        """Whether the page shows an error."""
        return re.search(r"^spira: ", self.output, re.M) is not None


def examples(page: str) -> Iterator[Example]:
    """Every command of a page that is to be run, in order."""
    for language, mark, text in _BLOCK.findall(page):
        if language == "console" and not mark:
            for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
                line, _, output = part.partition("\n")
                yield Example(line, output.rstrip())


def named_files(page: str) -> dict[str, str]:
    """Files that a page shows, by name."""
    return {mark.split()[-1]: text for _, mark, text in _BLOCK.findall(page) if "." in mark}


def make_workplace(place: Path, tiny_table: Path) -> None:
    """A folder with what the pages take to be there.

    ward/ is the tiny corpus under Portuguese headings, recordings/ and SPIRA_Dataset/ are its
    sentences in the other two layouts.
    """
    ward = place / "ward"
    shutil.copytree(tiny_table.parent, ward, copy_function=link)
    (ward / "mapping.yaml").unlink()
    rows = list(csv.DictReader((ward / "recordings.csv").open()))
    words = {"present": "IR", "absent": "C", "sentence": "frase", "female": "F", "male": "M"}
    for row in rows:
        row.update({key: words.get(value, value) for key, value in row.items()})
    write_table(ward / "pacientes.csv", [{_HEADS[k]: v for k, v in row.items()} for row in rows])
    wrong = [{_HEADS[key]: value for key, value in row.items()} for row in rows[:4]]
    wrong[0]["desfecho"], wrong[1]["idade"] = "maybe", "old"
    write_table(ward / "wrong.csv", wrong)
    noises = [f"noise-{number}.wav" for number in range(6)]
    write_table(ward / "ruido.csv", [{"arquivo": noise, "setor": "A"} for noise in noises])

    spoken = [row for row in rows if row["utterance"] == "frase"]
    for name in ("recordings", "SPIRA_Dataset"):
        for row in spoken:
            label = "present" if row["label"] == "IR" else "absent"
            link(ward / row["file"], place / name / label / row["file"])
        for noise in noises:
            link(ward / noise, place / name / "noise" / noise)
    for number, part in enumerate(("train", "eval", "test")):
        write_table(
            place / "SPIRA_Dataset" / f"metadata_{part}.csv",
            [
                {"file_path": f"{label}/{row['file']}", "class": str(int(label == "present"))}
                for row in spoken[number::3]
                for label in ("present" if row["label"] == "IR" else "absent",)
            ],
        )
    write_table(
        place / "SPIRA_Dataset" / "noise_data.csv", [{"file_path": f"noise/{n}"} for n in noises]
    )
    shutil.copy(VOICE, place / "voice.flac")
    shutil.copytree(ROOT / "experiments", place / "experiments")


def link(source: str | Path, target: str | Path) -> None:
    """The same file at another place, without copying its bytes."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).hardlink_to(source)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """A CSV with the keys of the first row as its header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def assert_prints(example: Example) -> None:
    """Run a command in this process; its exit and its output are those of the page."""
    program, *words = shlex.split(example.line)
    assert program == "spira", example.line
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(words)
    told = out.getvalue(), err.getvalue()
    errors = [line for line in told[1].splitlines() if line.startswith("spira: ")]
    printed = "\n".join([told[0], *errors])

    assert bool(ended.value.code) == example.fails, "\n".join([f"$ {example.line}", *told])
    assert matches(example.output, printed), (
        f"$ {example.line}\nthe page shows\n{example.output}\nit prints\n{printed}"
    )


def matches(shown: str, printed: str) -> bool:
    """Whether output is as shown: `...` is anything, and spaces are not counted."""
    words = r"\s+".join(re.escape(word) for word in shown.split())
    return re.fullmatch(words.replace(r"\.\.\.", r"[\s\S]*?"), printed.strip()) is not None


@contextmanager
def typed_in(page: str, place: Path, tiny_table: Path) -> Iterator[int]:
    """Run every example of a page in a folder of its own, from the first to the last.

    yields    how many there were; the data folder is `home` in the folder
    """
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    make_workplace(place, tiny_table)
    for name, content in named_files(text).items():
        (place / name).write_text(content, encoding="utf-8")
    found = list(examples(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("SPIRA_HOME", str(place / "home"))
        patch.setenv("SPIRA_EVALUATION__RESAMPLES", "200")
        for example in found:
            assert_prints(example)
        yield len(found)


@pytest.fixture(scope="module")
def after_how_to(
    tmp_path_factory: pytest.TempPathFactory, tiny_table: Path
) -> Iterator[tuple[Path, int]]:
    """The data folder after all examples of how-to.md, and how many there were."""
    place = tmp_path_factory.mktemp("how-to")
    with typed_in("how-to.md", place, tiny_table) as count:
        yield place / "home", count


def test_examples_of_the_how_to_print_what_the_page_shows(after_how_to: tuple[Path, int]) -> None:
    """Every command and its output, as a reader would type them."""
    _, count = after_how_to
    assert count >= 24


def test_examples_of_the_tutorial_print_what_the_page_shows(
    tmp_path: Path, tiny_table: Path
) -> None:
    """Those with recordings of one's own; the others take minutes."""
    with typed_in("tutorial.md", tmp_path, tiny_table) as count:
        assert count >= 4


def part(title: str) -> str:
    """A section of reference.md, up to the next heading."""
    text = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    return re.split(r"^#", text.partition(f"# {title}\n")[2], flags=re.M)[0]


def test_the_reference_lists_every_file_of_every_artifact(after_how_to: tuple[Path, int]) -> None:
    """What the stages of a real run committed, with digests and numbers of shards left open."""
    home, _ = after_how_to
    listed = set(re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \|", part("Artifacts"), re.M))
    store = ArtifactStore.open(str(home / "store"), cache=home / "cache")
    stages = (
        "dataset",
        "snapshot",
        "split",
        "features-shard",
        "features",
        "train",
        "evaluate",
        "publish",
    )
    committed = {
        (stage, re.sub(r"-\d{4}\.", "-NNNN.", re.sub(r"/[0-9a-f]{64}$", "/SHA256", name)))
        for stage in stages
        for artifact in store.list(stage)
        for name in artifact.files
    }

    assert len(committed) >= 30
    of_a_study = {("dataset", "snapshot.json"), ("split", "linked.json")}
    stored_only_without_noise = {
        ("features-shard", "windows.npy"),
        ("features", "windows-NNNN.npy"),
    }
    assert listed == committed | stored_only_without_noise | of_a_study


def test_the_reference_lists_every_column_of_the_predictions(
    after_how_to: tuple[Path, int],
) -> None:
    """In the order of the file."""
    import polars as pl

    home, _ = after_how_to
    listed = re.findall(r"^\| `(\w+)` \|", part("Predictions"), re.M)
    store = ArtifactStore.open(str(home / "store"), cache=home / "cache")

    for evaluated in store.list("evaluate"):
        assert pl.read_parquet(evaluated.path("predictions.parquet")).columns == listed
    assert len(listed) >= 13


def test_the_python_example_runs(
    after_how_to: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bundle out of the registry answers, in the lines of how-to.md."""
    home, _ = after_how_to
    registry = Registry.open(StoresSettings(), home=home)
    folder = registry.download(registry.get("challenger"), tmp_path / "models")
    shutil.copytree(folder, tmp_path / "bundle")
    shutil.copy(VOICE, tmp_path / "voice.flac")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/how-to.md").read_text(encoding="utf-8")
    (code,) = [text for language, _, text in _BLOCK.findall(page) if language == "python"]

    exec(compile(code, "how-to.md", "exec"), {})

    level, outcome = capsys.readouterr().out.split()
    assert level == "research"
    assert outcome in ("positive", "negative", "inconclusive")
