"""The page in a headless Chromium: it renders, its samples page and filter, and nothing is said on the console."""

import shutil

import pytest

from tests.reports.conftest import NASTY, write_config, write_table
from trl_negalign.reports.page import visible, write_report
from trl_negalign.reports.run_folder import read_run


KINDS = ["positive", "negative"]
PICTURES = 10  # of a run with two rewards and a reference


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        try:
            chromium = started.chromium.launch(executable_path=installed)
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Open the page of run folders; at the end, nothing was loaded beside it, and the console is empty."""
    said, loaded = [], []
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    page.on("request", lambda request: loaded.append(request.url))

    def open_page(*folders):
        path, *_ = write_report([read_run(folder) for folder in folders], tmp_path / "report.html")
        page.goto(path.as_uri())
        return page

    yield open_page
    assert said == []
    assert [url for url in loaded if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    page.close()


@pytest.fixture
def many(tmp_path):
    """12 steps of one group: the best is positive in even steps, negative in odd ones, and none in the last."""
    for step in range(1, 13):
        rewards = [0.5, 0.5] if step == 12 else [float(step % 2 == 0), float(step % 2)]
        write_table(tmp_path / "many", step, KINDS, rewards, prompt=[f"Question {step}"] * 2)
    write_config(tmp_path / "many", seed=1, beta=0.5)
    return tmp_path / "many"


def steps(page) -> list[int]:
    """Steps of the groups that are shown."""
    return [int(title.split("step ")[1].split(":")[0]) for title in page.locator("#groups h3").all_inner_texts()]


def place(page) -> str:
    return page.locator("#place").inner_text()


def test_a_real_run_renders(neat_run, open_page):
    page = open_page(neat_run)
    assert page.locator("figure img").count() == PICTURES
    sizes = page.locator("figure img").evaluate_all("images => images.map(i => [i.complete, i.naturalWidth])")
    assert all(complete and width > 500 for complete, width in sizes)
    assert place(page) == "groups 1–5 of 8" and steps(page) == [1, 1, 2, 2, 3]
    first = page.locator("#groups article").first
    assert first.locator("tbody tr").count() == 6
    assert first.locator(".best .mark").inner_text() == "best"
    assert first.locator(".worst .mark").inner_text() == "worst"
    group = read_run(neat_run).sample.groups[0]
    shown = first.locator("tbody pre").all_text_contents()
    assert shown == [visible(response.text) for response in group.responses]
    letter = group.responses[0].rewards["letter_reward"]
    assert f"letter_reward {letter:.3f}" in first.locator("tbody tr").first.inner_text()


def test_pages_turn(many, open_page):
    page = open_page(many)
    assert steps(page) == [1, 2, 3, 4, 5]
    assert page.get_by_role("button", name="previous").is_disabled()
    page.get_by_role("button", name="next").click()
    assert steps(page) == [6, 7, 8, 9, 10] and place(page) == "groups 6–10 of 12"
    page.get_by_role("button", name="last").click()
    assert steps(page) == [11, 12] and page.get_by_role("button", name="next").is_disabled()
    page.get_by_role("button", name="previous").click()
    page.get_by_role("button", name="first").click()
    assert steps(page) == [1, 2, 3, 4, 5]
    page.get_by_label("groups a page").select_option("25")
    assert steps(page) == list(range(1, 13))


def test_filters_and_their_end(many, open_page):
    page = open_page(many)
    page.get_by_role("button", name="last").click()
    page.get_by_label("best is").select_option("positive")
    assert steps(page) == [2, 4, 6, 8, 10] and place(page) == "groups 1–5 of 5 that match (of 12)"
    page.get_by_label("worst is").select_option("positive")
    assert steps(page) == [] and place(page) == "no group matches (of 12)"
    page.get_by_role("button", name="clear").click()
    assert place(page) == "groups 1–5 of 12"
    page.get_by_label("worst is").select_option("positive")
    assert steps(page) == [1, 3, 5, 7, 9]
    page.get_by_role("button", name="clear").click()
    page.get_by_label("step").select_option("7")
    assert steps(page) == [7]
    page.get_by_role("button", name="clear").click()
    page.get_by_label("rewards").select_option("true")
    assert steps(page) == [12] and "all rewards tied" in page.locator("#groups h3").inner_text()
    page.get_by_role("button", name="clear").click()
    page.get_by_role("button", name="last").click()
    page.get_by_label("text contains").fill("question")
    assert place(page) == "groups 1–5 of 12"
    page.get_by_label("text contains").fill("qUESTION 1")
    assert steps(page) == [1, 10, 11, 12]
    page.get_by_label("text contains").fill("text 4.1")  # in a response
    assert steps(page) == [4]
    page.get_by_label("text contains").press("Enter")
    assert steps(page) == [4]


def test_runs_are_told_apart(many, ple_run, open_page):
    page = open_page(many, ple_run)
    assert page.locator("#groups h3").first.inner_text() == "many, step 1"
    page.locator("select[name=run]").select_option(label="out")
    assert steps(page) == [1, 1, 2, 2, 4]
    assert "gap" in page.locator("#groups .pairs").first.inner_text()


def test_one_run_needs_no_choice_of_runs(many, open_page):
    page = open_page(many)
    assert page.locator("select[name=run]").is_hidden() and page.get_by_label("step").is_visible()


def test_settings_can_be_searched(many, open_page):
    page = open_page(many)
    rows = page.locator("#settings tbody tr")
    assert rows.count() == 3 and page.locator("#settings tbody tr:visible").count() == 3
    page.get_by_label("setting contains").fill("beta")
    assert page.locator("#settings tbody tr:visible").inner_text().split() == ["args.beta", "0.5"]


def test_texts_do_no_harm(tmp_path, open_page):
    write_table(tmp_path / "<b>run", 1, ["<i>a", "b", "c", "d"], [0.1, 0.2, None, 0.4], completion=NASTY)
    page = open_page(tmp_path / "<b>run")
    assert page.evaluate("window.harm") is None
    assert page.locator("#groups tbody pre").all_text_contents() == [visible(text) for text in NASTY]
    assert page.locator("#groups img, #groups i, h1 b").count() == 0
    assert "score none" in page.locator("#groups tbody tr").nth(2).inner_text()


def test_an_injected_script_would_not_run(many, open_page, browser, tmp_path):
    """Were a text not escaped, the page's policy would still stop it."""
    open_page(many)
    broken = tmp_path / "broken.html"
    broken.write_text((tmp_path / "report.html").read_text().replace("<h1>", "<script>window.harm = 1</script><h1>"))
    page = browser.new_page()
    page.goto(broken.as_uri())
    assert page.evaluate("window.harm") is None and steps(page) == [1, 2, 3, 4, 5]
    page.close()


def test_a_long_text_says_what_is_left_out(tmp_path, open_page):
    write_table(tmp_path / "long", 1, KINDS, [0.0, 1.0], completion=["x" * 5000, "y"])
    page = open_page(tmp_path / "long")
    assert page.locator("#groups tbody pre").first.inner_text() == "x" * 4000 + " … 1000 more characters"


def test_a_run_without_samples_has_no_form(tmp_path, open_page):
    write_table(tmp_path / "empty", 1, ["plain"], [0.0])
    page = open_page(tmp_path / "empty")
    assert page.locator("#filters").is_hidden() and page.locator("#pager").is_hidden()
