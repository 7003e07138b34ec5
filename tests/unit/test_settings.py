"""Settings: where they come from, and what is said of those that cannot be used."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from spira.domain.errors import InputError
from spira.settings import read_settings


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what none of them names has its default."""
    (tmp_path / "settings.toml").write_text("[training]\nthreads = 2\njobs = 3\n")
    monkeypatch.setenv("SPIRA_TRAINING__THREADS", "4")

    from_file = read_settings(home=tmp_path).training
    from_flag = read_settings(home=tmp_path, overrides=["training.threads=5"]).training

    assert (from_file.threads, from_file.jobs, from_file.accelerator) == (4, 3, "cpu")
    assert (from_flag.threads, from_flag.jobs) == (5, 3)


def test_no_file_of_settings_is_no_mistake(tmp_path: Path) -> None:
    """Neither in a folder without one nor in one that is not there yet."""
    assert read_settings(home=tmp_path) == read_settings(home=tmp_path)
    assert read_settings(home=tmp_path / "new").home == tmp_path / "new"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b"[training]\n# \xe7\n"), "not UTF-8 text (byte 13)"),
        (lambda path: path.write_text("threads = = 2"), "not TOML: "),
        (lambda path: path.mkdir(), "cannot be read (is a directory)"),
        (lambda path: path.symlink_to(path.name), "cannot be read (too many levels"),
    ],
)
def test_a_file_of_settings_that_cannot_be_used_is_named(
    make: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    """With what is wrong with it, as an error of the input."""
    path = tmp_path / "settings.toml"
    make(path)

    with pytest.raises(InputError) as caught:
        read_settings(home=tmp_path)

    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_a_file_of_settings_without_permission_is_said_to_be_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to be unwritable: nobody wanted to write it."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read whatever its mode is

    with pytest.raises(InputError, match=r"settings.toml: cannot be read \(permission denied\)"):
        read_settings(home=tmp_path)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("SPIRA_HOM", "did you mean SPIRA_HOME?"),
        ("SPIRA_STORE__ARTIFACTS", "did you mean SPIRA_STORES__ARTIFACTS?"),
        ("SPIRA_TRAINING_THREADS", "did you mean SPIRA_TRAINING__THREADS?"),
        ("SPIRA_XYZ__ABC", "no such setting"),
        ("SPIRA_TRAINING__TREADS", "did you mean training.threads?"),
    ],
)
def test_a_variable_that_was_meant_as_a_setting_is_an_error(
    variable: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that silently stays at its default may send data to another store."""
    monkeypatch.setenv(variable, "1")

    with pytest.raises(InputError) as caught:
        read_settings(home=tmp_path)

    assert len(caught.value.mistakes) == 1
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("webhook=nonsense", "scheduling.webhook: value error, write it as https://host/path"),
        ("webhook=ftp://notices.example", "write it as https://host/path"),
        ("webhook=https:///spira", "write it as https://host/path"),
        ("webhook=http://notices.example:spira", "write it as https://host/path"),
        ("port=8701", "scheduling.web_port: value error, scheduling.port is the same"),
        ("web_port=8700", "scheduling.web_port: value error, scheduling.port is the same"),
    ],
)
def test_an_address_that_nothing_can_be_sent_to_is_an_error(
    setting: str, says: str, tmp_path: Path
) -> None:
    """When the service is started, not when the first notice is lost."""
    with pytest.raises(InputError, match=says):
        read_settings(home=tmp_path, overrides=[f"scheduling.{setting}"])


def test_a_webhook_and_two_free_ports_are_taken(tmp_path: Path) -> None:
    """0 and 0 are not the same port."""
    given = ["webhook='http://127.0.0.1:80/x?y'", "port=0", "web_port=0"]

    read = read_settings(home=tmp_path, overrides=[f"scheduling.{one}" for one in given])

    assert read.scheduling.webhook == "http://127.0.0.1:80/x?y"


@pytest.mark.parametrize("given", ["nats://s3cret@queue:4222", "nats://a:4222,nats://x:s3cret@b"])
def test_a_token_of_the_queue_is_no_part_of_its_address(given: str, tmp_path: Path) -> None:
    """Settings are printed; the mistake is told without the token."""
    with pytest.raises(InputError, match=r"serving\.queue: .*SPIRA_QUEUE_TOKEN") as caught:
        read_settings(home=tmp_path, overrides=[f"serving.queue={given}"])

    assert "s3cret" not in str(caught.value)


def test_variables_of_other_programs_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the one by which our own tests in CI allow no skips."""
    for name in ("SPIRA_NO_SKIPS", "SPIRA_QUEUE_TOKEN", "SPIRA_X", "SPIRAL_HOME"):
        monkeypatch.setenv(name, "1")

    assert read_settings(home=tmp_path)
