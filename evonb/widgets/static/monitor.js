/* How far a job is: its state in a word, a bar, what is known in numbers, and what went wrong. */

/** A name and its value, side by side. */
function monitorFact([name, value]) {
  return make("div", { class: "evonb-fact" }, make("dt", { textContent: name }), make("dd", { textContent: value }));
}

/** Show a share of 1 in the bar; null: not known. */
function monitorFill(bar, inner, share) {
  const known = share !== null && share !== undefined, percent = known ? Math.floor(100 * share) : null;
  bar.classList.toggle("evonb-unknown", !known);
  inner.style.width = known ? `${100 * share}%` : "";
  if (known) bar.setAttribute("aria-valuenow", percent); else bar.removeAttribute("aria-valuenow");
  bar.setAttribute("aria-valuetext", known ? `${percent} %` : "not known");
}

kinds.progress = (host) => {
  const badge = make("span", { class: "evonb-badge" }), stage = make("span", { class: "evonb-stage" });
  const head = make("div", { class: "evonb-state" }, badge, stage), inner = make("div"), facts = make("dl", { class: "evonb-facts" });
  const bar = make("div", { class: "evonb-bar" }, inner), message = make("div", { class: "evonb-message" });
  head.setAttribute("role", "status");
  for (const [name, value] of Object.entries({ role: "progressbar", "aria-label": "Done", "aria-valuemin": 0, "aria-valuemax": 100 })) {
    bar.setAttribute(name, value);
  }
  host.root.append(head, bar, facts, message);
  let timer = null;
  const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  return {
    draw({ content }) {
      clearTimeout(timer);
      host.say(content.said ?? "");
      put(badge, content.words);
      put(stage, content.stage);
      Object.assign(host.root.dataset, { status: content.status, share: content.share ?? "" });
      monitorFill(bar, inner, content.share);
      facts.replaceChildren(...content.facts.map(monitorFact));
      message.classList.toggle("evonb-alert", Boolean(content.message) && content.status === "failed");
      if (content.status === "failed") message.setAttribute("role", "alert"); else message.removeAttribute("role");
      put(message, content.message);
    },
    pressed(name) {
      host.say(`${name === "stop" ? "Asked to stop" : "Asked to go on"} ...`);
      clearTimeout(timer);
      timer = setTimeout(() => host.say("Python hasn't answered: it may be busy with a cell, or gone. It answers when that " +
        "cell has ended; a cell that waits for this job stops it when it is interrupted."), 4000);
    },
  };
};
