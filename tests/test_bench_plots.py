"""The benchmark's plots: of made-up figures, read as the XML that they are."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from scripts.benchmark.plots import drawn
from scripts.benchmark.svg import decades, steps

SVG = "{http://www.w3.org/2000/svg}"
PEERS = {
    "direct": {},
    "tunnel": {"ssh": 30.0, "sshd": 31.0},
    "relay": {"front-end": 14.0, "sshd": 6.0, "runner": 22.0},
    "<litellm>": {"litellm": 840.0, "ssh": 40.0, "sshd": 37.0},
}


def measurement(peer: str, factor: float) -> dict[str, Any]:
    deltas = 20_000
    cpu = {group: factor * us * deltas / 1e6 for group, us in PEERS[peer].items()}
    late = {"p50": 0.5 * factor, "p99": 2.0 * factor, "p99.9": 3.5 * factor, "max": 9.0}
    return {
        "peer": peer,
        "result": {"deltas": deltas, "steady_late_ms": late, "unknown": 1},
        "cpu_s": {**cpu, "simulator": 1.0, "load": 1.0},
    }


def busy() -> dict[str, Any]:
    return {
        "command": "scripts/bench busy --json busy.json",
        "load": {"calls": 100, "deltas": 200, "gap_ms": 10},
        "measurements": [measurement(peer, by) for by in (0.9, 1.0, 1.2) for peer in PEERS],
    }


def endurance() -> dict[str, Any]:
    def held(kib: int) -> dict[str, Any]:
        return {"memory_kib": kib, "pss_kib": kib + 9, "descriptors": 9, "threads": 1}

    groups = {"front-end": 32_000, "runner": 50_000, "sshd": 2_000}
    return {
        "command": "scripts/bench endurance",
        "samples": [
            {"calls": calls, "held": {name: held(kib) for name, kib in groups.items()}}
            for calls in range(5_000, 100_001, 5_000)
        ],
    }


def read(plot: str) -> tuple[ElementTree.Element, list[str]]:
    """The picture, and every text in it."""
    root = ElementTree.fromstring(plot)
    return root, [each.text or "" for each in root.iter(f"{SVG}text")]


def test_each_command_s_figures_become_a_plot_of_their_own() -> None:
    assert list(drawn([busy(), endurance()])) == ["cpu.svg", "latency.svg", "endurance.svg"]


def test_a_plot_of_cpu_names_each_peer_and_process_its_median_and_its_range() -> None:
    _, texts = read(drawn([busy()])["cpu.svg"])
    assert "busy: 100 calls at once, 200 deltas each, 10 ms apart" in texts
    assert {"tunnel", "relay", "<litellm>", "front-end", "runner", "sshd", "ssh"} <= {*texts}
    assert {"61.0 (54.9 to 73.2)", "42.0 (37.8 to 50.4)", "917 (825 to 1,100)"} <= {*texts}
    # It has no process of its own, and what measures is no peer's cost.
    assert not {"direct", "simulator", "load"} & {*texts}


def test_bars_are_as_long_as_their_figures_and_a_peer_far_out_is_cut_off_at_the_edge() -> None:
    root, _ = read(drawn([busy()])["cpu.svg"])
    bars: dict[str, float] = {}
    for rect in root.iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and "," in (title.text or ""):
            peer = str(title.text).partition(",")[0]
            bars[peer] = bars.get(peer, 0) + float(rect.attrib["width"])
    assert bars["relay"] / bars["tunnel"] == pytest.approx(42 / 61, abs=0.01)
    assert bars["tunnel"] < bars["<litellm>"] < 2 * bars["tunnel"]
    assert [each.attrib["class"] for each in root.iter(f"{SVG}path")] == ["cut"]


def test_our_own_bar_is_never_cut_off() -> None:
    figures = busy()
    for each in figures["measurements"]:
        if each["peer"] == "relay":
            each["cpu_s"]["runner"] *= 40
    root, texts = read(drawn([figures])["cpu.svg"])
    assert not list(root.iter(f"{SVG}path"))
    assert "900 (810 to 1,080)" in texts


def test_a_plot_of_latency_names_each_peer_and_its_percentiles() -> None:
    _, texts = read(drawn([busy()])["latency.svg"])
    assert {*PEERS, "p50", "p99", "p99.9"} <= {*texts}
    assert texts.count("0.50 / 2.00 / 3.50") == len(PEERS)


def test_a_peer_with_errors_bears_a_mark() -> None:
    figures = busy()
    figures["measurements"][1]["result"]["errors"] = {"unfinished": 3}
    _, texts = read(drawn([figures])["cpu.svg"])
    assert "tunnel \N{DAGGER}" in texts
    assert "relay" in texts


def test_loads_of_one_scenario_and_variants_with_a_slow_reader_have_panels_of_their_own() -> None:
    measurements = [
        measurement("relay", 1) | {"load": {"calls": 30, "deltas": 50, "gap_ms": gap, "in_turn": 1}}
        for gap in (0, 10)
    ]
    heavy = measurement("relay", 1) | {"load": {"calls": 101, "deltas": 9, "gap_ms": 9, "heavy": 1}}
    one = {"scenario": "one", "measurements": measurements}
    slow = {"scenario": "slow", "peers": {"relay": {"unread 5 s": [heavy]}}}
    plots = drawn([one, slow])
    _, texts = read(plots["latency.svg"])
    assert "one: 30 calls one after the other, 50 deltas each, 10 ms apart" in texts
    assert "one: 30 calls one after the other, 50 deltas each, without a gap" in texts
    assert "slow, unread 5 s: 101 calls at once, 9 deltas each, 9 ms apart" in texts
    # What long deltas cost is no cost of a delta.
    assert "unread" not in plots["cpu.svg"]


def test_a_plot_of_memory_shows_what_a_call_takes_that_is_open() -> None:
    opened = {"peer": "relay", "calls": 2_000, "open": 1_000, "errors": {}}
    before = {"before_kib": {"front-end": 30_000, "runner": 50_000, "sshd": None}}
    now = {"open_kib": {"front-end": 40_000, "runner": 55_000, "sshd": None}}
    _, texts = read(
        drawn([{"scenario": "open", "measurements": [opened | before | now]}])["memory.svg"]
    )
    assert "open: 2,000 calls, and upstream silent" in texts
    assert "15.0" in texts
    assert "sshd" not in texts


def test_a_plot_of_endurance_names_each_process_and_what_it_holds_in_the_end() -> None:
    _, texts = read(drawn([endurance()])["endurance.svg"])
    assert {"front-end 31.2", "runner 48.8", "sshd 1.95", "100,000"} <= {*texts}


@pytest.mark.parametrize("name", ["cpu.svg", "latency.svg", "endurance.svg"])
def test_nothing_is_drawn_outside_of_a_picture(name: str) -> None:
    root, _ = read(drawn([busy(), endurance()])[name])
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for each in root.iter():
        for x in ("x", "x1", "x2", "cx"):
            assert 0 <= float(each.attrib.get(x, 0)) <= width
        for y in ("y", "y1", "y2", "cy"):
            assert 0 <= float(each.attrib.get(y, 0)) <= height


def test_the_same_figures_are_the_same_picture_and_it_can_be_read_in_the_dark() -> None:
    first, again = drawn([busy(), endurance()]), drawn([busy(), endurance()])
    assert first == again
    assert all("prefers-color-scheme: dark" in plot for plot in first.values())
    assert not any("<script" in plot for plot in first.values())


def test_what_has_nothing_to_plot_is_passed_over() -> None:
    assert drawn([json.loads('{"command": "scripts/bench start", "starts": []}')]) == {}
    assert drawn([{"measurements": [{"peer": "relay", "result": {"deltas": 0}}]}]) == {}


def test_steps_are_round_and_reach_the_highest_value() -> None:
    assert steps(73) == [0, 20, 40, 60, 80]
    assert steps(100) == [0, 20, 40, 60, 80, 100]
    assert steps(0) == [0, 1]


def test_decades_enclose_what_is_to_be_shown() -> None:
    assert decades(0.3, 4) == pytest.approx([0.2, 0.5, 1, 2, 5])
    # One value alone needs an axis with two ends, too.
    assert decades(1, 1)[0] < decades(1, 1)[-1]
