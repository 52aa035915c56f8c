"""Cities of JEMSS: a hand-made one, broken ones, and the real ones where they are at hand."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.dispatch.city import City
from services.dispatch.distributions import Shape
from services.dispatch.history import send_closest, simulate
from services.dispatch.incidents import OutcomeKnown
from services.dispatch.jemss import read_city
from services.runtime.errors import InvalidArgument

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "jemss_cities"

FILES = {
    "stations/stations_1.csv": (
        "stations,,,a remark,,\nindex,x,y,capacity,,NAME\n1,170.0,-36.0,5,,First\n2,170.03,-36.0,5,,Second\n"
    ),
    "hospitals/hospitals_1.csv": 'hospitals,,,"a remark, with a comma"\nindex,x,y,name\n1,170.02,-36.0,General\n',
    "ambulances/ambulances_1.csv": "ambulances,,\nindex,stationIndex,class,\n1,1,1,\n2,2,2,\n",
    "maps/map_1.csv": "map,1,,,,\nxMin,xMax,yMin,yMax,xScale,yScale\n169.9,170.1,-36.1,-35.9,100,111\n",
    "travel/travel/travel_1.csv": (
        "travelModes,,\ntravelModeIndex,offRoadSpeed,note\n1,1440,fast\n2,720,slow\n,,\n"
        "travelSets,,\ntravelSetIndex,priority,travelModeIndex\n"
        "1,highPriority,1\n1,medPriority,1\n1,lowPriority,2\n2,highPriority,2\n2,medPriority,2\n2,lowPriority,2\n,,\n"
        "travelSetsTiming,,\nstartTime,travelSetIndex,\n0,1,\n0.5,2,\n"
    ),
    "misc/call priorities/priorities_1.csv": (
        "priorities,3,,\npriority,name,targetResponseTime,note\n"
        "1,highPriority,0.005555556,8 min\n2,medPriority,12/60/24,\n3,lowPriority,20/60/24,\n"
    ),
    "demand/demand_1.csv": (
        "demandRasters,,\nrasterIndex,rasterFilename,\n1,$jemssDir/none.tif,\n,,\n"
        "demandModes,,,,\nmodeIndex,rasterIndex,priority,arrivalRate,note\n"
        "1,1,highPriority,10,\n2,1,medPriority,20,\n3,1,lowPriority,30,\n4,1,highPriority,1,\n,,,,\n"
        "demandSets,,\nsetIndex,modeIndices,\n1,[1; 2; 3],\n2,[4; 2; 3],\n,,\n"
        "demandSetsTiming,,\nstartTime,setIndex,\n0,1,\n0.25,2,\n"
    ),
    "demand/coverage/demand_coverage_1.csv": "coverTimes,,\ndemandPriority,coverTime,\nhighPriority,0.005,\n",
    "travel/roads/nodes.csv": "nodes,,,\nindex,x,y,offRoadAccess,\n"
    + "".join(f"{n}.0,{170 + (n - 1) * 0.01},-36.0,{1.0 if n < 5 else 0.0},\n" for n in range(1, 6))
    + ",\n",
    "travel/roads/arcs.csv": (
        "miscData,,,\narcForm,numModes,\nundirected,2\n,\narcs,,,\nindex,fromNode,toNode,distance,mode_1,mode_2,\n"
        + "".join(f"{n}.0,{n}.0,{n + 1}.0,1.0,0.000694444,0.001388889,\n" for n in range(1, 5))
        + ",\n"
    ),
    "calls/reps/train/gen_config.xml": (
        '<?xml version="1.0" encoding="UTF-8"?>\n<genConfig>\n<mode>calls</mode>\n<sim>\n<callDistributions>\n'
        '<interarrivalTime seed="1">Exponential(1/280)</interarrivalTime>\n'
        "<priority>Categorical([0.5, 0.25, 0.25])</priority>\n"
        "<dispatchDelay>Normal(50/60/60/24, 0)</dispatchDelay>\n"
        "<onSceneDuration>Exponential(12/60/24)</onSceneDuration>\n"
        "<transfer>Bernoulli(0.75)</transfer>\n"
        "<transferDuration>Weibull(2.5, 34.3/60/24)</transferDuration>\n"
        "</callDistributions>\n</sim>\n</genConfig>\n"
    ),
}
OPTIONAL = ("travel/travel", "priorities", "demand/demand", "demand/coverage", "gen_config")


def write(folder: Path, **changes: str | None) -> Path:
    """Writes the hand-made city; `changes` replaces files whose path contains the key, None leaves them out."""
    for path, text in FILES.items():
        wanted: str | None = text
        for part, replacement in changes.items():
            if part in path:
                wanted = replacement
        if wanted is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(wanted, encoding="utf-8")
    return folder


def test_a_city_folder_is_read_as_it_stands(tmp_path: Path) -> None:
    """Sites, units, priorities, modes, rates and durations arrive in minutes and kilometres."""
    city = read_city(write(tmp_path))
    assert [site.node for site in city.stations] == [0, 3]
    assert [site.node for site in city.hospitals] == [2]
    assert city.hospitals[0].name == "General"
    assert [unit.station for unit in city.units] == [0, 1]
    assert [round(priority.target_min, 3) for priority in city.priorities] == [8.0, 12.0, 20.0]
    assert [priority.severities for priority in city.priorities] == [(5, 4), (3, 2), (1,)]
    assert city.travel.call_nodes.tolist() == [0, 1, 2, 3]
    assert city.travel.to_call[0, 0] == pytest.approx([0, 1, 2, 3], abs=1e-4)
    assert city.travel.to_call[1, 0] == pytest.approx([0, 2, 4, 6], abs=1e-4)
    assert city.travel.back[0] == pytest.approx([0, 2, 4, 6], abs=1e-4)
    assert city.travel.to_call_km[1] == pytest.approx([3, 2, 1, 0], abs=1e-4)
    assert city.times.dispatch_delay.mean == pytest.approx(50 / 60)
    assert (city.times.handover.shape, city.times.handover.a) == (Shape.WEIBULL, 2.5)
    assert city.times.handover.b == pytest.approx(34.3)
    assert city.times.transport == 0.75


def test_rates_and_modes_change_at_their_hours(tmp_path: Path) -> None:
    """Demand sets and travel sets begin at their times; between them the last one holds."""
    city = read_city(write(tmp_path))
    assert city.rates(0) == (10.0, 20.0, 30.0)
    assert city.rates(359) == (10.0, 20.0, 30.0)
    assert city.rates(360) == (1.0, 20.0, 30.0)
    assert [city.mode(719, priority) for priority in range(3)] == [0, 0, 1]
    assert [city.mode(720, priority) for priority in range(3)] == [1, 1, 1]


def test_a_demand_that_never_changes_leaves_the_rates_to_the_configuration(tmp_path: Path) -> None:
    """With one demand period the call configuration governs: 280 calls a day, a half of them urgent."""
    one = FILES["demand/demand_1.csv"].replace("0.25,2,\n", "")
    city = read_city(write(tmp_path, **{"demand/demand": one}))
    assert city.rates(0) == pytest.approx((140.0, 70.0, 70.0))


@pytest.mark.parametrize("part", OPTIONAL)
def test_a_file_that_is_optional_may_be_absent(tmp_path: Path, part: str) -> None:
    """The city still loads and calls can be served."""
    assert_runs(read_city(write(tmp_path, **{part: None})))


def test_the_required_files_are_enough(tmp_path: Path) -> None:
    """Without any optional file usual values stand in: ten calls a unit and day, targets of 8, 8 and 20 minutes."""
    city = read_city(write(tmp_path, **dict.fromkeys(OPTIONAL)))
    assert sum(city.rates(0)) == pytest.approx(20.0)
    assert [priority.target_min for priority in city.priorities] == [8.0, 8.0, 20.0]
    assert_runs(city)


def assert_runs(city: City) -> None:
    """Serves thirty calls."""
    outcomes = [event for event in simulate(city, 1, 30).run(send_closest) if isinstance(event, OutcomeKnown)]
    assert len(outcomes) == 30


def test_roads_in_a_zip_archive_and_files_without_folders_are_found(tmp_path: Path) -> None:
    """Neither the folders nor the numbers in the names matter, nor whether the roads are packed."""
    whole, flat = write(tmp_path / "whole"), tmp_path / "flat"
    flat.mkdir()
    for path in FILES:
        name = path.rsplit("/", 1)[1].replace("_1", "_manhattan")
        if "roads" not in path:
            shutil.copy(whole / path, flat / name)
    with zipfile.ZipFile(flat / "roads.zip", "w") as archive:
        archive.writestr("roads/nodes.csv", FILES["travel/roads/nodes.csv"])
        archive.writestr("roads/arcs.csv", FILES["travel/roads/arcs.csv"].replace("\n", "\r\n"))
    here, there = read_city(flat), read_city(whole)
    assert here.travel.to_call.tolist() == there.travel.to_call.tolist()
    assert here.demand == there.demand


def test_progress_counts_bytes_and_then_rows(tmp_path: Path) -> None:
    """Reading never goes back and ends at the sum of the files; routing follows."""
    seen: list[tuple[str, int, int]] = []
    read_city(write(tmp_path), progress=lambda *step: seen.append(step))
    phases = [phase for phase, _, _ in seen]
    assert phases == sorted(phases)
    assert set(phases) == {"reading", "routing"}
    reading = [done for phase, done, _ in seen if phase == "reading"]
    assert reading == sorted(reading)
    assert reading[-1] == [of for phase, _, of in seen if phase == "reading"][-1]


def test_crews_are_the_same_every_time_and_change_with_their_seed(tmp_path: Path) -> None:
    """JEMSS names no crews: they follow from the city's name and a seed."""
    folder = write(tmp_path)
    units = [read_city(folder, crew_seed=seed).units for seed in (0, 0, 1)]
    assert units[0] == units[1]
    assert units[0] != units[2]


