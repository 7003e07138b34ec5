"""Collection under faults (faults.py): every visit arrives whole, and is nobody else's."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from collected import TALKED_IN, Collected, Collector
from faults import Stores, send_all
from faulty_network import FaultyNetwork
from services import wait_for

from spira.collection.client import Device, new_participant
from spira.collection.visits import Visits
from spira.device.line import Pace
from spira.intake.keys import KeyRing
from spira.intake.receipts import read_receipt
from spira.intake.sweeping import sweep

TARGETS = ("api", "checker", "everything")
QUICK = Pace(tries=3)


@contextmanager
def collectors(folder: Path, n: int) -> Iterator[list[Collector]]:
    """So many devices."""
    made = [Collector(Device(folder / f"phone-{number}", pace=QUICK)) for number in range(n)]
    yield made
    for one in made:
        one.device.close()


def record_all(all_phones: list[Collector], each: int) -> None:
    """So many visits on each device. Of every four: two of one person, one of a person who is seen
    by two devices, under a pseudonym of each, and one that is the first one recorded again."""
    for place, phone in enumerate(all_phones):
        for which in range(each):
            number, group = place * each + which, which // 4
            if which % 4 == 0:
                own, shared = new_participant(), new_participant()
                first = phone.record(number, own, f"1-{place}-{group}")
            elif which % 4 == 1:
                phone.record(number, own, f"1-{place}-{group}", talk=True)
            elif which % 4 == 2:
                phone.record(number, shared, f"2-{place // 2}-{group}")
            else:
                phone.record(number, own, f"1-{place}-{group}", replaces=first)


def burst(
    tmp_path: Path, stores: Stores, *, devices: int, each: int, kills: int, for_s: float
) -> None:
    """Everything arrives, and all of it where it belongs."""
    collected = Collected(tmp_path / "home", stores.settings)
    collected.home.mkdir(exist_ok=True)
    with collectors(tmp_path, devices) as all_phones:
        record_all(all_phones, each)
        with collected.running(stores.database):
            send_all(
                [phone.device for phone in all_phones],
                collected,
                TARGETS,
                stores,
                port=collected.port,
                kills=kills,
                for_s=for_s,
            )
            assert_right(collected, stores, all_phones)


def assert_right(collected: Collected, stores: Stores, all_phones: list[Collector]) -> None:
    """Each visit is what a device recorded, with its receipt; nothing else is stored."""
    ring = KeyRing.open(collected.home / "keys")
    receipts, sounds = {}, {}
    pseudonyms: dict[str, set[str]] = defaultdict(set)  # by record number
    instead = {  # id -> that of the visit which it is in place of
        phone.device.get(name).id: phone.device.get(visit.replaces).id
        for phone in all_phones
        for name, visit in phone.visits.items()
        if visit.replaces is not None
    }
    for phone in all_phones:
        for name, visit in phone.visits.items():
            kept, receipt = phone.device.get(name), phone.device.receipt(name)
            assert receipt is not None
            receipts[kept.id] = receipt
            pseudonyms[visit.form["record_number"]].add(visit.participant)
            of = {one.id: visit.sounds[one.utterance] for one in kept.recordings}
            signed = read_receipt(receipt, ring.public())
            assert (signed.kind, signed.id) == ("visit", kept.id)
            assert {one.id: (one.sha256, one.what) for one in signed.recordings} == {
                one.id: (sha256(of[one.id]), "dropped" if one.utterance == TALKED_IN else "taken")
                for one in kept.recordings
            }
            taken = [one for one in kept.recordings if one.utterance != TALKED_IN]
            sounds |= {(kept.id, one.id): of[one.id] for one in taken}
            told = collected.http("GET", f"/v1/collection/visits/{kept.id}").json()
            assert told["participant"] == visit.participant
            assert told["replaces"] == instead.get(kept.id)
            doubts = ["replaced"] if kept.id in instead.values() else []
            assert [one["reason"] for one in told["doubts"]] == doubts
            values = {k: value for k, value in visit.form.items() if k != "record_number"}
            assert [one["values"] for one in told["forms"]] == [values]
            assert {one["id"]: (one["utterance"], one["sha256"]) for one in told["recordings"]} == {
                one.id: (one.utterance, sha256(of[one.id])) for one in taken
            }
    rows = stores.rows("SELECT id, receipt FROM intake_submissions WHERE state = 'accepted'")
    assert dict(rows) == receipts
    people: dict[str, set[str]] = defaultdict(set)
    visits = Visits(stores.database, ring.wrapped).of_study("spira")
    for one in visits:
        people[one["person"]].add(one["participant"])
    assert {one["id"] for one in visits} == set(receipts) - set(instead.values())
    assert sorted(map(sorted, people.values())) == sorted(map(sorted, pseudonyms.values()))
    assert_stored(stores, sounds)


def assert_stored(stores: Stores, sounds: dict[tuple[str, str], bytes]) -> None:
    """Exactly these, by visit and recording; nothing that an hour ago was anybody's is left."""
    objects = stores.objects("collected")
    sweep(stores.database, objects, datetime.now(UTC) + timedelta(hours=2), kind="visit")
    kept = [item.key for item in objects.list("recordings/")]
    originals = {
        tuple(key.split("/")[1:3]): objects.read(key) for key in kept if key.endswith(".original")
    }
    assert originals == sounds
    assert len(kept) == 2 * len(sounds)  # and the samples of each
    assert list(objects.list("staging/")) == []


