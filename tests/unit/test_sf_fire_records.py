"""San Francisco's fire calls as past decisions: the mapping, what it must not look at, and what it refuses."""

from __future__ import annotations

import csv
import gzip
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bentos.dispatch import FAMILY
from bentos.dispatch.records import read_records
from bentos.family import Record
from services.runtime.errors import InvalidArgument

REAL = Path(__file__).parents[3] / "shared" / "data" / "sf_fire_calls" / "sf_fire_calls.csv.gz"

CALL = {
    "CallNumber": "1",
    "UnitID": "E01",
    "IncidentNumber": "1",
    "CallType": "Medical Incident",
    "CallDate": "01/02/2015",
    "CallFinalDisposition": "Code 2 Transport",
    "AvailableDtTm": "01/02/2015 10:00:00 PM",
    "Battalion": "B03",
    "StationArea": "01",
    "OriginalPriority": "3",
    "Priority": "3",
    "FinalPriority": "3",
    "ALSUnit": "true",
    "UnitType": "ENGINE",
    "Location": "(37.78, -122.41)",
    "Delay": "3.5",
}


def _call(number: int, **changes: str) -> dict[str, str]:
    return {**CALL, "CallNumber": str(number), **changes}


def _write(path: Path, calls: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(calls[0]))
        writer.writeheader()
        writer.writerows(calls)
    return path


def _read(path: Path) -> list[Record]:
    return list(read_records(path, lambda _done, _total: None))


def _days(count: int, per_day: int = 4, **changes: str) -> list[dict[str, str]]:
    """Calls of `count` days in a row of January 2015, with places and delays that differ."""
    return [
        _call(
            day * 100 + number,
            CallDate=f"01/{day + 1:02d}/2015",
            Delay=f"{1 + (day * 7 + number * 3) % 9}.5",
            Location=f"({37.7 + number / 100}, {-122.4 - day / 100})",
            UnitID=f"E0{number % 2}",
            **changes,
        )
        for day in range(count)
        for number in range(per_day)
    ]


def test_a_call_becomes_a_record(tmp_path: Path) -> None:
    """Every mapped column reaches its feature; what is not in the file stays out of the record."""
    (record,) = _read(_write(tmp_path / "calls.csv", [CALL]))
    assert record == Record(
        at=1420156800.0,
        decision_id="sf-1-E01",
        unit_id="sf-1",
        region="B03",
        features={
            "severity": 4.0,
            "total_paramedics": 1.0,
            "weekday": 4.0,
            "call_type": "medical",
            "expertise": 0.8,
        },
        outcome=1.0,
    )


@pytest.mark.parametrize(("delay", "outcome"), [("0.1", 1.0), ("5", 1.0), ("5.01", 0.0), ("59.9", 0.0)])
def test_on_time_is_five_minutes(tmp_path: Path, delay: str, outcome: float) -> None:
    """A unit is on time when it took at most five minutes."""
    (record,) = _read(_write(tmp_path / "calls.csv", [{**CALL, "Delay": delay}]))
    assert record.outcome == outcome


def test_unusable_delays_are_skipped_and_counted(tmp_path: Path) -> None:
    """A row without a usable delay is no record, and the reader says how many there were."""
    bad = [_call(number, Delay=text) for number, text in enumerate(["", "soon", "0", "-1", "60", "nan", "inf"])]
    records = read_records(_write(tmp_path / "calls.csv", [*bad, CALL]), lambda _done, _total: None)
    assert [record.decision_id for record in records] == ["sf-1-E01"]
    assert records.skipped == len(bad)


def test_compressed_and_plain_files_read_alike(tmp_path: Path) -> None:
    """What counts is the content, not the file's name."""
    plain = _write(tmp_path / "calls", _days(5))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert _read(packed) == _read(plain)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_what_is_known_afterwards_is_no_feature(tmp_path_factory: pytest.TempPathFactory, random: Any) -> None:
    """Shuffling or blanking what is known only afterwards changes no feature of any record."""
    folder = tmp_path_factory.mktemp("calls")
    calls = _days(4)
    changed = [dict(call) for call in calls]
    for column in ("AvailableDtTm", "CallFinalDisposition", "FinalPriority"):
        values = [f"{column} {number}" for number in range(len(calls) - 1)] + [""]
        random.shuffle(values)
        for call, value in zip(changed, values, strict=True):
            call[column] = value
    assert _read(_write(folder / "changed", changed)) == _read(_write(folder / "calls", calls))


