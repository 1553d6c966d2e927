"""The look that all reports share: one self-contained HTML page, and drawings that take its colours.

Line plots are drawn in placeholder colours that stand for the page's CSS variables, so that one drawing serves the
light and the dark page.
"""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

INK, MUTED, LINE, GOOD = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", GOOD: "--good"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES, start=1)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": LINE,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.unicode_minus": True,
}  # fmt: skip


def render_page(template: Path, *, title: str, **values: Any) -> str:
    """The page of a template that extends page.html.j2; a value it asks for and is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(title=title, **values)


def flattened(facts: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: with the separator ".", {"data": {"train": 1}} is {"data.train": 1}."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, separator, f"{name}{separator}") if isinstance(value, Mapping) else {name: value}
    return flat


def svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element whose colours are the page's variables and whose font is the page's."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def data_uri(media_type: str, write: Callable[[io.BytesIO], Any]) -> str:
    """What `write` puts into a buffer, as text for a page."""
    buffer = io.BytesIO()
    write(buffer)
    return f"data:{media_type};base64,{base64.b64encode(buffer.getvalue()).decode()}"
