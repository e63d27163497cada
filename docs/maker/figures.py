"""What cells show, as a page without Python can show it."""

import html
import json
import re
from dataclasses import dataclass, field

import nbformat

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
ESC = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def title_of_figure(figure: dict) -> str:
    "The figure's title as plain text."
    title = (figure.get("layout") or {}).get("title") or ""
    text = title.get("text", "") if isinstance(title, dict) else title
    return html.unescape(re.sub(r"<[^>]*>", " ", text or "")).strip() or "figure"


@dataclass
class Figures:
    "The plotly figures of one page; each becomes a script that the page loads when it is looked at."
    page: str  # its name, as part of the figures' names
    specs: dict[str, dict] = field(default_factory=dict)

    def keep(self, figure: dict) -> str:
        "The figure's place in the page."
        name = f"{self.page}-{len(self.specs) + 1}"
        self.specs[name] = {k: figure[k] for k in ("data", "layout", "frames") if figure.get(k)}
        height = int((figure.get("layout") or {}).get("height") or 450)
        title = html.escape(title_of_figure(figure), quote=True)
        return (f'<div class="evonb-figure" role="figure" aria-label="{title}" id="{name}" data-figure="{name}" '
                f'style="min-height:{height}px"><div class="evonb-plot"></div></div>')


def script_of(name: str, spec: dict) -> str:
    "A stored figure as a script, which works from disk too."
    text = json.dumps(spec, separators=(",", ":"), ensure_ascii=False)
    return f"evonbFigure({json.dumps(name)}, {text});\n"


def shown_data(data: dict, figures: Figures) -> dict:
    "An output's data with what the page can show: figures by their place, no live widgets."
    if PLOTLY in data:
        return {"text/html": figures.keep(data[PLOTLY])}
    if WIDGET in data and "text/html" not in data:
        return {}
    return {k: v for k, v in data.items() if k != WIDGET}


def shown_output(output, figures: Figures):
    "An output for the page, or None."
    if output.output_type == "stream":
        output.text = "\n".join(line.split("\r")[-1] for line in ESC.sub("", output.text).split("\n"))
        return output if output.text.strip() else None
    if output.output_type in ("display_data", "execute_result"):
        output.data = nbformat.from_dict(shown_data(dict(output.data), figures))
        return output if output.data else None
    return output


def needs_plotly(text: str) -> str:
    "How a page's HTML uses plotly: 'figure', 'explorer' or ''."
    if "evonb-explorer" in text or "Plotly" in text:
        return "explorer"
    return "figure" if "data-figure=" in text else ""
