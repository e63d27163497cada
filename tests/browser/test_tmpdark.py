from .test_hosts import CELLS
PATCH = """import evonb.explorer as ex
old = "new ResizeObserver(() => views.forEach("
assert old in ex._script()
class Powers(Powers):
    _esm = ex._script().replace(old, "new ResizeObserver(() => { dress(); views.forEach(", 1).replace("v.painter.resize?.(); }));", "v.painter.resize?.(); }); });", 1) + "\\nexport default { render };\\n"
"""
def test_x(notebook_page, explorer):
    for k in range(8):
        page = notebook_page([CELLS[0], PATCH, CELLS[1]], theme="JupyterLab Dark", name=f"d{k}.ipynb")
        seen = explorer(page).ready()
        print("AT", k, seen.root.get_attribute("class"))
