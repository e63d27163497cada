/* Extracts for what the search found, from texts.js: the same from disk as from a server. */
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false; // Sphinx's own would fetch every page

const AROUND = 130; // characters before and after the first word found

/** Where in a text a query's words stand: [from, to, word], in order. A word is found by its beginning, as it is
 *  indexed, and marked whole. */
function wordsIn(text, words) {
  const escaped = words.map((w) => `(${w.replace(/[.*+\-?^${}()|[\]\\]/g, "\\$&")})`);
  const found = text.matchAll(new RegExp(`(?:${escaped.join("|")})[\\p{L}\\p{N}_]*`, "giu"));
  return [...found].map((m) => [m.index, m.index + m[0].length, m.slice(1).findIndex((x) => x !== undefined)]);
}

/** The words of the query, and what they are indexed as where that is shorter. */
function wordsAsked() {
  const asked = new URLSearchParams(location.search).get("q") ?? "", stemmer = new Stemmer();
  const words = splitQuery(asked.toLowerCase().trim()).filter((w) => !stopwords.has(w) && w.length > 1);
  return [...new Set(words.map((w) => { const stem = stemmer.stemWord(w); return w.startsWith(stem) ? stem : w; }))];
}

/** The place of a page that holds most of the words, else its first; nothing where the page has no text. */
function bestPlace(places, words, anchor) {
  const here = places.filter(([id]) => !anchor || id === anchor);
  const scored = (here.length ? here : places).map(([id, text]) => {
    const low = text.toLowerCase();
    return { id, text, count: words.filter((w) => low.includes(w)).length };
  });
  const best = scored.reduce((a, b) => (b.count > a.count ? b : a), { count: 0 });
  return best.count ? best : scored[0]; // what was found may stand in a picture, of which there is no text
}

/** The stretch of a text that holds most of the words: where it starts. */
function startOf(found) {
  const within = found.map(([from]) => new Set(found.filter(([f]) => f >= from && f < from + 2 * AROUND).map(([,, w]) => w)).size);
  return found.length ? found[within.indexOf(Math.max(...within))][0] : 0;
}

/** A paragraph with the words marked. */
function extract({ text }, words) {
  const p = document.createElement("p"), start = Math.max(0, startOf(wordsIn(text, words)) - AROUND);
  const from = start ? text.indexOf(" ", start) + 1 : 0, end = Math.min(text.length, from + 3 * AROUND);
  const shown = text.slice(from, end);
  let at = 0;
  p.className = "context evonb-extract";
  if (from) p.append("… ");
  for (const [a, b] of wordsIn(shown, words)) {
    const mark = document.createElement("mark");
    mark.textContent = shown.slice(a, b);
    p.append(shown.slice(at, a), mark);
    at = b;
  }
  p.append(shown.slice(at), end < text.length ? " …" : "");
  return p;
}

/** Put an extract under a result; the link leads to the place that it is from. */
function addExtract(item, words) {
  const link = item.querySelector("a"), address = link?.getAttribute("href");
  if (!address || item.querySelector(".evonb-extract")) return;
  const [page, anchor] = address.split("#");
  const found = bestPlace(globalThis.evonbTexts?.[page.replace(/\.html$/, "")] ?? [], words, anchor);
  if (!found) return;
  if (!anchor && found.id) link.href = `${page}#${found.id}`;
  item.append(extract(found, words));
}

const evonbResults = document.getElementById("search-results");
if (evonbResults) {
  const words = wordsAsked();
  const all = () => words.length && evonbResults.querySelectorAll("ul.search > li").forEach((li) => addExtract(li, words));
  new MutationObserver(all).observe(evonbResults, { childList: true, subtree: true });
  all();
}
