"""The pages people see, in a real browser: the report, small and large, and a connection sheet.

The large report is of 50 people and 100 projects with the longest names there can be.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess

import pytest
from conftest import run_ansible
from peat import report
from peat.lab import load
from playwright.sync_api import Page, sync_playwright

PHONE, DESK = 360, 1280
#: What fits on A4 across, 10 mm margins, in CSS pixels.
PAPER = round(277 / 25.4 * 96)
SCHEMES = ("light", "dark")

#: Every piece of text with less contrast than WCAG AA asks for (4.5, or 3 if it is large).
FAINT = """() => {
    const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = numbers(getComputedStyle(element).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const faint = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
        if (!text) continue;
        const style = getComputedStyle(element);
        const [high, low] = [light(numbers(style.color)), light(behind(element))].sort((a, b) => b - a);
        const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        if ((high + 0.05) / (low + 0.05) < (large ? 3 : 4.5)) faint.push(text);
    }
    return faint;
}"""

#: What sticks out of the window to the right and cannot be scrolled to by itself.
OUTSIDE = """() => [...document.body.querySelectorAll("*")].filter(element =>
    element.getBoundingClientRect().right > innerWidth + 0.5 && !element.parentElement.closest(".scroll")
).map(element => element.outerHTML.slice(0, 80))"""

#: Names that do not fit into their cells.
CLIPPED = """() => [...document.querySelectorAll("th, .person span")].filter(element => {
    const inside = element.getBoundingClientRect(), box = element.closest("th").getBoundingClientRect();
    return inside.top < box.top - 1 || inside.right > box.right + 1
        || element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1;
}).map(element => element.textContent)"""

#: How far head and first column of the matrix are from the corner of what it is scrolled in, after scrolling.
STUCK = """() => {
    const table = document.querySelector(".matrix"), box = table.parentElement, corner = box.getBoundingClientRect();
    box.scrollTop = 300; box.scrollLeft = 300;
    const head = table.querySelector("thead th:nth-child(30)").getBoundingClientRect();
    const row = table.querySelector("tbody tr:nth-child(60) th").getBoundingClientRect();
    return {moved: [box.scrollTop, box.scrollLeft], head: head.top - corner.top, row: row.left - corner.left};
}"""


def large_report() -> str:
    people = [{"name": f"person.{number:02d}-{'x' * 22}", "from": ["campus"]} for number in range(50)]
    names = [person["name"] for person in people]
    projects = [
        {
            "name": f"project_{number:02d}_{'y' * 51}",
            "clients": "peat2",
            "write": names[number % 45 :][:3],
            "read": [names[(number + 7) % 50]] if number % 45 + 3 <= (number + 7) % 50 else [],
        }
        for number in range(100)
    ]
    networks = [{"name": "campus", "addresses": ["192.0.2.0/24", "2001:db8:1::/48"]}]
    figures = {
        "disk": 123_456_789,
        "objects": {"value": 1_000_000, "exact": False},
        "data": {"value": 1, "exact": True},
        "commit": {"tid": 1, "time": "2026-11-20 09:30", "user": names[0]},
    }
    about = {
        "name": "s" * 63 + ".example.org",
        "address": "large.example.org",
        "port": 8080,
        "findings": [f"'{'z' * 80}'@'%' was not made by this project"],
        "pending": ["create a very long account " + "a" * 80],
    }
    found = {"software": "MariaDB 10.11.18", "announced": None, "system": "Debian", "databases": {}}
    found["databases"] = {project["name"]: figures for project in projects}
    servers = [report.server(about, load(networks, people, projects), networks, found)]
    return report.page(servers, ["second.example.org"], "2026-11-23 02:00")


@pytest.fixture(scope="module")
def pages(tmp_path_factory, lab) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("pages")
    variables = json.dumps({"peat_report_file": str(folder / "report.html")})
    code, _report, text = run_ansible("ansible-playbook", f"--extra-vars={variables}", "playbooks/report.yml")
    assert code == 0, text
    (folder / "large.html").write_text(large_report())
    return {
        "report": folder / "report.html",
        "large": folder / "large.html",
        "sheet": pathlib.Path(lab.server["sheets"], "guest.html"),
    }


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=options)
        yield browser
        browser.close()


@pytest.fixture
def show(browser, pages):
    """show(name, width, scheme, media): a page, which until the end asks for nothing and complains of nothing."""
    opened, requests, complaints = [], [], []

    def show(name: str, width: int = DESK, scheme: str = "light", media: str = "screen") -> Page:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        opened.append(page)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.emulate_media(media=media, color_scheme=scheme)
        page.goto(pages[name].as_uri())
        return page

    yield show
    for page in opened:
        page.close()
    assert complaints == []
    assert {request.partition("#")[0] for request in requests} <= {path.as_uri() for path in pages.values()}


NAMES = ("report", "large", "sheet")


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_sticks_out_of_the_window(show, name, width):
    page = show(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(CLIPPED) == []


@pytest.mark.parametrize(("name", "scheme"), list(itertools.product(NAMES, SCHEMES)))
def test_every_text_can_be_read(show, name, scheme):
    page = show(name, scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert page.evaluate(FAINT) == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_head_and_names_stay_while_the_matrix_is_scrolled(show, width):
    found = show("large", width).evaluate(STUCK)
    assert found["moved"] == [300, 300]
    assert abs(found["head"]) <= 2 and abs(found["row"]) <= 2


def test_the_report_has_everybody_and_every_project(show, lab):
    page = show("report")
    head, *rows = page.locator(".matrix tr").all()
    assert head.locator(".person").all_inner_texts() == [person["name"] for person in lab.server["people"]]
    assert [row.locator("th").inner_text() for row in rows] == [project["name"] for project in lab.server["projects"]]
    levels = {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}
    for project in lab.server["projects"]:
        written, read = project.get("write", []), project.get("read", [])
        expected = [
            "W" if name in written else "R" if name in read else ""
            for name in (person["name"] for person in lab.server["people"])
        ]
        assert levels[project["name"]] == expected


def printed(page: Page, path: pathlib.Path) -> str:
    """The text of what a printer gets, without line ends and blanks."""
    page.pdf(path=path, format="A4")
    done = subprocess.run(["pdftotext", "-raw", path, "-"], check=True, capture_output=True, text=True)
    return "".join(done.stdout.split())


@pytest.mark.parametrize("name", ["report", "large"])
def test_the_matrix_is_on_paper(show, tmp_path, name):
    # In the dark, because paper stays white.
    page = show(name, PAPER, "dark", "print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('.matrix').getBoundingClientRect().right") <= PAPER
    assert page.evaluate(CLIPPED) == []
    assert page.evaluate(FAINT) == []
    words = printed(page, tmp_path / "report.pdf")
    people = page.locator(".matrix .person").all_text_contents()
    projects = page.locator(".matrix tbody th").all_text_contents()
    assert len(people) > 3 and len(projects) > 4
    # In the matrix, in the table of projects, and in that of addresses; people who have access in the last as well.
    assert [project for project in projects if words.count(project) < 3] == []
    assert [person for person in people if words.count(person) < 2] == []


def test_the_sheet_is_on_paper(show, tmp_path, lab):
    words = printed(show("sheet", scheme="dark", media="print"), tmp_path / "sheet.pdf")
    assert "Connectionsheetforguest" in words
    assert lab.password("guest") in words
    assert "passwd$(PEAT_PASSWORD)" in words
