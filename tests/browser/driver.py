"""Driving an explorer as a person would: by its real controls; and reading what it shows."""

import time

from .waiting import SECONDS, save, waiting

KIND = "e => e.tagName === 'INPUT' ? e.type : e.tagName.toLowerCase()"
# A view is at rest when, for three frames, it shows what was asked, nothing is drawn again, and it hasn't moved.
AT_REST = """async (e, ms) => {
  const end = performance.now() + ms;
  for (let calm = 0, before = ''; calm < 3;) {
    await new Promise(requestAnimationFrame);
    const {state, redrawing} = e.dataset, now = JSON.stringify(e.getBoundingClientRect());
    const busy = e.getAttribute('aria-busy') === 'true' || !state || state === 'loading' || redrawing;
    calm = busy || now !== before ? 0 : calm + 1;
    before = now;
    if (performance.now() > end) throw new Error('evonb: out of time');
  }
}"""
# Where a point of a figure is on the page; `find` gives its place in the axes' own numbers.
SPOT = """(e, argument) => { const [x, y] = (FIND)(e, argument), {xaxis, yaxis} = e._fullLayout;
  const box = e.getBoundingClientRect();
  return [box.x + xaxis._offset + xaxis.c2p(x), box.y + yaxis._offset + yaxis.c2p(y)]; }"""
HOVERED = """(e, argument) => { const [x, y] = (FIND)(e, argument);
  return (e._hoverdata ?? []).some(p => Math.abs(p.xaxis.c2p(x) - p.xaxis.d2p(p.x)) < 3
                                     && Math.abs(p.yaxis.c2p(y) - p.yaxis.d2p(p.y)) < 3); }"""
AGAIN = 2  # seconds after which the mouse is moved again
FEW_STEPS = 40  # key presses; on longer sliders the last of them
PLOT = """e => ({x: e.layout.xaxis?.title?.text ?? '', y: e.layout.yaxis?.title?.text ?? '',
  data: e._fullData.map(t => ({type: t.type, name: t.name, visible: t.visible,
    ...Object.fromEntries(['x', 'y', 'z'].map(k => [k, Array.from(t[k] ?? [], v => v?.length && typeof v !== 'string'
      ? Array.from(v) : v)]))}))})"""


def _number(text: str | None):
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


