/* evonb's explorers in a page: controls, views, and the way to the replies, be it Python or what is stored beside. */

const kinds = {}; // how each kind of view is drawn: name -> (host) => ({draw, restyle?, resize?, destroy?})

/** An element with properties and children; strings become text, never HTML. */
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** What this page's browser must have; the missing ones by name. */
function missingParts() {
  const parts = { DecompressionStream: globalThis.DecompressionStream, ResizeObserver: globalThis.ResizeObserver,
                  "the 2d canvas": globalThis.CanvasRenderingContext2D };
  return Object.keys(parts).filter((name) => !parts[name]);
}

/** The bytes of a zlib stream. */
async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return await new Response(stream).arrayBuffer();
}

const asText = (buffer) => new TextDecoder().decode(buffer);

/** Whether the page around `node` is dark: the first opaque background decides, else what the user prefers. */
function isDark(node) {
  if (node.closest?.(".evonb-paper")) return false;
  for (let at = node; at; at = at.parentElement ?? at.getRootNode()?.host) {
    const [r, g, b, a = 1] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    if (a > 0.5) return 0.2126 * r + 0.7152 * g + 0.0722 * b < 110;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/* -- Plotly: once a page, whoever brings it -------------------------------------------------------------------- */

/** Run plotly's source, as a module where the page's rules ask for one. */
async function runPlotly(source) {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  try { await import(/* webpackIgnore: true */ url); }
  catch { document.head.append(make("script", { textContent: source })); }
  finally { URL.revokeObjectURL(url); }
  if (!globalThis.Plotly) throw new Error("plotly.js couldn't be started in this page.");
  return globalThis.Plotly;
}

/** Plotly of this page: what is there, or else what `fetchSource` brings; every explorer shares it. */
function sharedPlotly(fetchSource) {
  if (globalThis.Plotly?.react) return Promise.resolve(globalThis.Plotly);
  globalThis.evonbPlotly ??= fetchSource().then(runPlotly).catch((error) => {
    globalThis.evonbPlotly = undefined;
    throw error;
  });
  return globalThis.evonbPlotly;
}

/* -- Links: where replies come from ----------------------------------------------------------------------------- */

/** What to throw for a reply that isn't one: an error, or the word that there is nothing to show. */
const failure = ({ error, nothing }) => Object.assign(new Error(error ?? nothing), { nothing: nothing !== undefined });

/** The way to Python through the widget's own messages. */
function kernelLink(model) {
  const waiting = new Map(), mark = Math.random().toString(36).slice(2);
  let count = 0, pushed = () => {}, refreshed = () => {}, answered = () => {};
  const send = (message) => new Promise((resolve, reject) => {
    const id = `${mark}-${++count}`;
    waiting.set(id, { resolve, reject });
    model.send({ ...message, id });
  });
  const heard = async (message, buffers = []) => {
    answered();
    if (message?.refresh) return refreshed();
    const arrays = await Promise.all(buffers.map(inflate));
    if (message?.push) return pushed(message.push, { content: message.content, arrays });
    const asked = waiting.get(message?.id);
    if (!asked) return;
    waiting.delete(message.id);
    if (message.error ?? message.nothing) asked.reject(failure(message));
    else asked.resolve({ content: message.content, arrays });
  };
  model.on("msg:custom", heard);
  return {
    spec: model.get("_spec"), live: true,
    values: () => model.get("values"),
    setValues(values) { model.set("values", values); model.save_changes(); },
    onValues(heardValues) { model.on("change:values", heardValues); return () => model.off("change:values", heardValues); },
    onPush(draw, refresh) { pushed = draw; refreshed = refresh; },
    onAnswer(heardFrom) { answered = heardFrom; },
    ask: (view, values) => send({ ask: view, values }),
    press(name) { model.send({ press: name }); },
    type(name, text) { model.send({ type: name, text }); },
    click(detail) { model.set("clicked", detail); model.save_changes(); },
    plotly: () => sharedPlotly(async () => asText((await send({ plotly: true })).arrays[0])),
    close() { model.off("msg:custom", heard); },
  };
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** The way to replies that are stored in the page: found by the places of the needed values among the options. */
function storedLink(data) {
  let values = { ...data.values }, heardValues = () => {};
  const place = (name, value) => {
    const control = data.spec.controls.find((c) => c.name === name);
    return control.options.findIndex(([v]) => v === value);
  };
  return {
    spec: data.spec, live: false,
    values: () => values,
    setValues(changed) { values = changed; heardValues(); },
    onValues(heard) { heardValues = heard; return () => {}; },
    onPush() {},
    async ask(view, needed) {
      const key = `${view}:${Object.entries(needed).map(([n, v]) => place(n, v)).join(",")}`;
      const found = data.replies[data.replies[key]] ?? data.replies[key]; // the name of one that is the same, or itself
      if (!found) throw new Error("This page holds no reply to these settings.");
      if (found.error ?? found.nothing) throw failure(found);
      const arrays = await Promise.all(found.arrays.map((i) => inflate(fromBase64(data.blobs[i]))));
      return { content: found.content, arrays };
    },
    press() {},
    type() {},
    click() {},
    plotly: () => sharedPlotly(async () => {
      const stored = document.getElementById("evonb-plotly");
      if (!stored) throw new Error("plotly.js isn't in this page.");
      return asText(await inflate(fromBase64(stored.textContent)));
    }),
    close() {},
  };
}

/* -- Controls ---------------------------------------------------------------------------------------------------- */

/** A drop-down list. */
function selectControl(control, id, set) {
  const options = control.options.map(([, text], i) => make("option", { value: i, textContent: text }));
  const input = make("select", { id, data: { control: control.name } }, ...options);
  input.addEventListener("change", () => set(control.options[input.value][0]));
  const only = make("option", { value: -1 });
  const show = (place, values) => {
    const said = Object.entries(control.instead ?? {}).map(([other, texts]) => texts[String(values[other])]).find(Boolean);
    input.disabled = said !== undefined;
    only.textContent = said ?? "";
    if (said !== undefined) input.append(only); else only.remove();
    input.value = said === undefined ? place : -1;
    input.dataset.value = String(control.options[place]?.[0]);
  };
  return { node: make("label", { class: "evonb-control" }, control.label, input), show };
}

/** A slider over the control's options, with its value beside it and perhaps a play button. */
function sliderControl(control, id, set, player) {
  const last = control.options.length - 1, said = make("output");
  said.htmlFor.add(id);
  const input = make("input", { type: "range", id, min: 0, max: last, step: 1, data: { control: control.name } });
  input.disabled = last < 1;
  input.addEventListener("input", () => set(control.options[input.value][0]));
  const show = (place) => {
    const text = (control.options[place]?.[1] ?? "") + (control.unit ? ` ${control.unit}` : "");
    input.value = place;
    input.dataset.value = String(control.options[place]?.[0]);
    input.setAttribute("aria-valuetext", text);
    said.textContent = text;
  };
  const slide = make("span", { class: "evonb-slide" }, input, said);
  if (control.play && last > 0) slide.append(playButton(control, player));
  return { node: make("div", { class: "evonb-control" }, make("label", { htmlFor: id }, control.label), slide), show };
}

/** A button that moves a slider on, step by step, until it is pressed again. */
function playButton(control, player) {
  const button = make("button", { type: "button", class: "evonb-button", textContent: "▶",
                                  data: { play: control.name } });
  const label = (on) => {
    button.textContent = on ? "⏸" : "▶";
    button.setAttribute("aria-label", `${on ? "Pause" : "Play"}: ${control.label}`);
    button.setAttribute("aria-pressed", on);
  };
  button.addEventListener("click", () => label(player(control)));
  label(false);
  return button;
}

/** A checkbox. */
function toggleControl(control, id, set) {
  const input = make("input", { type: "checkbox", id, data: { control: control.name } });
  input.addEventListener("change", () => set(input.checked));
  const show = (place) => { input.checked = control.options[place]?.[0] === true; input.dataset.value = input.checked; };
  return { node: make("label", { class: "evonb-control evonb-inline" }, input, control.label), show };
}

/** A button that Python answers to. */
function buttonControl(control, id, press) {
  const input = make("button", { type: "button", id, class: "evonb-button", textContent: control.label,
                                 data: { control: control.name } });
  input.addEventListener("click", () => press(control.name));
  return { node: input, show() {} };
}

/** The controls that are rarely moved, behind a button that says how many of them were. */
function moreControls(id, controls) {
  const box = make("div", { class: "evonb-more", id, hidden: true }, ...controls.map((c) => c.node));
  const button = make("button", { type: "button", class: "evonb-button evonb-more-button" });
  button.setAttribute("aria-controls", id);
  const open = (on) => { box.hidden = !on; button.setAttribute("aria-expanded", on); };
  button.addEventListener("click", () => open(box.hidden));
  open(false);
  return { button, box, say(moved) { button.textContent = moved ? `More (${moved} moved)` : "More"; } };
}

/** A line to write in; Enter sends it to Python. */
function textControl(control, id, send) {
  const input = make("input", { type: "text", id, maxLength: 2000, data: { control: control.name }, autocomplete: "off" });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    event.stopPropagation();
    send(control.name, input.value);
  });
  const node = make("label", { class: "evonb-control evonb-writing" }, control.label, input);
  return { node, show() {} };
}

const controlKinds = { choice: selectControl, slider: sliderControl, toggle: toggleControl };

/** Whether a control has a value; buttons and lines to write in only tell Python something. */
const hasValue = (control) => control.kind !== "button" && control.kind !== "text";

/* -- Views ------------------------------------------------------------------------------------------------------- */

/** One view's frame: title, message, picture and note; and what its kind may use. */
function makeHost(view, explorer) {
  const picture = make("div", { class: "evonb-picture" }), alert = make("div", { class: "evonb-alert", hidden: true });
  const note = make("p", { class: "evonb-note", role: "status" });
  alert.setAttribute("role", "alert");
  const section = make("section", { class: `evonb-view${view.width > 1 ? " evonb-wide" : ""}`,
                                    data: { view: view.name, state: "loading" } });
  section.setAttribute("aria-label", view.title);
  let redrawing = 0;
  section.append(make("p", { class: "evonb-view-title", textContent: view.title }), alert, picture, note);
  return {
    root: picture, section, view, height: view.height,
    values: explorer.values, set: explorer.set, dark: explorer.dark, plotly: explorer.plotly, disable: explorer.disable,
    live: explorer.live,
    say(text) { if (note.textContent !== text) note.textContent = text; },
    state(state, message = "") {
      if (section.dataset.state === "empty") note.textContent = "";
      section.dataset.state = state;
      section.setAttribute("aria-busy", state === "loading");
      alert.hidden = state !== "error";
      picture.hidden = state === "error" || state === "empty";
      if (state === "empty") note.textContent = message;
      else if (alert.textContent !== message) alert.textContent = message;
    },
    /** While what is shown is drawn again (another size, another look), its section says `data-redrawing`. */
    async redrawn(done) {
      section.dataset.redrawing = ++redrawing;
      try { await done; } finally { if (!(section.dataset.redrawing = --redrawing)) delete section.dataset.redrawing; }
    },
    click(detail) {
      explorer.click({ view: view.name, ...detail });
      for (const [name, field] of Object.entries(view.click)) {
        if (detail[field] != null) explorer.set(name, detail[field]); // a line has no key
      }
    },
    save(blob, filename) {
      const url = URL.createObjectURL(blob), link = make("a", { href: url, download: filename });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    },
  };
}

/** Replies by request, the latest used kept, up to about 96 MB. */
function makeCache(limit = 96e6) {
  const kept = new Map();
  let held = 0;
  const size = (reply) => reply.arrays.reduce((n, a) => n + a.byteLength, 1000);
  return {
    get(key) {
      const reply = kept.get(key);
      if (reply) { kept.delete(key); kept.set(key, reply); }
      return reply;
    },
    put(key, reply) {
      kept.set(key, reply);
      held += size(reply);
      for (const [old, gone] of kept) {
        if (held <= limit || old === key) break;
        kept.delete(old);
        held -= size(gone);
      }
    },
    clear() { kept.clear(); held = 0; },
  };
}

/** Keep one view up to date: one request at a time, always going on to the newest values. */
function runView(host, painter, link, cache) {
  const { view } = host;
  let wanted = null, shown = null, styled = null, busy = false;
  const pick = (names) => Object.fromEntries(names.map((n) => [n, host.values()[n]]));
  const fetchReply = async (key, values) => {
    const known = cache.get(key);
    if (known) return known;
    const late = link.live && setTimeout(() => host.say("Waiting for Python: it may be busy with a cell, or gone."), patience);
    try {
      const reply = await link.ask(view.name, values);
      if (late) host.say("");
      cache.put(key, reply);
      return reply;
    } finally { clearTimeout(late); }
  };
  const work = async () => {
    busy = true;
    while (wanted !== shown) {
      const key = wanted;
      host.state("loading");
      try {
        const reply = await fetchReply(key, pick(view.needs)), style = JSON.stringify(pick(view.uses));
        await painter.draw(reply, host.values());
        host.disable(reply.content?.disabled);
        styled = style;
        host.state("ready");
      } catch (error) { host.state(error.nothing ? "empty" : "error", error.message); }
      shown = key;
    }
    busy = false;
    self.update(); // what only drawing looks at may have moved meanwhile
  };
  const self = {
    host, painter,
    idle: () => !busy,
    update() {
      if (host.section.closest("[hidden]")) { // of a tab that isn't open
        if (shown === null) host.section.dataset.state = "asleep";
        return;
      }
      wanted = JSON.stringify([view.name, pick(view.needs)]);
      if (wanted !== shown) { if (!busy) work(); return; }
      const style = JSON.stringify(pick(view.uses));
      if (style !== styled && host.section.dataset.state === "ready") {
        styled = style;
        host.redrawn(painter.restyle?.(host.values()));
      }
    },
    again() { shown = null; self.update(); },
    async push(reply) {
      cache.clear(); // what is pushed changes: what was answered before is out of date
      try { await painter.draw(reply, host.values()); host.disable(reply.content?.disabled); host.state("ready"); shown = wanted; }
      catch (error) { host.state(error.nothing ? "empty" : "error", error.message); }
    },
  };
  return self;
}

/* -- Views that every explorer may use --------------------------------------------------------------------------- */

/** The words of a plotly text, which is written in a little HTML; nothing in it is loaded or run. */
function plainWords(text) {
  const parsed = new DOMParser().parseFromString(String(text ?? "").replace(/<br\s*\/?>/g, " · "), "text/html");
  return parsed.body.textContent;
}

/** A plotly layout with the page's text colour; its title goes, since the view has one, and gives its room back. */
function dressLayout(layout, dark) {
  const text = dark ? "#c9d1d9" : "#4a525c", template = layout.template ?? {};
  const font = { ...(template.layout?.font ?? {}), ...(layout.font ?? {}), color: text };
  const margin = { ...(template.layout?.margin ?? {}), ...(layout.margin ?? {}) };
  const lines = layout.title?.subtitle?.text?.split("<br>").length ?? 0; // each made the margin 17 px higher
  if (margin.t > 60) margin.t = Math.max(24, margin.t - (lines ? 33 + 17 * lines : 34));
  return { ...layout, font, margin, title: undefined, autosize: true, width: undefined };
}

/** The JSON-able part of a click in a plotly figure. */
function plotlyPoint(point) {
  const key = point.customdata instanceof Object ? Array.from(point.customdata) : point.customdata ?? null;
  const parts = Array.isArray(key) ? Object.fromEntries(key.map((part, i) => [`key${i}`, part])) : {}; // for View.click
  return { x: point.x, y: point.y, name: point.data?.name, curve: point.curveNumber, point: point.pointIndex ?? point.pointNumber,
           key, ...parts };
}

kinds.plotly = (host) => {
  const div = make("div", { class: "evonb-plotly" });
  div.setAttribute("role", "figure");
  div.setAttribute("aria-label", host.view.description || host.view.title);
  const how = make("p", { class: "evonb-how" });
  host.root.append(how, div);
  let Plotly, figure;
  const paint = async () => {
    const layout = dressLayout(figure.layout, host.dark());
    await drawPlotly(div, { data: figure.data, layout }, { responsive: false });
  };
  const bind = () => {
    div.evonbBound = true;
    div.on("plotly_click", (event) => host.click(plotlyPoint(event.points[0])));
  };
  return {
    async draw(reply) {
      Plotly = await host.plotly();
      figure = JSON.parse(asText(reply.arrays[0]));
      how.textContent = plainWords(figure.layout.title?.subtitle?.text);
      await paint();
      if (!div.evonbBound) bind();
    },
    restyle() { return figure && paint(); },
    resize() { return figure && Plotly.Plots.resize(div); },
    destroy() { Plotly?.purge(div); },
  };
};

kinds.table = (host) => {
  const box = make("div", { class: "evonb-scroll", tabIndex: 0 });
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", host.view.description || host.view.title);
  host.root.append(box);
  /** A long name is cut by the page, and stands in full in its title. */
  const named = (text) => (typeof text === "string" && text.length > 40 && !/\s/.test(text) ? { class: "evonb-name", title: text } : {});
  const cell = (value) => {
    const number = typeof value === "number" || /^[−-]?[\d.,]+( ?%)?$/.test(value ?? "");
    return make("td", { class: number ? "evonb-number" : "", textContent: value ?? "", ...named(value) });
  };
  return {
    draw({ content: { columns, rows, note, picked } }) {
      const head = make("tr", {}, ...columns.map((c) => make("th", { scope: "col", textContent: c, ...named(c) })));
      const body = rows.map((row, i) => {
        const line = make("tr", { class: i === picked ? "evonb-picked" : "" }, ...row.map(cell));
        line.addEventListener("click", () => host.click({ row: i, key: row[0] }));
        return line;
      });
      const letters = columns.reduce((n, c) => n + Math.max(...String(c).split(/\s+/).map((word) => word.length)), 0);
      const table = make("table", { class: `evonb-table${letters > 90 ? " evonb-tight" : ""}` });
      if (note) table.append(make("caption", { textContent: note }));
      table.append(make("thead", {}, head), make("tbody", {}, ...body));
      box.replaceChildren(table);
    },
  };
};

kinds.text = (host) => ({
  draw({ content: { text } }) {
    host.root.replaceChildren(...text.split(/\n\n+/).map((t) => make("p", { class: "evonb-text", textContent: t })));
  },
});

/** What is to be read first, in larger letters and without a title. */
kinds.sentence = (host) => {
  const box = make("div", { class: "evonb-said" });
  host.root.append(box);
  host.section.classList.add("evonb-untitled");
  return {
    draw({ content: { text } }) {
      box.replaceChildren(...text.split(/\n\n+/).map((t) => make("p", { textContent: t })));
    },
  };
};

/* -- Tabs, and ways to hand on what is seen -------------------------------------------------------------------------- */

/** The views that are always there, then those of tabs: one panel each, of which one is open; arrows move along. */
function makeTabs(prefix, spec, views, opened, first) {
  const grid = (shown) => make("div", { class: "evonb-views" }, ...shown.map((v) => v.host.section));
  const names = [...new Set(spec.views.map((v) => v.tab).filter(Boolean))], of = (name) => views.filter((v) => (v.host.view.tab ?? "") === name);
  if (!names.length) return { nodes: [grid(views)], open() {} };
  const id = (i, what) => `${prefix}-${what}-${i}`;
  const panels = names.map((name, i) => {
    const panel = make("div", { class: "evonb-tabpanel", role: "tabpanel", id: id(i, "panel"), data: { tab: name } }, grid(of(name)));
    panel.setAttribute("aria-labelledby", id(i, "tab"));
    return panel;
  });
  const buttons = names.map((name, i) => {
    const button = make("button", { type: "button", class: "evonb-tab", role: "tab", id: id(i, "tab"), textContent: name, data: { tab: name } });
    button.setAttribute("aria-controls", id(i, "panel"));
    button.addEventListener("click", () => open(name));
    return button;
  });
  const open = (name, quiet) => {
    if (!names.includes(name)) return;
    names.forEach((n, i) => {
      panels[i].hidden = n !== name;
      buttons[i].setAttribute("aria-selected", n === name);
      buttons[i].tabIndex = n === name ? 0 : -1;
    });
    if (!quiet) opened(name);
  };
  const list = make("div", { class: "evonb-tabs", role: "tablist" }, ...buttons);
  list.setAttribute("aria-label", `More of: ${spec.title}`);
  list.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(event.target), n = names.length;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + n, Home: 0, End: n - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    open(names[to % n]);
    buttons[to % n].focus();
  });
  open(names.includes(first) ? first : names[0], true);
  return { nodes: [grid(of("")), list, ...panels], open };
}

