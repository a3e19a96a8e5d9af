"""The log of verdicts: bounded in size and number of files, never waited for, off when the disk fails."""

from __future__ import annotations

import errno
import io
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from prometheus_client import CollectorRegistry

from paceline.core.errors import InvalidRequest
from paceline.core.verdicts import Verdict, verdict_from_line, verdict_to_line
from paceline.telemetry.metrics import CoordinatorMetrics
from paceline.telemetry.verdicts import QUEUE, NoVerdicts, Room, VerdictLog, create_file, log_files

ONE = Verdict("s", 3, 3, (4, 5))
SIZE = len(verdict_to_line(ONE)) + 1


class Kept:
    """A log and what it counts."""

    def __init__(
        self, directory: Path, room: Room | None = None, create: Callable[[Path], BinaryIO] = create_file
    ) -> None:
        self._registry = CollectorRegistry()
        counter = CoordinatorMetrics(self._registry).verdicts
        self.log = VerdictLog(directory, room or Room(1_000_000, 4), counter, create=create)

    def count(self, result: str) -> float:
        return self._registry.get_sample_value("paceline_verdicts_total", {"result": result}) or 0.0


def records(directory: Path) -> list[list[Verdict]]:
    return [[verdict_from_line(line) for line in file.read_text("utf-8").splitlines()] for file in log_files(directory)]


def test_what_was_put_is_there_in_order_after_the_end(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "new" / "log")
    put = [Verdict("s", start, 3, (start,)) for start in range(3, 40)]
    assert all(kept.log.put(one) for one in put)
    kept.log.close()
    assert records(tmp_path / "new" / "log") == [put]
    assert (kept.count("written"), kept.count("dropped")) == (37.0, 0.0)


def test_files_are_bounded_in_size_and_number_and_the_oldest_go(tmp_path: Path) -> None:
    kept = Kept(tmp_path, Room(3 * SIZE, 2))
    for _ in range(3 * 4 + 1):
        kept.log.put(ONE)
    kept.log.close()
    assert [file.name for file in log_files(tmp_path)] == ["verdicts-00000004.jsonl", "verdicts-00000005.jsonl"]
    assert [len(one) for one in records(tmp_path)] == [3, 1]
    assert kept.log.generation == 4


def test_a_record_larger_than_a_file_has_one_of_its_own(tmp_path: Path) -> None:
    kept = Kept(tmp_path, Room(1, 9))
    kept.log.put(ONE)
    kept.log.put(ONE)
    kept.log.close()
    assert records(tmp_path) == [[ONE], [ONE]]


def test_after_a_start_a_new_file_begins_and_two_writers_do_not_meet(tmp_path: Path) -> None:
    first, second = Kept(tmp_path), Kept(tmp_path)
    for kept in (first, second):
        kept.log.put(ONE)
        kept.log.close()
    assert records(tmp_path) == [[ONE], [ONE]]

    def taken(path: Path) -> BinaryIO:
        if path.name == "verdicts-00000003.jsonl":
            raise FileExistsError(path)
        return create_file(path)

    late = Kept(tmp_path, create=taken)
    late.log.put(ONE)
    late.log.close()
    assert log_files(tmp_path)[-1].name == "verdicts-00000004.jsonl"


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "log")
    kept.log.put(ONE)
    kept.log.close()
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    assert log_files(tmp_path / "log")[0].stat().st_mode & 0o077 == 0


def test_other_files_in_the_directory_are_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / "verdicts-old.jsonl").write_text("mine", "utf-8")
    kept = Kept(tmp_path, Room(SIZE, 1))
    kept.log.put(ONE)
    kept.log.put(ONE)
    kept.log.close()
    assert (tmp_path / "verdicts-old.jsonl").exists()
    assert len(log_files(tmp_path)) == 1


def test_nobody_waits_for_a_slow_disk_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    entered, may_go = threading.Event(), threading.Event()

    def slow(path: Path) -> BinaryIO:
        entered.set()
        may_go.wait(60.0)
        return create_file(path)

    kept = Kept(tmp_path, create=slow)
    kept.log.put(ONE)
    assert entered.wait(60.0)
    assert [kept.log.put(ONE) for _ in range(QUEUE + 3)] == [True] * QUEUE + [False] * 3
    assert kept.count("dropped") == 3.0
    may_go.set()
    kept.log.close()
    kept.log._thread.join(60.0)
    assert kept.count("written") == 1.0 + QUEUE


class FullDisk(io.BytesIO):
    """Takes nothing."""

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_switches_it_off_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept = Kept(tmp_path, create=lambda path: FullDisk())
    kept.log.put(ONE)
    kept.log._thread.join(60.0)
    assert not kept.log.is_on
    assert [kept.log.put(ONE) for _ in range(5)] == [False] * 5
    kept.log.close()
    (line,) = caplog.records
    assert (line.getMessage(), line.levelname) == ("verdict log switched off", "ERROR")
    assert line.__dict__["reason"] == "No space left on device"
    assert kept.count("dropped") == 5.0
    assert kept.count("written") == 0.0


def test_a_place_that_is_no_directory_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(InvalidRequest, match="verdict_log: can't make"):
        Kept(tmp_path / "file")


def test_without_a_log_nothing_is_kept() -> None:
    assert not NoVerdicts().is_on
    assert not NoVerdicts().put(ONE)
