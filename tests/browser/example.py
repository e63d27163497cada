"""A small explorer for trying hosts and the driver: its source is also put into notebooks as a cell."""

import plotly.graph_objects as go

from evonb.core import InputError
from evonb.widgets.explorer import Explorer, Reply, View, button, choice, slider, toggle


class Powers(Explorer):
    "Powers of whole numbers, up to a length."

    def __init__(self):
        controls = [slider("upto", "Up to", 2, 9, value=4, unit="numbers"), slider("many", "Many", 0, 500),
                    choice("power", "Power", [(1, "plain"), (2, "square"), (3, "cube"), (9, "too high")], 2),
                    toggle("minus", "Negative"), button("again", "Again")]
        views = [View("curve", "plotly", "Curve", needs=("upto", "power", "minus"), description="Powers as a curve"),
                 View("words", "text", "In words", needs=("upto", "power", "minus")),
                 View("grid", "table", "Table", needs=("upto", "many"), click={"upto": "key"})]
        super().__init__("Powers <b>of</b> numbers", controls, views, "moved by the tests")
        self.presses = 0

    def numbers(self, upto, power=1, minus=False):
        if power > 3: raise InputError(f"The power {power} is too high: choose 1, 2 or 3.")
        return [(-1 if minus else 1) * n ** power for n in range(1, upto + 1)]

    def reply(self, view, values):
        if view == "grid":
            return Reply.of_table([dict(n=n, many=values["many"]) for n in self.numbers(values["upto"])])
        y = self.numbers(**values)
        if view == "words": return Reply.of_text("The numbers are " + ", ".join(map(str, y)))
        figure = go.Figure(go.Scatter(x=list(range(1, len(y) + 1)), y=y, name="powers"))
        return Reply.of_figure(figure.update_layout(template="plotly_white", xaxis_title="number", yaxis_title="power"))

    def on_press(self, name):
        self.presses += 1
        self.push("words", Reply.of_text(f"pressed {name} {self.presses} times"))
