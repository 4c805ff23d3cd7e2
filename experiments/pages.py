"""What the pages of experiments/results share: notes that are written by hand, and the index."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def notes(folder: Path) -> str:
    """What has been found, by hand: `notes.md` of the folder; "" if there is none."""
    path = folder / "notes.md"
    return path.read_text().rstrip() if path.exists() else ""


def write(folder: Path, text: str) -> None:
    """The page of a folder; of one among the results the index, too."""
    (folder / "README.md").write_text(text)
    if RESULTS in folder.resolve().parents:
        write_index()


def write_index(results: Path = RESULTS) -> None:
    """README.md of the results: every page with its figures."""
    text = ["# Results", "Each is made by the script of its name in `experiments/`, and says how."]
    for page in sorted(results.glob("*/**/README.md")):
        title, folder = page.read_text().splitlines()[0].removeprefix("# "), page.parent.relative_to(results)
        title += ", budget `full`" if folder.name == "full" else ""
        text.append(f"## [{title}]({folder}/README.md)")
        text += [f'<img src="{folder}/{x.name}" width="400">' for x in sorted(page.parent.glob("*.png"))]
    (results / "README.md").write_text("\n\n".join(text) + "\n")
