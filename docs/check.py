"""``python docs/check.py docs/_build/html`` checks the built site: every link within it leads to a
page and a place that are there, every picture is there and has a text, nothing is loaded from
elsewhere, and every public name has its entry.
"""

import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parent / "_ext"))


class Page(HTMLParser):
    """What a page refers to, and the places that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.no_text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes one element."""
        given = {name: value or "" for name, value in attrs}
        self.ids.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script", "source") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loads.append(given["href"])
        if tag == "img" and not given.get("alt"):
            self.no_text.append(given.get("src", ""))


def problems(folder: Path) -> list[str]:
    """What is wrong with the pages of a folder."""
    paths = sorted(folder.rglob("*.html"))
    pages = {
        path.resolve(): Page(path.read_text(encoding="utf-8"))
        for path in paths
        if "_static" not in path.parts
    }
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for link in page.links + page.loads:
            where = urlsplit(link)
            if where.scheme or where.netloc:
                if link in page.loads and where.scheme != "data":
                    found.append(f"{name}: loads {link} from elsewhere")
                continue
            target = path if not where.path else (path.parent / unquote(where.path)).resolve()
            known = pages[target].ids if target in pages else {where.fragment}
            if not target.is_file():
                found.append(f"{name}: {link} is not there")
            elif where.fragment and not {where.fragment, unquote(where.fragment)} & known:
                found.append(f"{name}: {link} leads to no place of that page")
        found += [f"{name}: picture {picture} has no text" for picture in page.no_text]
    return found


def missing_names(folder: Path) -> list[str]:
    """Public names without an entry in the site's index."""
    from pages import public_names

    inventory = (folder / "objects.inv").read_bytes().split(b"\n", 4)[4]
    known = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    names = {f"{module}.{name}" for module, own in public_names().items() for name in own}
    return sorted(names - known)


def main(folder: Path) -> None:
    """Exits with what is wrong."""
    found = problems(folder) + [f"{name} has no entry" for name in missing_names(folder)]
    if found:
        raise SystemExit("\n".join(found))
    print(f"{folder}: links, pictures and names are there")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