def sha256(data: bytes) -> str:
    """As it is announced."""
    return hashlib.sha256(data).hexdigest()


def test_a_burst_with_faults(tmp_path: Path, embedded: Stores) -> None:
    """A short one: three devices with four visits each, four kills."""
    burst(tmp_path, embedded, devices=3, each=4, kills=4, for_s=8)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["embedded", "servers"])
def test_a_long_burst_with_faults(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ten devices with thirty visits each; twenty kills in five minutes."""
    burst(tmp_path, request.getfixturevalue(where), devices=10, each=30, kills=20, for_s=300)


# --- the two ways in which it went wrong in practice --------------------------------------------


def test_a_retry_after_a_partial_upload(tmp_path: Path, embedded: Stores) -> None:
    """Killed in the middle of a recording, and another participant's visit is sent in between: the
    first one goes on where it was, and each has its own."""
    collected = Collected(tmp_path / "home", embedded.settings)
    with collectors(tmp_path, 2) as both, collected.running(embedded.database):
        first, other = both
        name = first.record(1, new_participant(), "111", room_s=60)
        other.record(2, new_participant(), "222")
        staging, sync = embedded.objects("collected"), first.device.sync
        with FaultyNetwork(1, collected.port, rate=1.0, fates=("slow",)).running() as network:
            sending = threading.Thread(target=sync, args=(network.url, collected.token))
            sending.start()
            wait_for(lambda: list(staging.list("staging/")), 60, "some of it is there")
            collected.crash("everything")
            network.mode = "off"
            sending.join()
        assert first.device.receipt(name) is None
        url, token = collected.address, collected.token
        wait_for(lambda: other.device.sync(url, token).complete, 60, "the other one")

        kept = first.device.get(name)
        told = collected.http(
            "PUT",
            f"{kept.address}/{kept.id}",
            json=kept.manifest(),
            headers={"Spira-Device-Secret": kept.secret},
        ).json()
        assert sync(url, token).complete

        assert 0 < told["recordings"][0]["offset"] < kept.recordings[0].n_bytes
        assert_right(collected, embedded, both)


def test_a_second_visit_of_the_same_person(tmp_path: Path, embedded: Stores) -> None:
    """On another day, recorded again, and on another device under another pseudonym: each visit
    has its own form and recordings, and they are one person's."""
    collected = Collected(tmp_path / "home", embedded.settings)
    with collectors(tmp_path, 2) as both, collected.running(embedded.database):
        url, token = collected.address, collected.token
        participant = new_participant()
        first = both[0].record(1, participant, "123.456-7")
        assert both[0].device.sync(url, token).complete
        both[0].record(2, participant, "123.456-7")
        both[0].record(3, participant, "123.456-7", replaces=first)
        both[1].record(4, new_participant(), "123.456-7")
        both[1].record(5, new_participant(), "765.432-1")

        assert all(one.device.sync(url, token).complete for one in both)

        assert_right(collected, embedded, both)