/** A value as Python writes it. */
function asPython(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "number" ? String(value) : JSON.stringify(value);
}

/** Python that opens the explorer and moves its controls to where they stand. */
function stateCode(spec, values) {
  const set = spec.controls.filter(hasValue).map((c) => `${c.name}=${asPython(values[c.name])}`);
  return `${spec.code}${set.length ? `.set(${set.join(", ")})` : ""}`;
}

/** Put text on the clipboard, in whichever way this page may; false where it may not. */
async function copyText(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed here: the old way */ }
  const area = make("textarea", { value: text, readOnly: true });
  area.style.cssText = "position: fixed; opacity: 0";
  document.body.append(area);
  area.select();
  try { return document.execCommand("copy"); } catch { return false; } finally { area.remove(); }
}

/** Buttons that copy a link to this state, where the address says it, and the code that shows it. */
function shareTools(spec, link) {
  const box = make("span", { class: "evonb-share" }), said = make("output", { class: "evonb-share-said" });
  const add = (name, label, text) => {
    const button = make("button", { type: "button", class: "evonb-button", textContent: label, data: { share: name } });
    button.addEventListener("click", async () => {
      const copied = text(), done = await copyText(copied);
      button.dataset.copied = copied;
      said.textContent = done ? "Copied." : `Copy it from here: ${copied}`;
      setTimeout(() => { if (done) said.textContent = ""; }, 4000);
    });
    box.append(button);
  };
  if (link.address) add("link", "Copy link", link.address);
  if (spec.code) add("code", "Copy code", () => stateCode(spec, link.values()));
  if (box.childElementCount) box.append(said);
  return box;
}

