"""The site: no warning, every page in the navigation, no dead link, nothing loaded from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADS = {
    ("script", "src"),
    ("img", "src"),
    ("link", "href"),
    ("iframe", "src"),
    ("source", "srcset"),
    ("object", "data"),
}


class Page(HTMLParser):
    """A page's ids, where its links lead, and what it makes a browser load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.add(value)
            if (tag, key) in LOADS:
                self.loads.append(value)
            if (tag, key) == ("a", "href"):
                self.links.append(value)


@pytest.fixture(scope="module")
def site(site_folder):
    return {path: Page(path) for path in site_folder.rglob("*.html")}


def test_each_page_is_there_and_in_the_navigation(site):
    index = next(page for path, page in site.items() if path.name == "index.html")
    for source in (ROOT / "docs").rglob("*.md"):
        name = source.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert any(path.as_posix().endswith(f"/site/{name}") for path in site), name
        if source.parent == ROOT / "docs":
            assert name == "index.html" or name in index.links, name
    at_the_top = {"CONTRIBUTING.html", "SECURITY.html", "CHANGELOG.html"}
    assert at_the_top <= set(index.links)


def test_every_link_within_the_site_leads_somewhere(site):
    for path, page in site.items():
        for link in page.links:
            if (
                re.match(r"\w+:", link)
                or path.name in ("search.html", "genindex.html")
                and link.startswith("#")
            ):
                continue
            target, _, anchor = link.partition("#")
            to = (path.parent / unquote(target)).resolve() if target else path
            assert to.exists(), f"{path.name}: {link}"
            if anchor and to.suffix == ".html":
                assert anchor in site[to].ids, f"{path.name}: {link}"


def test_nothing_is_loaded_from_elsewhere(site):
    for path, page in site.items():
        assert not [one for one in page.loads if re.match(r"(?:https?:)?//", one)], path.name
    folder = next(iter(site)).parent
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", sheet.read_text()), sheet.name


def test_two_dashes_stay_two(site_folder):
    text = (site_folder / "COMMANDS.html").read_text()
    assert "needed with --json" in text and "\u2013json" not in text


def test_the_search_finds_a_word_of_a_page(site):
    [index] = {path.parent / "searchindex.js" for path in site if path.name == "search.html"}
    data = json.loads(re.search(r"Search\.setIndex\((.*)\)", index.read_text(), re.S)[1])
    found = data["terms"]["rollback"]
    names = {data["docnames"][number] for number in (found if isinstance(found, list) else [found])}
    assert "USE" in names


@pytest.fixture
def small(tmp_path):
    """A site of one page that builds."""
    (tmp_path / "docs/_static").mkdir(parents=True)
    for name in ("product.toml", "docs/conf.py", "docs/_static/site.css"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "docs/index.md").write_text(
        "# Site\n\n## Part\n\n[part](#part) and [facts](../product.toml)\n"
    )
    return tmp_path


def test_a_link_out_of_the_pages_leads_to_the_repository(small, build):
    done = build(small / "docs", small / "site")
    assert done.returncode == 0, done.stderr
    assert re.search(r'href="https://[^"]*/blob/main/product.toml"', (small / "site/index.html").read_text())


def test_a_page_at_the_top_is_a_page_of_the_site_and_linked_both_ways(small, build):
    (small / "CONTRIBUTING.md").write_text(
        "# Contribute\n\n[facts](product.toml), [start](docs/index.md#part)\n"
    )
    with (small / "docs/index.md").open("a") as page:
        page.write("\n[how](../CONTRIBUTING.md)\n")
    done = build(small / "docs", small / "site")
    assert done.returncode == 0, done.stderr
    assert "CONTRIBUTING.html" in Page(small / "site/index.html").links
    links = Page(small / "site/CONTRIBUTING.html").links
    assert "index.html#part" in links and any(link.endswith("/blob/main/product.toml") for link in links)


def test_links_to_nothing_fail_the_build_and_are_named(small, build):
    bad = ["[x](no-page.md)", "[x](#no-part)", "[x](../no-file.toml)", "![x](no-picture.png)"]
    with (small / "docs/index.md").open("a") as page:
        page.write("".join(f"\n{one}\n" for one in bad))
    done = build(small / "docs", small / "site")
    assert done.returncode != 0
    assert all(name in done.stderr for name in ("no-page", "no-part", "no-file.toml", "no-picture.png")), (
        done.stderr
    )


def test_a_new_page_that_nobody_named_is_in_the_navigation(small, build):
    (small / "docs/NEWS.md").write_text("# News\n")
    done = build(small / "docs", small / "site")
    assert done.returncode == 0, done.stderr
    assert "NEWS.html" in Page(small / "site/index.html").links


def test_the_site_wears_the_projects_colours_and_wordmark(small, build):
    (small / "artwork").mkdir()
    (small / "artwork/palette.toml").write_text('[light]\naccent = "#123456"\n[dark]\naccent = "#fedcba"\n')
    (small / "artwork/wordmark.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"><path fill="@accent@"/></svg>'
    )
    done = build(small / "docs", small / "site")
    assert done.returncode == 0, done.stderr
    page = (small / "site/index.html").read_text()
    for mode, accent in (("light", "#123456"), ("dark", "#fedcba")):
        assert f"_static/wordmark-{mode}.svg" in page and accent in page
        assert f'fill="{accent}"' in (small / f"site/_static/wordmark-{mode}.svg").read_text()


def links_to_nothing(root: Path, name: str) -> list[str]:
    """The relative links in the page NAME of ROOT that lead to no file."""
    found = re.findall(r"""(?:\]\(|(?:src|srcset|href)=")(?!\w+:|#)([^)"#\s]+)""", (root / name).read_text())
    return [link for link in found if not (root / name).parent.joinpath(link).exists()]


README_ELSEWHERE = {
    "docs": "its first page is index.md",
    "overlay": "whatever lies in it is shipped, so docs/DEVELOP.md describes it",
}
FOLDER_READMES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("*/README.md"))


def folders_without_readme(root: Path) -> list[str]:
    """The top folders of ROOT that git keeps, that say nowhere what they are."""
    argv = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout.decode().split("\0")
    folders = {name.split("/")[0] for name in listed if "/" in name and not name.startswith(".")}
    return sorted(
        name for name in folders - set(README_ELSEWHERE) if not (root / name / "README.md").is_file()
    )


def test_each_top_folder_says_what_it_is():
    assert folders_without_readme(ROOT) == []


def test_a_top_folder_that_says_nothing_is_noticed(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, timeout=60)
    for name in ("told/README.md", "silent/program.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert folders_without_readme(tmp_path) == ["silent"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *FOLDER_READMES])
def test_the_repositorys_own_pages_link_to_files_that_are_there(name):
    assert links_to_nothing(ROOT, name) == []


def test_a_link_to_no_file_is_noticed(tmp_path):
    (tmp_path / "README.md").write_text(
        '[a](#b) [c](https://d/e) [f](gone.md#g) [h](README.md) <img src="gone.png">'
    )
    assert links_to_nothing(tmp_path, "README.md") == ["gone.md", "gone.png"]
