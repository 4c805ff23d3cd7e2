"""What a page says, read with Python's own parser."""

from __future__ import annotations

from html.parser import HTMLParser


class Parsed(HTMLParser):
    """Tables as rows of text, and every element with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while tag in self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside[-1:]):
            self.text += data
            if {"td", "th"} & set(self._inside):
                self.tables[-1][-1][-1] += data

    def table(self, *words: str) -> list[list[str]]:
        """The first table whose cells have all of these words, whitespace made plain."""
        for table in self.tables:
            rows = [[" ".join(cell.split()) for cell in row] for row in table]
            if all(any(word == cell for row in rows for cell in row) for word in words):
                return rows
        raise AssertionError(f"no table with {words}")

    def row(self, name: str, *words: str) -> list[str]:
        """The first row with that name in such a table."""
        return next(row for row in self.table(name, *words) if row[0] == name)