/** Keep the page's address in step with the controls of a stored explorer, and follow it when it is changed. */
function followAddress(link) {
  const { spec } = link, moving = spec.controls.filter(hasValue), first = { ...link.values() };
  const firstTab = spec.views.map((v) => v.tab).find(Boolean);
  let draw = () => {}, openTab = () => {};
  const read = () => {
    const told = new URLSearchParams(location.hash.slice(1)), values = { ...first };
    for (const control of moving) {
      const found = control.options.find(([v]) => told.has(control.name) && String(v) === told.get(control.name));
      if (found) values[control.name] = found[0];
    }
    return { values, tab: told.get("tab") ?? firstTab };
  };
  const write = () => {
    const values = link.values(), told = new URLSearchParams();
    for (const c of moving) if (values[c.name] !== first[c.name]) told.set(c.name, String(values[c.name]));
    if (link.tab && link.tab !== firstTab) told.set("tab", link.tab);
    const hash = told.size ? `#${told}` : "";
    if (hash !== location.hash) history.replaceState(null, "", location.href.split("#")[0] + hash);
  };
  const { setValues, onValues } = link, begun = read();
  link.tab = begun.tab;
  setValues(begun.values);
  link.setValues = (values) => { setValues(values); write(); };
  link.onValues = (heard) => { draw = heard; return onValues(heard); };
  link.onTab = (open) => { openTab = open; };
  link.moved = write;
  link.address = () => { write(); return location.href; };
  addEventListener("hashchange", () => {
    const { values, tab } = read();
    setValues(values);
    openTab(tab);
    draw();
  });
}