def replaced(path: str, old: str, new: str) -> Callable[[Path], None]:
    """A change of one text in one file."""

    def change(folder: Path) -> None:
        text = (folder / path).read_text(encoding="utf-8")
        assert old in text
        (folder / path).write_text(text.replace(old, new), encoding="utf-8")

    return change


NODES, ARCS, XML = "travel/roads/nodes.csv", "travel/roads/arcs.csv", "calls/reps/train/gen_config.xml"
PRIORITIES, TRAVEL, DEMAND = (
    "misc/call priorities/priorities_1.csv",
    "travel/travel/travel_1.csv",
    "demand/demand_1.csv",
)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (replaced("stations/stations_1.csv", "170.03", "east"), r"stations_1.csv, line 4: x must be a number"),
        (replaced("stations/stations_1.csv", "2,170.03", "7,170.03"), r"stations_1.csv, line 4: index must be 2"),
        (replaced("stations/stations_1.csv", "index,x", "index,z"), r"stations_1.csv, line 3: .* no column 'x'"),
        (replaced("stations/stations_1.csv", "stations,,", "posts,,"), r"stations_1.csv: there is no table 'stations'"),
        (replaced("ambulances/ambulances_1.csv", "2,2,2", "2,9,2"), r"ambulances_1.csv, line 4: stationIndex must be"),
        (replaced("maps/map_1.csv", "169.9,170.1", "170.1,169.9"), r"map_1.csv, line 3: xMin must be under xMax"),
        (replaced("maps/map_1.csv", "100,111", "0,111"), r"map_1.csv, line 3: xScale"),
        (replaced("maps/map_1.csv", "map,1", "map,2"), r"map_1.csv, line 1: table 'map' has 1 rows, not 2"),
        (replaced(NODES, "3.0,170", "4.0,170"), r"nodes.csv, line 5: index must be 3"),
        (replaced(NODES, "-36.0,1.0", "nan,1.0"), r"nodes.csv, line 3: y must be a number"),
        (replaced(ARCS, "3.0,3.0,4.0", "3.0,3.0,99.0"), r"arcs.csv, line 9: toNode must be a number from 1 to 5"),
        (replaced(ARCS, "2.0,2.0,3.0,1.0,0.000694444,", "2.0,2.0,3.0,1.0,0,"), r"arcs.csv, line 8: mode_1"),
        (replaced(ARCS, "2.0,2.0,3.0,1.0,0.000694444,0.001388889,", "2.0,2.0"), r"arcs.csv, line 8: toNode"),
        (replaced(ARCS, "undirected", "sideways"), r"arcs.csv, line 3: arcForm must be directed or undirected"),
        (replaced(ARCS, "mode_2", "mode_9"), r"arcs.csv, line 7: table 'arcs' has no column 'mode_2'"),
        (replaced(PRIORITIES, "priorities,3", "priorities,4"), r"priorities_1.csv, line 1: .* 3 rows, not 4"),
        (replaced(PRIORITIES, "12/60/24", "12/0"), r"priorities_1.csv, line 4: targetResponseTime"),
        (replaced(TRAVEL, "1,lowPriority,2", "1,lowPriority,3"), r"travel_1.csv, line 10: travelModeIndex"),
        (replaced(TRAVEL, "0.5,2,", "0,2,"), r"travel_1.csv, line 18: startTime must rise"),
        (replaced(TRAVEL, "1,lowPriority,2\n", ""), r"travel_1.csv, line 16: .* no mode for lowPriority"),
        (replaced(DEMAND, "[4; 2; 3]", "[5; 2; 3]"), r"demand_1.csv, line 15: modeIndices must be from 1 to 4"),
        (replaced(DEMAND, "highPriority,10", "highPriority,-1"), r"demand_1.csv, line 7: arrivalRate"),
        (replaced(XML, "Exponential(12/60/24)", "Cauchy(1)"), r"gen_config.xml, line 9: onSceneDuration: distribution"),
        (replaced(XML, "Bernoulli(0.75)", "Bernoulli(7)"), r"gen_config.xml, line 10: transfer: a probability"),
        (replaced(XML, "</sim>", ""), r"gen_config.xml, line \d+: not well-formed XML"),
        (replaced(XML, "<genConfig>", "<!DOCTYPE a [<!ENTITY b 'c'>]><genConfig>"), r"no document type"),
    ],
)
def test_a_broken_file_is_refused_by_name_and_line(
    tmp_path: Path, break_it: Callable[[Path], None], message: str
) -> None:
    """Whoever made the folder can go straight to the place."""
    folder = write(tmp_path)
    break_it(folder)
    with pytest.raises(InvalidArgument, match=message):
        read_city(folder)


