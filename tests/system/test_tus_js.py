"""Uploads by the real tus-js-client, over a network as bad as a hospital's."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_network import FaultyNetwork
from served import Api, Assessment, voice
from services import wait_for

from spira.stores.objects import Objects

SEED = 11
_SOURCES = Path(__file__).parent / "tus-js"


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., "subprocess.Popen[str]"]:
    """Start `upload.mjs` with what its lock file names."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("node and npm are needed: tus-js-client runs in them")
    folder = tmp_path_factory.mktemp("tus-js")
    for name in ("package.json", "package-lock.json", "upload.mjs"):
        shutil.copy(_SOURCES / name, folder)
    installed = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"npm cannot reach its registry: {installed.stderr[-300:]}")

    def start(**what: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [program, "upload.mjs", json.dumps(what)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.slow
def test_tus_js_client_uploads_whole_over_a_bad_network_and_a_kill(
    tmp_path: Path, node: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """It goes on after cuts, silence, portals and `kill -9` of the API; every byte is right."""
    api = Api(tmp_path / "home")
    api.home.mkdir()
    api.token = api.make_token()
    api.start()
    some = [Assessment((voice(number, seconds=5.5),)) for number in range(12)]
    uploads = []
    for one in some:
        (tmp_path / one.id).write_bytes(one.sounds[0])
        (needed,) = api.put(one).json()["recordings"]
        uploads.append({"url": needed["upload_url"], "file": str(tmp_path / one.id)})
    try:
        with FaultyNetwork(seed=SEED, upstream=api.port, rate=0.6).running() as network:
            sending = node(base=network.url, token=api.token, uploads=uploads)
            wait_for(lambda: network.dealt.total() > 20, 60, "some has been sent")
            api.kill("everything")
            wait_for(lambda: network.dealt.total() > 60, 60, "it goes on trying")
            api.start()
            said, error = sending.communicate(timeout=300)
        assert sending.returncode == 0, error
        for one in some:
            assert api.put(one).json()["state"] == "accepted"
    finally:
        api.kill("everything")

    objects = Objects.open(str(api.home / "recordings"), setting="a test")
    originals = [item.key for item in objects.list("recordings/") if item.key.endswith(".original")]
    kept = {key.split("/")[1]: objects.read(key) for key in originals}
    assert kept == {one.id: one.sounds[0] for one in some}
    assert len(network.dealt) > 8
    assert json.loads(said)["retries"] > 20