class ExplorerDriver:
    "One explorer in a page or frame: `set` moves a control, `ready` waits for its views, `text` reads one."

    def __init__(self, page_or_frame, index: int = 0):
        self.page = getattr(page_or_frame, "page", page_or_frame)
        self.root = page_or_frame.locator(".evonb-explorer").nth(index)
        with waiting(self.page, f"explorer {index} to appear"):
            self.root.wait_for(state="visible", timeout=SECONDS * 1000)

    def control(self, name: str):
        "The select or input of a control; where it stands behind \"More\", that is opened."
        more = self.root.locator(".evonb-more-button[aria-expanded=false]")
        if more.count() and self.root.locator(f'.evonb-more [data-control="{name}"]').count():
            more.first.click()
        return self.root.locator(f'[data-control="{name}"]').first

    def view(self, name: str):
        "The section of a view; its tab is opened."
        section = self.root.locator(f'section[data-view="{name}"]')
        tab = self.root.evaluate(
            """(e, name) => [...e.querySelectorAll('section[data-view]')].find((s) => s.dataset.view === name)
               ?.closest('[role=tabpanel][hidden]')?.dataset.tab ?? ''""", name)
        if tab:
            self.open(tab)._at_rest(name, section)
        return section

    def open(self, tab: str):
        "Opens a tab."
        self.root.get_by_role("tab", name=tab, exact=True).click()
        return self

    def value(self, name: str):
        "What a control says: a truth value for a checkbox, else a number if it is one, else a text."
        shown = self.control(name).get_attribute("data-value")
        return {"true": True, "false": False}.get(shown, _number(shown))

    def options(self, name: str) -> list[str]:
        "The texts of a choice."
        return self.control(name).locator("option").all_inner_texts()

    def set(self, name: str, value):
        "Moves a control: picks an option (by its text, else by its value), presses arrow keys, ticks a box."
        control = self.control(name)
        with waiting(self.page, f"control {name} to take {value!r}"):
            kind = control.evaluate(KIND)
            {"select": self._pick, "checkbox": self._tick, "range": self._slide}[kind](name, control, value)
        return self

    def until(self, name: str, value):
        "Waits until a control says this, moved by someone else (Python, or a click in a view)."
        end = time.monotonic() + SECONDS
        while self.value(name) != value and time.monotonic() < end:
            self.page.wait_for_timeout(20)
        assert self.value(name) == value, f"{name} still says {self.value(name)!r} after {SECONDS:.0f} s, not {value!r}"
        return self

    def _pick(self, name, control, value):
        texts = [text.strip() for text in self.options(name)]
        if str(value) in texts:
            control.select_option(index=texts.index(str(value)))
            return
        for i in range(len(texts)):  # the values don't stand in the page: the control says each when it is picked
            control.select_option(index=i)
            if self.value(name) == value:
                return
        raise AssertionError(f"no option {value!r} among {texts}")

    def _tick(self, name, control, value):
        control.set_checked(bool(value))

    def _slide(self, name, control, value):
        last = int(control.get_attribute("max"))
        if last > FEW_STEPS:
            self._search(name, control, value, last)
        control.focus()
        for key in ("ArrowRight", "ArrowLeft"):
            for _ in range(min(last, FEW_STEPS)):
                if self.value(name) == value:
                    return
                control.press(key)
        assert self.value(name) == value, f"no place of the slider says {value!r}; it ends at {self.value(name)!r}"

    def _search(self, name, control, value, last):
        "A long slider of rising numbers: halve what is left."
        lo, hi = 0, last
        while lo < hi:
            middle = (lo + hi) // 2
            control.fill(str(middle))
            lo, hi = (middle + 1, hi) if self.value(name) < value else (lo, middle)
        control.fill(str(lo))

    def names(self) -> list[str]:
        "The names of the views that are there to be seen (not those of tabs that aren't open), in order."
        return self.root.locator("section[data-view]").evaluate_all(
            "all => all.filter(e => !e.closest('[hidden]')).map(e => e.dataset.view)")

    def ready(self, name: str | None = None, state: str = "ready"):
        "Waits until a view (or all of them) has drawn the reply to what the controls say now."
        for view in [name] if name else self.names():
            self._settle(view)
            got, shown = self.view(view).get_attribute("data-state"), self.view(view).inner_text()
            assert got == state, f"view {view} is {got!r}, not {state!r}. It says: {shown}"
        return self

    def _settle(self, view: str):
        self._at_rest(view, self.view(view))

    def _at_rest(self, view: str, section):
        with waiting(self.page, f"view {view} to be ready"):
            section.wait_for(state="attached")
            self._out_of_time(lambda: section.evaluate(AT_REST, SECONDS * 1000))

    @staticmethod
    def _out_of_time(action):
        from playwright.sync_api import Error
        from playwright.sync_api import TimeoutError as OutOfTime
        try:
            action()
        except Error as e:
            raise (OutOfTime(f"more than {SECONDS:.0f} s") if "evonb: out of time" in str(e) else e) from None

    def text(self, name: str) -> str:
        "What a view shows, as text."
        return self.view(name).inner_text()

    def note(self, name: str | None = None) -> str:
        "The status text of a view, or the explorer's first one."
        return (self.view(name) if name else self.root).locator(".evonb-note").first.inner_text()

    def alert(self, name: str) -> str:
        "A view's error message; waits for it."
        with waiting(self.page, f"an error message in view {name}"):
            return self.view(name).get_by_role("alert").first.inner_text()

    def press(self, name: str):
        "Presses a button, by its control's name, else by what it says."
        button = self.root.locator(f'button[data-control="{name}"]')
        (button if button.count() else self.root.get_by_role("button", name=name, exact=True)).first.click()
        return self

    def point(self, name: str, place, arrived):
        """Moves the mouse over a view until the page says that it is there; returns where that is.

        `place()` gives the coordinates in the page, `arrived()` whether the page has seen the mouse there. What moves
        meanwhile (a page that is still being laid out, a figure that is drawn again) is followed.
        """
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            self._settle(name)
            x, y = place()
            self.page.mouse.move(x - 2, y)  # where the mouse is already, it isn't moved
            self.page.mouse.move(x, y)
            again = time.monotonic() + AGAIN
            while time.monotonic() < min(again, end):
                if arrived():
                    return x, y
                self.page.wait_for_timeout(20)
        raise AssertionError(f"view {name} didn't see the mouse at {place()} within {SECONDS:.0f} s")

    def click(self, name: str, place, arrived):
        "Clicks where `point` brings the mouse."
        self.point(name, place, arrived)
        self.page.mouse.down()
        self.page.mouse.up()
        return self

    def click_plot(self, name: str, find: str, argument=None):
        "Clicks the point of a figure that a script `(e, argument) => [x, y]` finds, once it is hovered."
        plot = self.view(name).locator(".js-plotly-plot").first
        plot.evaluate("e => { e.scrollIntoView({block: 'center'}); e.clicksSeen = 0; "
                      "e.on('plotly_click', () => e.clicksSeen++); }")
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:  # a figure that is drawn anew between press and release sees no click
            self.click(name, lambda: plot.evaluate(SPOT.replace("FIND", find), argument),
                       lambda: plot.evaluate(HOVERED.replace("FIND", find), argument))
            again = time.monotonic() + AGAIN
            while time.monotonic() < again:
                if plot.evaluate("e => e.clicksSeen"):
                    return self
                self.page.wait_for_timeout(20)
        raise AssertionError(f"view {name} saw no click within {SECONDS:.0f} s")

    def canvas(self, name: str) -> dict:
        "What the canvas of a view says of itself (its dataset)."
        return self.view(name).locator("canvas").first.evaluate("e => ({...e.dataset})")

    def plot(self, name: str) -> dict:
        "The traces (type, name, x, y, z), the axes' titles and the line above it of a plotly view, as drawn."
        drawn = self.view(name).locator(".js-plotly-plot").first.evaluate(PLOT)
        return {**drawn, "how": self.view(name).locator(".evonb-how").inner_text()}

    def table(self, name: str) -> list[list[str]]:
        "The rows of a table view, its head first."
        return self.view(name).locator("tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")

    def screenshot(self, name: str):
        "A picture of this explorer among the artefacts."
        return save(self.root, name)


def explorer(page_or_frame, index: int = 0) -> ExplorerDriver:
    "The driver of the index-th explorer in a page, a frame or a locator."
    return ExplorerDriver(page_or_frame, index)