@pytest.mark.parametrize("kind", ["stations", "hospitals", "ambulances", "map", "nodes", "arcs"])
def test_a_required_file_that_is_absent_is_named(tmp_path: Path, kind: str) -> None:
    """The sentence says which pattern was looked for."""
    folder = write(tmp_path, **{f"/{kind}": None})
    with pytest.raises(InvalidArgument, match=rf"there is no file {kind}\*\.csv"):
        read_city(folder)


def test_a_folder_that_is_not_there_or_unreadable_archives_are_refused(tmp_path: Path) -> None:
    """No other exception comes out."""
    with pytest.raises(InvalidArgument, match="there is none"):
        read_city(tmp_path / "nowhere")
    folder = write(tmp_path)
    (folder / "roads.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InvalidArgument, match=r"roads.zip: the file is not a zip archive"):
        read_city(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_loads_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes put over any place of any file end in a city or in InvalidArgument, never in another error."""
    folder = write(tmp_path)
    path = folder / data.draw(st.sampled_from(sorted(FILES)))
    raw = path.read_bytes()
    place = data.draw(st.integers(0, len(raw)))
    patch = data.draw(st.binary(max_size=6) | st.sampled_from([b",", b"\n", b'"', b"-", b"9", b"", b"\xff", b"0"]))
    path.write_bytes(raw[:place] + patch + raw[place + data.draw(st.integers(0, 4)) :])
    try:
        city = read_city(folder)
    except InvalidArgument as error:
        assert error.field == "city"  # noqa: PT017 - the other outcome is a city
    else:
        assert len(city.units) >= 1


@pytest.mark.parametrize(("name", "units", "daily"), [("auckland", 16, 280.0), ("edmonton", 16, 192.0)])
def test_the_real_cities_load_and_serve_calls(name: str, units: int, daily: float) -> None:
    """Fleet, rates and targets are those of the files, and 'send closest' meets a fair share of the targets."""
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"the city is not there: ../shared/data/jemss_cities/{name}")
    city = read_city(folder)
    assert len(city.units) == units
    assert sum(city.rates(0)) == pytest.approx(daily)
    assert city.priorities[0].target_min == 8.0
    assert len(city.travel.call_nodes) > 30_000
    outcomes = [event for event in simulate(city, 1, 400).run(send_closest) if isinstance(event, OutcomeKnown)]
    assert 0.3 < sum(outcome.on_time for outcome in outcomes) / 400 < 0.95