/* -- The explorer ------------------------------------------------------------------------------------------------ */

/** Call `changed` when the page turns dark or light; returns how to stop. */
function watchTheme(changed) {
  const observer = new MutationObserver(changed), media = matchMedia("(prefers-color-scheme: dark)");
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, { attributes: true, attributeFilter: ["class", "data-theme", "data-jp-theme-light", "data-jp-theme-name"] });
  }
  media.addEventListener("change", changed);
  return () => { observer.disconnect(); media.removeEventListener("change", changed); };
}

/** Moves sliders on while they play. */
function makePlayer(link, set, idle) {
  const timers = new Map();
  const step = (control) => {
    if (!idle()) return;
    const at = control.options.findIndex(([v]) => v === link.values()[control.name]);
    set(control.name, control.options[(at + 1) % control.options.length][0]);
  };
  const toggle = (control) => {
    if (timers.has(control.name)) { clearInterval(timers.get(control.name)); timers.delete(control.name); return false; }
    timers.set(control.name, setInterval(() => step(control), 900));
    return true;
  };
  return { toggle, stop: () => timers.forEach((timer) => clearInterval(timer)) };
}

/** Draw an explorer into `root`; returns how to take it away. */
function mount(root, link) {
  const { spec } = link, cache = makeCache(), prefix = `evonb-${Math.random().toString(36).slice(2)}`;
  const lacking = missingParts();
  const box = make("div", { class: "evonb-explorer", role: "group" });
  box.setAttribute("aria-label", spec.title);
  // JupyterLab would take arrows and letters as its commands, unless the focused element itself says not to.
  box.addEventListener("focusin", (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));
  box.append(make("p", { class: "evonb-title", textContent: spec.title }));
  if (spec.subtitle) box.append(make("p", { class: "evonb-subtitle", textContent: spec.subtitle }));
  root.replaceChildren(box);
  if (lacking.length) {
    const text = `This browser lacks ${lacking.join(" and ")}, which the explorer needs. Open it in a current browser (Chrome or Edge 103, Firefox 113, Safari 16.4, or later).`;
    box.append(make("div", { class: "evonb-alert", role: "alert", textContent: text }));
    return () => root.replaceChildren();
  }
  const set = (name, value) => {
    const control = spec.controls.find((c) => c.name === name);
    if (!control?.options.some(([v]) => v === value)) return; // a click on what no control can show
    link.setValues({ ...link.values(), [name]: value });
    update();
  };
  const disable = (names) => controls.forEach(({ node }, i) => {
    if (names && shown[i].kind === "button") node.disabled = names.includes(shown[i].name);
  });
  const explorer = { values: link.values, set, dark: () => isDark(root), plotly: link.plotly, click: link.click, disable, live: link.live };
  const views = spec.views.map((view) => {
    const host = makeHost(view, explorer);
    return runView(host, kinds[view.kind](host), link, cache);
  });
  const player = makePlayer(link, set, () => views.every((v) => v.idle()));
  const shown = spec.controls.filter((c) => hasValue(c) || link.live);
  const press = (name) => { link.press(name); views.forEach((v) => v.painter.pressed?.(name)); };
  const controls = shown.map((control) => {
    const id = `${prefix}-${control.name}`;
    if (control.kind === "button") return buttonControl(control, id, press);
    if (control.kind === "text") return textControl(control, id, link.type);
    return controlKinds[control.kind](control, id, (value) => set(control.name, value), player.toggle);
  });
  const rare = shown.map((control) => control.more === true);
  const more = moreControls(`${prefix}-more`, controls.filter((_, i) => rare[i]));
  const form = make("form", { class: "evonb-controls" }, ...controls.filter((_, i) => !rare[i]).map((c) => c.node));
  if (rare.includes(true)) form.append(more.button);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.setAttribute("aria-label", `Controls of: ${spec.title}`);
  const share = shareTools(spec, link);
  if (share.childElementCount) form.append(share);
  if (rare.includes(true)) form.append(more.box);
  const tabs = makeTabs(prefix, spec, views, (name) => {
    if (link.tab !== name) { link.tab = name; link.moved?.(); }
    update();
    fit();
  }, link.tab);
  box.append(form, ...tabs.nodes);
  const update = () => {
    controls.forEach((c, i) => {
      if (hasValue(shown[i])) c.show(shown[i].options.findIndex(([v]) => v === link.values()[shown[i].name]), link.values());
    });
    more.say(shown.filter((c, i) => rare[i] && hasValue(c) && link.values()[c.name] !== c.value).length);
    views.forEach((v) => v.update());
  };
  const dress = () => {
    const dark = isDark(root);
    if (box.classList.contains("evonb-dark") === dark) return;
    box.classList.toggle("evonb-dark", dark);
    views.forEach((v) => { if (v.host.section.dataset.state === "ready") v.host.redrawn(v.painter.restyle?.(link.values())); });
  };
  const fit = () => views.forEach((v) => { if (v.host.root.clientWidth) v.host.redrawn(v.painter.resize?.()); });
  link.onPush((name, reply) => views.find((v) => v.host.view.name === name)?.push(reply),
              () => { cache.clear(); views.forEach((v) => v.again()); });
  link.onTab?.((name) => tabs.open(name));
  const forget = link.onValues(update), unwatch = watchTheme(dress);
  const sizes = new ResizeObserver(() => { // its first call comes when the explorer is in the page: only then its colours are known
    dress();
    fit();
  });
  root.addEventListener("evonb-dress", () => { dress(); fit(); });
  sizes.observe(box);
  box.classList.toggle("evonb-dark", isDark(root));
  update();
  return () => {
    player.stop(); sizes.disconnect(); forget(); unwatch(); link.close();
    views.forEach((v) => v.painter.destroy?.());
  };
}

