"""The page as text: whole, escaped, bounded, and loading nothing. What it does in a browser: test_browser.py."""

import base64
import json
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.reports.conftest import NASTY, write_config, write_state, write_table
from trl_negalign.reports import page as page_module
from trl_negalign.reports.page import visible, write_report
from trl_negalign.reports.run_folder import read_run


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.source, self.elements, self.texts, self.scripts, self.open = path.read_text(), [], [], [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] in ("script", "style") else self.texts).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def groups(self) -> list[dict]:
        return next(json.loads(script)["groups"] for script in self.scripts if script.startswith('{"'))


def report(tmp_path, *folders, steps=20, **options) -> Page:
    paths = write_report([read_run(folder, steps=steps) for folder in folders], tmp_path / "report.html", **options)
    assert paths[0] == tmp_path / "report.html" and all(path.is_file() for path in paths)
    return Page(paths[0])


@pytest.fixture
def nasty_run(tmp_path):
    """Every text of the run tries to leave its place."""
    folder = tmp_path / "run <b>& $x_$"
    kinds = ["<i>plain</i>", '"positive"', "'negative'", "日本"]
    for step in (1, 2):
        prompt = [f"<u>query</u> {step} \x00"] * 4
        write_table(folder, step, kinds, [0.1, 0.2, None, 0.4], completion=NASTY, prompt=prompt)
    write_state(folder, [{"step": 2, f"reward/{kinds[0]}": 0.5, "rewards/score/mean": 0.1}])
    write_config(folder, positive_prompt=NASTY[0], surrogate="\ud800 \x00")
    warning = {"step": "<s>", "name": "<b>name", "message": NASTY[0], "advice": NASTY[2]}
    (folder / "warnings.jsonl").write_text(json.dumps(warning))
    return folder


def test_parts_of_a_page(neat_run, tmp_path):
    page = report(tmp_path, neat_run)
    for text in (
        "out",
        "NEAT",
        "step 4 of 4, finished",
        "There is no run_config.json",
        "no warnings (warnings.jsonl)",
    ):
        assert text in page.text
    assert "8 groups are on this page, from 4 of 4 logged steps: 48 of 48 logged responses" in page.text
    assert len(page.groups) == 8 and page.groups[0]["responses"][0]["kind"] == "plain"
    assert "The settings are not known" in page.text
    pictures = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    files = sorted((tmp_path / "report-figures").glob("*.png"))
    embedded = sorted(base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in pictures)
    assert embedded == sorted(path.read_bytes() for path in files) and len(files) == 10


def test_what_a_run_does_not_log_is_named_and_an_older_picture_of_it_removed(neat_run, ple_run, tmp_path):
    report(tmp_path, neat_run)
    assert (tmp_path / "report-figures" / "kl.png").exists()
    page = report(tmp_path, ple_run)
    assert "Not logged by this run: KL to the reference; Entropy of the policy; Diagnostics of" in page.text
    assert not (tmp_path / "report-figures" / "kl.png").exists()


def test_numbers_stand_below_the_pictures(tmp_path):
    write_state(tmp_path / "run", [{"step": 1, "kl": 0.25}, {"step": 2, "kl": 0.123456}])
    assert "run KL 0.25 0.1235 0.1235 0.25" in report(tmp_path, tmp_path / "run").text


def test_nothing_is_loaded_from_anywhere(nasty_run, neat_run, tmp_path):
    page = report(tmp_path, nasty_run, neat_run)
    loading = ("src", "href", "action", "srcset", "poster", "data")
    links = [value for _, attributes in page.elements for name, value in attributes.items() if name in loading]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    (policy,) = [attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = next(script for script in page.scripts if script.startswith('"use strict"'))
    assert policy.endswith(f"script-src 'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'")
    assert "@import" not in page.source and "url(" not in page.source


def test_texts_stay_texts(nasty_run, tmp_path):
    page = report(tmp_path, nasty_run)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2 and not {"b", "i", "u", "s"} & set(tags)
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert tags.count("img") == 2  # the pictures
    responses = page.groups[0]["responses"]
    assert [response["text"]["shown"] for response in responses] == [visible(text) for text in NASTY]
    assert responses[0]["text"]["shown"] == NASTY[0] and responses[2]["text"]["shown"] == NASTY[2]
    assert [response["rewards"]["score"] for response in responses] == [0.1, 0.2, None, 0.4]
    assert NASTY[0] in page.text and "run <b>& $x_$" in page.text and "<b>name" in page.text
    assert "\x00" not in page.source and "? \\x00" in page.text


def test_hidden_characters_are_shown_by_their_code():
    assert visible(NASTY[1]) == "nul \\x00 escape \\x1b[31m c1 \\x85 direction \\u202egnihton"
    assert visible("a\tb\nc é 🙂") == "a\tb\nc é 🙂"


def test_long_texts_are_cut_and_what_is_left_out_is_counted(tmp_path):
    write_table(tmp_path / "run", 1, ["plain", "principle"], [0.0, 1.0], completion=["x" * 50, "y" * 20])
    first, second = report(tmp_path, tmp_path / "run", characters=20).groups[0]["responses"]
    assert first["text"] == {"shown": "x" * 20, "left": 30} and second["text"] == {"shown": "y" * 20, "left": 0}


def test_all_texts_together_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_SAMPLE_CHARACTERS", 3000)
    for step in range(1, 6):
        write_table(tmp_path / "run", step, ["plain", "principle"], [0.0, 1.0], completion=[f"{step}" * 900] * 2)
    groups = report(tmp_path, tmp_path / "run").groups
    shown = [text["shown"] for group in groups for text in (group["query"], *(r["text"] for r in group["responses"]))]
    assert len(groups) == 5 and 2000 < sum(map(len, shown)) <= 3000


def test_two_runs_share_a_page(neat_run, ple_run, copy_of, tmp_path):
    one, other = copy_of(neat_run, "one"), copy_of(ple_run, "other")
    write_config(one, seed=1, beta=0.0)
    write_config(other, seed=2, beta=0.0)
    page = report(tmp_path, one, other)
    assert [(group["step"], group["run"]) for group in page.groups][:6] == [(1, 0)] * 2 + [(1, 1)] * 2 + [(2, 0)] * 2
    assert "1 of 3 settings differ; they come first. " in page.text
    rows = page.text[page.text.index("setting one other") :]
    assert rows.startswith("setting one other args.seed 1 2 method NEAT NEAT args.beta 0.0 0.0")
    assert "Not logged by any of these runs: Entropy of the policy; Diagnostics" in page.text  # the KL is, by one


def test_a_run_without_samples(ple_run, tmp_path):
    write_state(tmp_path / "run", [{"step": 1, "loss": 0.25}])
    page = report(tmp_path, tmp_path / "run")
    assert page.groups == [] and "0 groups are on this page" in page.text


def test_the_page_is_replaced_whole(neat_run, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("an earlier report")
    monkeypatch.setattr(page_module.os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report(tmp_path, neat_run)
    assert (tmp_path / "report.html").read_text() == "an earlier report"
