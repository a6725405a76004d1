"""The check of recorded benchmark results fails if a bar is missed."""

import json
from pathlib import Path
from typing import Any

import check
import pytest
import records
import report
from alternate import alternate, ratio
from check import Bar


def recorded(date: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": f"bench-{date}", "date": date, "groups": groups}


def group(name: str = "fisher net", threads: int = 1, **seconds: list[float]) -> dict[str, Any]:
    return {"group": name, "threads": threads, "seconds": seconds, "verdicts": {}, "figures": {"memory": 1.01}}


def verdicts(bar: Bar, *kept: dict[str, Any]) -> list[str]:
    return [finding.verdict for finding in check.check([bar], list(kept))]


AT_MOST = Bar("fisher *", "ours / plain", at_most=1.0, threads=(1,))


def test_ratios_are_of_the_same_round() -> None:
    """The machine is three times slower in the second round, and the ratio stays the same."""
    found = ratio({"ours": [2.0, 6.0, 2.0], "plain": [1.0, 3.0, 1.0]}, "ours", "plain")
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 2.0, 2.0, 3)
    last = ratio({"slow": [9.0], "plain": [1.0, 3.0]}, "slow", "plain")
    assert (last.median, last.rounds) == (3.0, 1)
    with pytest.raises(ValueError, match="must have rounds in common"):
        ratio({"a": [], "b": [1.0]}, "a", "b")


def test_candidates_take_turns() -> None:
    order: list[str] = []
    ticks = iter(range(100))
    candidates = {name: lambda name=name: order.append(name) for name in ("plain", "ours", "slow")}
    seconds = alternate(candidates, 3, clock=lambda: float(next(ticks)), few={"slow": 1})
    all_three, two = ["plain", "ours", "slow"], ["plain", "ours"]
    assert order == [*all_three, *two, *two, *all_three]  # a warm-up, then three rounds
    assert {name: len(values) for name, values in seconds.items()} == {"plain": 3, "ours": 3, "slow": 1}
    assert seconds["ours"] == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="`rounds` must be positive, got 0"):
        alternate(candidates, 0, clock=lambda: 0.0)


def test_a_bar_is_kept_or_missed() -> None:
    assert verdicts(AT_MOST, recorded("1", [group(ours=[0.9], plain=[1.0])])) == ["ok"]
    assert verdicts(AT_MOST, recorded("1", [group(ours=[1.1], plain=[1.0])])) == ["missed"]
    faster = Bar("fisher *", "plain / ours", at_least=2.0, threads=(1,))
    assert verdicts(faster, recorded("1", [group(ours=[1.0], plain=[2.0])])) == ["ok"]
    assert verdicts(faster, recorded("1", [group(ours=[1.0], plain=[1.9])])) == ["missed"]
    assert verdicts(Bar("*", "memory", at_most=1.0, threads=(1,)), recorded("1", [group()])) == ["missed"]
    assert verdicts(AT_MOST, recorded("1", [group(ours=[float("nan")], plain=[1.0])])) == ["missed"]


def test_every_group_that_fits_is_checked() -> None:
    groups = [group("fisher a", ours=[0.9], plain=[1.0]), group("fisher b", ours=[1.1], plain=[1.0])]
    assert verdicts(AT_MOST, recorded("1", [*groups, group("select", ours=[9.0], plain=[1.0])])) == ["ok", "missed"]


def test_what_was_not_measured_is_said() -> None:
    assert verdicts(AT_MOST) == ["not measured"]
    other_threads = group(threads=2, ours=[0.9], plain=[1.0])
    without_ours = group(plain=[1.0])
    assert verdicts(AT_MOST, recorded("1", [other_threads, without_ours])) == ["not measured"]


def test_the_newest_results_count() -> None:
    old, new = recorded("1", [group(ours=[0.9], plain=[1.0])]), recorded("2", [group(ours=[1.1], plain=[1.0])])
    assert verdicts(AT_MOST, old, new) == ["missed"]
    assert verdicts(AT_MOST, new, old) == ["ok"]
    assert verdicts(AT_MOST, new, recorded("3", [group("select", ours=[1.0])])) == ["missed"]


def test_a_bar_with_a_condition() -> None:
    bar = Bar("*", "ours, 1 / ours, 2", at_least=1.7, threads=(1,), where="plain, 1 / plain, 2")
    slow = {"ours, 1": [1.0], "ours, 2": [1.0], "plain, 1": [1.0]}
    assert verdicts(bar, recorded("1", [group(**slow, **{"plain, 2": [0.5]})])) == ["missed"]
    assert verdicts(bar, recorded("1", [group(**slow, **{"plain, 2": [0.9]})])) == ["does not apply"]
    assert verdicts(bar, recorded("1", [group(**slow)])) == ["missed"]


def test_committed_bars_are_readable_and_have_one_bound() -> None:
    bars = check.load_bars()
    assert all(bar.bound for bar in bars)
    with pytest.raises(ValueError, match="must have one of `at_most` and `at_least`"):
        Bar("*", "memory")


@pytest.mark.parametrize(("ours", "code"), [(0.9, 0), (1.1, 1)])
def test_the_command_fails_for_a_missed_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ours: float, code: int
) -> None:
    bars = tmp_path / "bars.toml"
    bars.write_text('[[bar]]\ngroup = "fisher *"\nfigure = "ours / plain"\nat_most = 1.0\nthreads = [1]\n')
    result = recorded("1", [group(ours=[ours], plain=[1.0])])
    (tmp_path / "bench-1.json").write_text(json.dumps(result))
    monkeypatch.setattr("sys.argv", ["check", "--results", str(tmp_path), "--bars", str(bars)])
    with pytest.raises(SystemExit) as left:
        check.main()
    assert left.value.code == code
    assert f"{code} missed" in capsys.readouterr().out


def test_nothing_measured_fails_unless_asked_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, code in ([], 1), (["--measured"], 0):
        monkeypatch.setattr("sys.argv", ["check", "--results", str(tmp_path), *more])
        with pytest.raises(SystemExit) as left:
            check.main()
        assert left.value.code == code


def test_what_is_kept_reads_back(tmp_path: Path) -> None:
    """A document of pytest-benchmark becomes a file of results, and this becomes a table."""
    extra = {
        "group": "fisher net",
        "threads": 1,
        "clock": "process CPU time",
        "baseline": "plain",
        "seconds": {"plain": [0.1], "ours": [0.2]},
        "verdicts": {"ours": "ok", "theirs": "wrong: 3 of 62 tensors"},
        "figures": {"memory": 1.01},
    }
    alone = {"name": "test_x", "group": "x", "extra_info": {"threads": 2}, "stats": {"median": 0.5}}
    machine = {"cpu": "a processor", "simd": "avx2", "torch": "2.13", "omp_wait_policy": "PASSIVE"}
    document = {
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2026-11-21T12:00:00",
        "machine_info": {"fastforget": machine},
        "benchmarks": [{"extra_info": extra}, alone],
    }
    (tmp_path / "bench-x.json").write_text(report.lines(report.recorded(document, "make bench")))
    (result,) = records.load(tmp_path)
    assert result["commit"] == "0123456789ab-dirty"
    assert records.figure(result["groups"][0], "ours / plain") == 2.0
    assert records.figure(result["groups"][0], "memory") == 1.01
    assert records.figure(result["groups"][0], "theirs / plain") is None
    text = "\n".join(report.table(result))
    for words in ("a processor (avx2)", "theirs", "wrong: 3 of 62 tensors", "2.00", "500.0 ms"):
        assert words in text