const patience = 8000; // ms without a word from Python, after which an explorer says so

/** Show the explorer that Python opened for this one below it; the one before goes. */
function below(model, el) {
  if (model.get("opened") === undefined) return () => {};
  const box = make("div", { class: "evonb-below" });
  let view = null;
  const show = async () => {
    const id = model.get("opened");
    if (!id) return;
    const { widget_manager: manager } = model;
    try {
      const made = await manager.create_view(await manager.get_model(id));
      view?.remove();
      view = made;
      box.replaceChildren(view.el);
      box.scrollIntoView({ block: "nearest" });
    } catch { box.textContent = "What was opened here is gone with its Python. Open it again."; }
  };
  el.append(box);
  model.on("change:opened", show);
  show();
  return () => { model.off("change:opened", show); view?.remove(); };
}

/** The widget's face: called by anywidget for each place where it is shown. What the notebook keeps beside it is hidden
 *  while Python answers: a page may hold this widget long after its Python is gone. */
function render({ model, el }) {
  const kept = `.evonb-still[data-explorer="${model.get("_spec").still}"]`, hidden = document.createElement("style");
  hidden.textContent = `${kept} { display: none; }`;
  document.head.append(hidden);
  const link = kernelLink(model), late = setTimeout(() => hidden.remove(), patience);
  link.onAnswer(() => { clearTimeout(late); if (!hidden.isConnected) document.head.append(hidden); });
  const away = mount(el, link), opened = below(model, el);
  return () => { clearTimeout(late); opened(); link.onAnswer(() => {}); hidden.remove(); away(); };
}

/** Call `start` when the element `id` is first seen. */
function whenSeen(id, start) {
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    start();
  }, { rootMargin: "1000px" });
  seen.observe(document.getElementById(id));
}

/** Draw the explorer whose replies stand in the page's element `ID-data`; it can be printed. When it is `alone`, the
 *  page's address says where its controls stand. */
function mountStored(id, alone = false) {
  const data = JSON.parse(document.getElementById(`${id}-data`).textContent), root = document.getElementById(id);
  const link = storedLink(data);
  if (alone) followAddress(link);
  mount(root, link);
  const again = () => root.dispatchEvent(new Event("evonb-dress"));
  const narrow = () => {
    root.classList.add("evonb-paper");
    again();
    return () => { root.classList.remove("evonb-paper"); again(); };
  };
  onPaper(narrow, figuresOnPaper);
}
