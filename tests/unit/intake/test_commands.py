"""`spira keys`: what an operator sees, which is never a secret."""

import errno
import getpass
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spira import cli
from spira.console import Console
from spira.intake.keys import KeyRing
from spira.intake.settings import IntakeSettings
from spira.settings import Settings
from spira.wiring import Application

Run = Callable[..., tuple[int, str, str]]
PASSPHRASE = "uma frase que ninguém adivinha"


@pytest.fixture
def spira(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run `spira keys …` in a data folder; exit code, standard output and error."""
    monkeypatch.setenv("SPIRA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SPIRA_KEYS_PASSPHRASE", PASSPHRASE)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["keys", *map(str, arguments)])
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_an_operator_sees_which_key_is_in_use(spira: Run, tmp_path: Path) -> None:
    """None at first, and looking makes none; after a rotation the new one is, the old one stays."""
    code, out, _ = spira("list")
    assert (code, "No keys yet in" in out) == (0, True)
    assert not (tmp_path / "home" / "keys").exists()

    KeyRing.open(tmp_path / "home" / "keys").hash_record("ward", "1")
    code, out, _ = spira("rotate", "records", "--site", "ward", "--json")
    rotated = json.loads(out)
    listed: list[dict[str, Any]] = json.loads(spira("list", "--json")[1])
    table = spira("list")[1].splitlines()

    assert code == 0
    assert (rotated["use"], rotated["site"], rotated["number"]) == ("records", "ward", 2)
    assert [(key["use"], key["number"], key["in_use"]) for key in listed] == [
        ("receipts", 1, True),
        ("records", 2, True),
        ("records", 1, False),
    ]
    assert [line.split()[1:5] for line in table[1:]] == [
        ["receipts", "-", "1", "yes"],
        ["records", "ward", "2", "yes"],
        ["records", "ward", "1", "no"],
    ]


def test_separators_count_where_the_setting_says_so(tmp_path: Path) -> None:
    """The ring that the services have is made as it says."""
    told = IntakeSettings(record_separators=True)
    ring = Application(Settings(home=tmp_path, intake=told), Console()).keys

    assert ring.hash_record("ward", "123-1") != ring.hash_record("ward", "12-31")


def test_keys_of_a_site_are_made_before_its_first_assessment(spira: Run, tmp_path: Path) -> None:
    """With those of receipts and of spoken consents; a second time changes nothing."""
    code, out, _ = spira("create", "ward", "--json")
    made = json.loads(out)
    again = json.loads(spira("create", "ward", "--json")[1])
    hashed = KeyRing.open(tmp_path / "home" / "keys").hash_record("ward", "1")

    assert code == 0
    assert [(key["use"], key["site"]) for key in made] == [
        ("consents", None),
        ("receipts", None),
        ("records", "ward"),
    ]
    assert again == made
    assert hashed.startswith(made[2]["id"])


def test_who_made_and_rotated_keys_is_audited(
    spira: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each key once, by its id; a key that was there is not made."""
    for words in (("create", "ward"), ("create", "ward"), ("rotate", "receipts")):
        assert spira(*words)[0] == 0
    keys = {
        (key["use"], key["number"]): key["id"] for key in json.loads(spira("list", "--json")[1])
    }

    with pytest.raises(SystemExit):
        cli.main(["audit", "export"])
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]

    assert sorted((row["what"], row["which"]) for row in rows) == sorted(
        [
            ("key made", keys["consents", 1]),
            ("key made", keys["receipts", 1]),
            ("key made", keys["records", 1]),
            ("key rotated", keys["receipts", 2]),
        ]
    )
    assert {(row["who"], row["role"]) for row in rows} == {(getpass.getuser(), "operator")}


def test_a_ring_moves_by_its_backup_and_no_command_tells_a_secret(
    spira: Run, tmp_path: Path
) -> None:
    """To another folder, by setting; what is printed, with --json too, holds no secret."""
    ring = KeyRing.open(tmp_path / "home" / "keys")
    hashed = ring.hash_record("ward", "1")
    keys = [json.loads(file.read_bytes()) for file in (tmp_path / "home" / "keys").glob("*.json")]
    file = tmp_path / "saved"
    said = [spira("list"), spira("list", "--json"), spira("backup", file)]
    said.append(spira("backup", file))  # it is there already
    (tmp_path / "home" / "settings.toml").write_text(f'[intake]\nkeys = "{tmp_path / "moved"}"\n')
    said.append(spira("restore", file, "--json"))

    assert [code for code, _, _ in said] == [0, 0, 0, 2, 0]
    assert f"2 keys saved in {file}" in said[2][1]
    assert KeyRing(tmp_path / "moved").wrapped(hashed) == hashed
    for _, out, err in said:
        for secret in [PASSPHRASE, *(key["secret"].rstrip("=") for key in keys)]:
            assert secret not in out + err


def test_half_a_backup_is_not_left(
    spira: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, or where there is no folder, nothing lies there that looks like one."""
    KeyRing.open(tmp_path / "home" / "keys")

    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSPC, "No space left on device")

    nowhere = spira("backup", tmp_path / "nowhere" / "saved")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        too_full = spira("backup", tmp_path / "saved")

    assert nowhere[0] == 2
    assert "saved: cannot be made (no such file or directory)" in nowhere[2]
    assert too_full[0] == 75
    assert "writing a backup: the disk is full" in too_full[2]
    assert spira("backup", tmp_path / "saved")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rotate", "records"], "keys rotate: --site SITE says whose records"),
        (["rotate", "receipts", "--site", "ward"], "only records have a site"),
        (["rotate", "receipts"], "there are none yet"),
        (["rotate", "consents"], "keys for consents: there are none yet"),
        (["rotate", "records", "--site", "ward"], "keys for records of site ward: there are none"),
        (["backup", "saved"], "holds no keys; there is nothing to save"),
        (["restore", "nothing"], "nothing: cannot be read (no such file"),
    ],
)
def test_what_cannot_be_done_is_told(spira: Run, arguments: list[str], says: str) -> None:
    """With exit code 2."""
    code, _, err = spira(*arguments)
    assert code == 2
    assert says in err


def test_without_a_passphrase_nothing_is_saved(
    spira: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from the environment alone: command lines are seen by others."""
    KeyRing.open(tmp_path / "home" / "keys")
    monkeypatch.delenv("SPIRA_KEYS_PASSPHRASE")

    code, _, err = spira("backup", tmp_path / "saved")

    assert code == 2
    assert "SPIRA_KEYS_PASSPHRASE: set this environment variable" in err
    assert not (tmp_path / "saved").exists()
