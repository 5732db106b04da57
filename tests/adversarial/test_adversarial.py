"""Every adversarial case, end to end: its outcome, the books, the quarantine, memory, files."""

import pytest

from tests.adversarial.cases import CASES, DOCUMENT, RENEW, document
from tests.adversarial.drive import drive

CAP_BYTES = 48 * 2**20
"""Growth of memory that no case may reach: 16 MiB of window, 8 MiB per member, 1 Mpx pictures.

The bombs hold 64 MiB or more.
"""


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_outcome(case, tmp_path):
    result = drive(case, tmp_path)
    counts = result.counts

    assert counts.trained == case.accepted
    assert counts.dropped == case.dropped
    assert counts.shards == {
        state: number
        for state, number in (("done", case.done), ("quarantined", case.quarantined))
        if number
    }
    assert len(result.shards) == len(case.faults)
    for line, fault in zip(result.shards, case.faults, strict=True):
        assert fault in line["fault"]

    # One fate for each sample, and a line for each that is not trained.
    assert result.broken == []
    assert counts.samples_known == counts.trained + sum(counts.dropped.values())
    assert result.trained.total() == counts.trained
    assert set(result.trained.values()) <= {1}
    assert result.refused == 0
    assert len(result.samples) == sum(case.dropped.values())
    for reason, number in case.dropped.items():
        assert sum(line["reason"] == reason for line in result.samples) == number

    # Nothing was executed, written or deleted elsewhere, or held in memory.
    assert result.touched == []
    quarantine = tmp_path / "run" / "quarantine"
    copies = {line["copy"] for line in result.samples if line["copy"]}
    found = {path.name for path in quarantine.rglob("*")} - {"samples.jsonl", "shards.jsonl"}
    assert found == copies
    assert result.peak_bytes < CAP_BYTES, f"{result.peak_bytes / 2**20:.0f} MiB"


def test_names_of_cases_differ():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_the_document_is_the_table():
    assert DOCUMENT.read_text() == document(), f"{DOCUMENT} is out of date; renew it with: {RENEW}"