def test_a_file_without_the_later_columns_is_enough(tmp_path: Path) -> None:
    """The columns that are known only afterwards need not be there at all, but for the delay."""
    later = ("AvailableDtTm", "CallFinalDisposition", "FinalPriority")
    calls = [{name: value for name, value in call.items() if name not in later} for call in _days(4)]
    assert _read(_write(tmp_path / "short", calls)) == _read(_write(tmp_path / "calls", _days(4)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.randoms(use_true_random=False))
def test_delays_reach_later_days_only(tmp_path_factory: pytest.TempPathFactory, day: int, random: Any) -> None:
    """Changing the delays of a day and after it changes no feature up to and including that day."""
    folder = tmp_path_factory.mktemp("calls")
    calls = _days(6)
    first = day * 4
    changed = [dict(call) for call in calls]
    for call in changed[first:]:
        call["Delay"] = f"{random.uniform(0.5, 50.0):.2f}"
    before = _read(_write(folder / "calls", calls))
    after = _read(_write(folder / "changed", changed))
    for one, other in list(zip(before, after, strict=True))[: first + 4]:
        assert one.features == other.features


def test_the_past_of_a_station_and_kind_is_its_expected_time(tmp_path: Path) -> None:
    """The expected time is the group's mean over earlier days, shrunk to the mean of all by 20 calls' weight."""
    past = [_call(n, Delay="2") for n in range(10)] + [_call(n + 50, Delay="8", StationArea="02") for n in range(10)]
    today = [_call(100, CallDate="01/03/2015"), _call(101, CallDate="01/03/2015", StationArea="99")]
    *_, known, fresh = _read(_write(tmp_path / "calls", [*past, *today]))
    assert known.features["response_time_min"] == pytest.approx((10 * 2 + 20 * 5) / 30)
    assert fresh.features["response_time_min"] == pytest.approx(5.0)


def test_distance_is_from_where_the_unit_usually_is(tmp_path: Path) -> None:
    """After ten calls a unit's usual place is known; a call 0.01 degrees north is 1.3 × 1.112 km away."""
    past = [_call(number) for number in range(10)]
    today = [
        _call(100, CallDate="01/03/2015", Location="(37.79, -122.41)"),
        _call(101, CallDate="01/03/2015", UnitID="T9"),
    ]
    *before, known, other = _read(_write(tmp_path / "calls", [*past, *today]))
    assert known.features["distance_km"] == pytest.approx(1.3 * 1.112, rel=1e-6)
    assert "distance_km" not in other.features
    assert all("distance_km" not in record.features for record in before)


def test_unknown_texts_stay_missing(tmp_path: Path) -> None:
    """A place that is none, and a unit of no known kind, leave their features missing; an unknown type is `other`."""
    calls = [_call(1, CallType="Something New", UnitType="BLIMP", Location="", OriginalPriority="", ALSUnit="false")]
    (record,) = _read(_write(tmp_path / "calls", calls))
    assert record.features == {"severity": 3.0, "total_paramedics": 0.0, "weekday": 4.0, "call_type": "other"}


def test_progress_ends_with_the_whole_file(tmp_path: Path) -> None:
    """Progress never goes back and ends with all bytes read."""
    path = _write(tmp_path / "calls", _days(28, per_day=99))
    seen: list[tuple[int, int]] = []
    list(read_records(path, lambda done, total: seen.append((done, total))))
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: column 'CallNumber' is missing"),
        (b"a,b\n1,2\n", "line 1: column 'CallNumber' is missing"),
        (b"\x1f\x8bnot gzip at all", "cannot be read"),
        (b"\x00" * 70_000, "line 1: longer than"),
        (gzip.compress(b"a" * 5000)[:-20], "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Something that is no file of fire calls is refused with a sentence that says where."""
    path = tmp_path / "wrong"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument) as refused:
        _read(path)
    assert message in refused.value.message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is refused with its name."""
    with pytest.raises(InvalidArgument, match=r"nowhere\.csv cannot be read"):
        _read(tmp_path / "nowhere.csv")


def test_a_wrong_date_names_line_and_column(tmp_path: Path) -> None:
    """The third line of the file holds the fault, and the sentence says so."""
    path = _write(tmp_path / "calls", [CALL, {**CALL, "CallDate": "2015-01-03"}])
    with pytest.raises(InvalidArgument, match=r"line 3: column 'CallDate' must be month/day/year, not '2015-01-03'"):
        _read(path)


def test_a_file_out_of_order_is_refused(tmp_path: Path) -> None:
    """Days that go back would let the future into the features."""
    path = _write(tmp_path / "calls", [CALL, {**CALL, "CallDate": "01/01/2015"}])
    with pytest.raises(InvalidArgument, match="line 3: column 'CallDate' goes back"):
        _read(path)


def test_a_torn_row_is_refused(tmp_path: Path) -> None:
    """A row with too few cells names its line."""
    path = _write(tmp_path / "calls", [CALL])
    path.write_text(path.read_text() + "1,2,3\n")
    with pytest.raises(InvalidArgument, match="line 3"):
        _read(path)


@pytest.mark.skipif(not REAL.exists(), reason="the file of San Francisco's fire calls is not on this machine")
def test_the_real_file_fits_the_schema() -> None:
    """The first 20 000 real calls all fit the family's schema, in order of time, and most were answered in time."""
    records = read_records(REAL, lambda _done, _total: None)
    taken = [next(records) for _ in range(20_000)]
    for record in taken:
        FAMILY.schema.encode(*FAMILY.schema.split(record.features))
    assert all(one.at <= other.at for one, other in pairwise(taken))
    assert len({record.decision_id for record in taken}) == len(taken)
    assert 0.7 < sum(record.outcome for record in taken) / len(taken) < 0.95
