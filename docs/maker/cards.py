"""Cards that lead to notebooks: a picture and what running it took when these pages were made."""

import html
import json

from .figures import title_of_figure
from .measured import in_html


def spoken(seconds: float) -> str:
    "A time as people say it: 4 s, 1 min 20 s, 2 h 05 min."
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def time_of(took: dict) -> str:
    "What an execution took, or nothing where it wasn't kept."
    if "seconds" not in took:
        return ""
    work, wall = spoken(took["work"]), spoken(took["seconds"])
    return f"{work} of computing, {wall} beside other work" if took["seconds"] > 3 + 1.3 * took["work"] else wall


def machines_of(pages: list) -> str:
    "On what the times were taken, and beside how much else."
    found = {}
    for took in (p.took for p in pages if "seconds" in p.took):
        found.setdefault((took["processor"], took["cores"]), []).append(took["load"])
    said = [f"{name}, {cores} cores, load {min(loads):g} to {max(loads):g}" for (name, cores), loads in found.items()]
    return ("Times are those of the executions that these pages show, each in a kernel with one thread: "
            f"{'; '.join(said)}. A load above the number of cores means that other work was waited for: then what the "
            "processors themselves spent comes first." if said else "")


def picture_of(page) -> str:
    "The figure that stands for a page: the one with the most in it, as a small picture; else nothing."
    if not page.figures:
        return ""
    name = max(page.figures, key=lambda n: len(json.dumps(page.figures[n])))
    return f'<span class="evonb-thumb" data-figure="{name}" aria-hidden="true"></span>'


def notebook_card(page, image: str = "") -> str:
    "A notebook's card; `image` is shown where it has no figure."
    plain = f'<img class="evonb-thumb" src="{image}" alt="">' if image else ""
    took = f'<span class="evonb-card-time">{time_of(page.took)}</span>' if page.took else ""
    return (f'<a class="evonb-card" href="{page.name}.html">{picture_of(page) or plain}'
            f'<span class="evonb-card-title">{html.escape(page.title)}</span>'
            f'<span class="evonb-card-line">{in_html(page.line)}</span>{took}</a>')


def figure_card(page, name: str, figure: dict) -> str:
    "A small picture of a figure that leads to the figure itself."
    title = html.escape(title_of_figure(figure))
    return (f'<a class="evonb-card" href="{page.name}.html#{name}"><span class="evonb-thumb" data-figure="{name}" '
            f'aria-hidden="true"></span><span class="evonb-card-title">{title}</span></a>')
