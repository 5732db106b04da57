"""The report: every section is there, whole or with a reason, and nothing in it is believed."""

import re
from html.parser import HTMLParser

import pytest
from report_example import (
    add_checkpoints,
    add_quarantine,
    add_shards,
    add_status,
    make_empty_run,
    make_run,
)

from online_swav.errors import ConfigError
from online_swav.report.build import build_report, write_report

SECTIONS = ["verdict", "story", "curves", "books", "prototypes", "map", "crops", "quarantine",
            "used"]  # fmt: skip
IMAGES = 30


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.ids, self.addresses, self.tags = [], [], [], set()
        self._texts = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if tag == "section":
            self.sections.append(values["id"])
            self._texts[values["id"]] = []

    def handle_data(self, data):
        if self.sections:
            self._texts[self.sections[-1]].append(data)

    def text(self, section):
        return " ".join(" ".join(self._texts[section]).split())


def report(run, **over):
    options = {"shards": (), "images": IMAGES, "with_images": True, "say": lambda _: None}
    text = build_report(run, **(options | over))
    return text, Page(text)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("full") / "run<b>")
    return report(run)


def test_every_section_is_there_and_has_something_to_show(full):
    text, page = full
    assert page.sections == SECTIONS
    assert "Degraded" in page.text("verdict")
    assert "Rolled back, with a lower rate" in page.text("story")
    for title in ("Loss / log K", "k-NN accuracy", "Ranks", "Waiting for images", "Lag"):
        assert title in page.text("curves")
    assert "every invariant of the book holds" in page.text("books")
    assert "36" in page.text("books")
    assert "win at least one of 30 sample images" in page.text("prototypes")
    assert "Dying" in page.text("prototypes")
    assert "of the variance" in page.text("map")
    assert "views with codes" in page.text("crops")
    assert "2 ambiguous" in page.text("quarantine")
    assert "shufflenet_v2_x0_5" in page.text("used")
    assert len(text) < 3_000_000


def test_it_needs_nothing_but_itself(full):
    text, page = full
    assert "script" not in page.tags
    for address in page.addresses:
        assert address.startswith(("data:", "#")), address
    assert "More: docs/health.md#stuck_at_log_k" in page.text("verdict")
    assert "What it means Loss / log K" in page.text("verdict")
    assert "@import" not in text
    assert re.findall(r"url\((?!#)[^)]*\)", text) == []
    assert len(page.ids) == len(set(page.ids))


def test_hostile_names_are_only_text(full):
    text, page = full
    assert "<script" not in text
    assert "run<b>" in page.text("verdict")
    for section in ("verdict", "story", "quarantine"):
        assert "<script>alert(1)</script>" in page.text(section), section


def test_only_the_quarantines_own_files_are_shown(full):
    _, page = full
    pictures = page.text("quarantine").count("?")  # in place of a picture
    assert pictures == 4, "one of five decodes"


def test_a_run_that_has_only_begun_says_what_will_be_there(tmp_path):
    _, page = report(make_empty_run(tmp_path / "run"))
    assert page.sections == SECTIONS
    assert "Young" in page.text("verdict")
    assert "Nothing has happened yet" in page.text("story")
    assert "no history.jsonl" in page.text("curves")
    assert "ledger.sqlite is missing" in page.text("books")
    assert "--shards GLOB takes images from others" in page.text("map")
    assert "Nothing is in quarantine" in page.text("quarantine")


def test_a_run_without_a_checkpoint_shows_its_crops_all_the_same(tmp_path):
    run = make_empty_run(tmp_path / "run")
    add_shards(run)
    _, page = report(run)
    assert "The run has no checkpoint yet. The first comes after 500 steps" in page.text("map")
    assert "views with codes" in page.text("crops")


def test_a_run_in_process_tells_what_its_checkpoints_prove(tmp_path):
    run = make_empty_run(tmp_path / "run")
    add_shards(run)
    add_checkpoints(run, steps=(500,))
    _, page = report(run)
    assert "Healthy" in page.text("verdict")
    assert "1 checkpoint" in page.text("story")
    assert "no events.jsonl" in page.text("story")
    assert "48.0%" in page.text("curves")
    assert "It takes two checkpoints to see a change" in page.text("prototypes")


def test_a_run_that_ended_without_a_word_is_not_called_healthy(tmp_path):
    run = make_empty_run(tmp_path / "run")
    add_status(run, state="training", learner_up=True)
    _, page = report(run, now=(run / "status.json").stat().st_mtime + 600)
    assert "Gone The run has not written its status for 10 min" in page.text("verdict")
    _, live = report(run, now=(run / "status.json").stat().st_mtime + 5)
    assert "The run is live" in live.text("verdict")


def test_a_failed_run_says_why(tmp_path):
    run = make_empty_run(tmp_path / "run")
    add_status(run, state="failed", message="the learners crashed")
    assert "Failed the learners crashed" in report(run)[1].text("verdict")


def test_without_images_no_picture_of_the_data_is_in_it(tmp_path):
    run = make_empty_run(tmp_path / "run")
    add_shards(run)
    add_quarantine(run)
    text, page = report(run, with_images=False)
    assert "data:image" not in text
    assert page.sections == SECTIONS
    assert "Left out by --no-images" in page.text("crops")


def test_a_damaged_folder_is_reported_as_far_as_it_can_be_read(tmp_path):
    run = make_empty_run(tmp_path / "run")
    for name in ("status.json", "remedies.json", "events.jsonl", "history.jsonl"):
        (run / name).write_text('{"at": "yesterday", "event": 3}\nnot json\n')
    (run / "ledger.sqlite").write_text("no book")
    (run / "quarantine").mkdir()
    (run / "quarantine" / "samples.jsonl").write_text("torn\n")
    _, page = report(run)
    assert page.sections == SECTIONS
    assert "cannot be read" in page.text("books")
    assert "lists cannot be read" in page.text("quarantine")


def write(run, out, **over):
    options = {"shards": (), "images": IMAGES, "with_images": False, "say": lambda _: None}
    return write_report(run, out, **(options | over))


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    run = make_empty_run(tmp_path / "run")
    out = tmp_path / "report.html"
    assert write(run, out) == out.stat().st_size
    before = out.read_bytes()
    monkeypatch.setattr("online_swav.report.build.recipe", lambda _facts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(run, out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


def test_mistakes_are_said_in_words(tmp_path):
    run = make_empty_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--out .*it is a folder; name a file"):
        write(run, tmp_path)
    with pytest.raises(ConfigError, match=r"--out .*No such file or directory"):
        write(run, tmp_path / "gone" / "report.html")
    with pytest.raises(ConfigError, match=r"--shards .*/\*\.tar: no shard matches"):
        write(run, tmp_path / "r.html", shards=(f"{tmp_path}/*.tar",), with_images=True)
    with pytest.raises(ConfigError, match=r"--shards /gone/x\.tar: the folder /gone does not"):
        write(run, tmp_path / "r.html", shards=("/gone/x.tar",), with_images=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
