// All that the page shows is in its JSON. Text goes in as text, never as HTML: captions are other people's.
// A section is made when it comes near the screen; plotly starts with the first chart.

const $ = (selector, within = document) => within.querySelector(selector);
const data = JSON.parse($("#data").textContent);
const { systems, runs, titles, rows } = data;
const ours = rows.filter((row) => !row.source);
const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8F98"]; // Okabe and Ito, less yellow
const DASHES = { solid: "solid", dash: "dashed", dot: "dotted" }; // plotly's names and CSS's
const nth = (list, place) => list[place % list.length];
const lineColour = (place) => nth(PALETTE, place);
const lineDash = (place) => nth(Object.keys(DASHES), Math.floor(place / PALETTE.length));
const SYMBOLS = { circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", cross: "✚", x: "✖", star: "★" };

// ---- small tools

function h(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A name that may break behind its signs.
const soft = (name) => String(name).split(/(?<=[_./=-])/).flatMap((part, place) => (place ? [h("wbr"), part] : [part]));
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const unique = (values) => [...new Set(values)];
const fixed = (value) => value.toFixed(3);
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
const isNumber = (value) => typeof value === "number";
const usual = (names, ...wanted) => wanted.find((name) => names.includes(name)) ?? names[0];
const NO_DIFFERENCE = "no difference shown";
const isDifferent = (row, name) => !row.verdicts[name].startsWith(NO_DIFFERENCE);
const runLabel = (run) => `${systems[run.system].name}, seed ${run.seed}`;

let controls = 0;
function labelled(label, control, kind) {
  control.id = `control-${++controls}`;
  return h("div", { class: kind }, h("label", { for: control.id }, label), control);
}

// A control's value is kept in `state[name]`; `update` is called when it changes.
function choose(label, state, name, options, update, kind = null) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, titles[option] ?? option]));
  const select = h("select", { onchange: () => { state[name] = select.value; update(); } },
    ...pairs.map(([value, text]) => h("option", { value, selected: String(value) === String(state[name]) }, String(text))));
  return labelled(label, select, kind);
}

function write(label, state, name, update) {
  const input = h("input", { type: "search", oninput: () => { state[name] = input.value.toLowerCase(); update(); } });
  return labelled(label, input, null);
}

function tick(label, state, name, update) {
  const input = h("input", { type: "checkbox", onchange: () => { state[name] = input.checked; update(); } });
  return labelled(label, input, "tick");
}

// ---- the table

function table(section) {
  const state = { text: "", encoder: "", decoder: "", column: data.sort, rising: data.rising.includes(data.sort) };
  const hidden = data.rows.every((row) => row.source || row.values.data === ours[0].values.data) ? ["data"] : [];
  const facts = ["encoder", "decoder", "data"];
  const names = Object.keys(titles).filter((name) => !facts.includes(name)).concat(facts.filter((name) => name in titles && !hidden.includes(name)));
  const best = Object.fromEntries(data.scores.map((name) => [name, Math.max(...rows.map((row) => row.values[name] ?? -Infinity))]));
  const heads = names.map((name) => h("th", { scope: "col" }, h("button", { type: "button", onclick: () => sort(name) }, titles[name])));
  const body = h("tbody");
  $("table", section).append(h("thead", {}, h("tr", {}, ...heads)), body);
  const all = rows.map((row) => [row, line(row)]);

  function line(row) {
    const tag = row.source ? "published" : row.values.system === data.baseline ? "baseline" : null;
    const head = h("th", { scope: "row" }, ...soft(row.values.system), tag ? h("div", {}, h("span", { class: "tag" }, tag)) : null);
    return h("tr", { class: tag }, head, ...names.slice(1).map((name) => cell(row, name)));
  }

  function cell(row, name) {
    if (!data.scores.includes(name)) return h("td", { class: isNumber(row.values[name]) ? null : "text" }, row.texts[name] ?? "–");
    if (!(name in row.values)) return h("td", {}, "–");
    const range = row.intervals[name], difference = row.differences[name];
    const isShown = difference && isDifferent(row, name);
    return h("td", { class: row.values[name] === best[name] ? "score best" : "score" }, row.texts[name],
      range ? h("small", { class: "range" }, `${fixed(range[0])} to ${fixed(range[1])}`) : null,
      difference ? h("small", { class: isShown ? "shown" : null, title: row.verdicts[name] },
        h("span", {}, isShown ? signed(difference.value) : NO_DIFFERENCE), ", ", h("span", {}, `p ${fixed(difference.p)}`)) : null);
  }

  function sort(name) {
    state.rising = state.column === name ? !state.rising : data.rising.includes(name);
    state.column = name;
    update();
  }

  function compare([one], [other]) {
    const [a, b] = [one.values[state.column], other.values[state.column]];
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const order = isNumber(a) && isNumber(b) ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return state.rising ? order : -order;
  }

  function update() {
    const fits = (row) => Object.values(row.texts).join(" ").toLowerCase().includes(state.text)
      && ["encoder", "decoder"].every((part) => !state[part] || row.values[part] === state[part]);
    const shown = [...all].sort(compare).filter(([row]) => fits(row));
    body.replaceChildren(...shown.map(([, element]) => element));
    heads.forEach((head, place) => {
      if (names[place] === state.column) head.setAttribute("aria-sort", state.rising ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    $(".count", section).textContent = `${shown.length} of ${plural(rows.length, "row")}`;
  }

  const parts = (part) => [["", "all"], ...unique(systems.map((system) => system[part])).map((name) => [name, name])];
  $(".controls", section).append(write("Search", state, "text", update),
    choose("Encoder", state, "encoder", parts("encoder"), update), choose("Decoder", state, "decoder", parts("decoder"), update));
  $(".sources", section).append(...rows.filter((row) => row.source).map((row) => h("li", {}, `${row.values.system}: ${row.source}`)));
  $("#against").textContent = data.baseline
    ? `Beneath these, the difference to ${data.baseline}; p-values are corrected over the systems (Holm).` : "";
  update();
}

// ---- bars with intervals, of scores, of differences, of importance

// `lines` are {label, value, text, low, high, kind}; all bars begin at zero, and `most` is on the scale.
function bars(title, lines, most = 0) {
  const ends = lines.flatMap((line) => [0, most, line.value, line.low ?? 0, line.high ?? 0]);
  const [from, to] = [Math.min(...ends), Math.max(...ends)];
  const at = (value) => 100 * (value - from) / ((to - from) || 1);
  const part = (kind, ...between) => {
    const [left, right] = between.map(at).sort((a, b) => a - b);
    return h("i", { class: kind, style: `left:${left}%;width:${right - left}%` });
  };
  const items = lines.map((line) => h("li", { class: line.kind ?? "" },
    h("div", { class: "label" }, h("span", {}, ...soft(line.label)), h("span", { class: "value" }, line.text)),
    h("div", { class: "track", "aria-hidden": "true" }, part("bar", 0, line.value), from < 0 ? part("zero", 0, 0) : null,
      line.low === undefined ? null : part("range", line.low, line.high))));
  return h("div", {}, h("h3", {}, title), h("ul", { class: "bars" }, ...items));
}

function scores(section) {
  const state = { what: "scores" };
  const shown = ["cider_d", "bleu1", "bleu2", "bleu3", "bleu4"].filter((name) => data.scores.includes(name));

  function ofScore(row, name) {
    const [low, high] = row.intervals[name] ?? [];
    const kind = row.source ? "is-published" : row.values.system === data.baseline ? "is-baseline" : "";
    const range = low === undefined ? "published" : `[${fixed(low)}, ${fixed(high)}]`;
    return { label: row.values.system, value: row.values[name], text: `${fixed(row.values[name])} ${range}`, low, high, kind };
  }

  function ofDifference(row, name) {
    const { value, low, high } = row.differences[name], isShown = isDifferent(row, name);
    return { label: row.values.system, value, low, high, kind: isShown ? "" : "not-shown", text: isShown ? signed(value) : NO_DIFFERENCE };
  }

  function update() {
    const [has, line] = state.what === "scores" ? ["values", ofScore] : ["differences", ofDifference];
    $(".panels", section).replaceChildren(...shown.map((name) =>
      bars(titles[name], rows.filter((row) => name in row[has]).map((row) => line(row, name)))));
  }

  if (data.baseline) {
    $(".controls", section).append(choose("Show", state, "what", [["scores", "scores"], ["differences", `differences to ${data.baseline}`]], update, "wide"));
  }
  update();
}

// ---- encoder x decoder

function grid(section) {
  const state = { score: usual(data.scores, "cider_d") };
  const [encoders, decoders] = ["encoder", "decoder"].map((part) => unique(systems.map((system) => system[part])));

  function update() {
    const cells = encoders.map((encoder) => decoders.map((decoder) => ours
      .filter((row) => row.values.encoder === encoder && row.values.decoder === decoder && state.score in row.values)
      .map((row) => row.values[state.score])));
    const means = cells.flat().filter((values) => values.length).map(mean);
    const [least, most] = [Math.min(...means), Math.max(...means)];
    const cell = (values) => {
      if (!values.length) return h("td", { class: "quiet" }, "–");
      const share = 100 * (mean(values) - least) / ((most - least) || 1);
      return h("td", { style: `background:color-mix(in srgb, var(--accent) ${8 + 0.9 * share}%, var(--paper));color:var(${share > 45 ? "--paper" : "--ink"})` },
        mean(values).toFixed(4), values.length > 1 ? h("small", { style: "color:inherit" }, `${values.length} systems`) : null);
    };
    $("table", section).replaceChildren(
      h("thead", {}, h("tr", {}, h("td"), ...decoders.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...encoders.map((name, place) => h("tr", {}, h("th", { scope: "row" }, ...soft(name)), ...cells[place].map(cell)))));
  }

  $(".controls", section).append(choose("Score", state, "score", data.scores, update));
  update();
}

// ---- charts: plotly, in the page's colours

const charts = new Map(); // element -> what draws it anew
const PAPER = 980; // pixels across a sheet of A4 on its side
const isPrinted = () => "printed" in document.documentElement.dataset;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // plotly reads some HTML

function draw(element, figure) {
  if (!window.Plotly) {
    document.head.append(h("script", {}, $("#plotly").textContent));
  }
  charts.set(element, figure);
  const { traces, layout } = figure();
  const axis = { gridcolor: colour("rule"), zerolinecolor: colour("rule"), linecolor: colour("rule"), automargin: true };
  const narrow = element.clientWidth < 560;
  window.Plotly.react(element, traces, {
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("ink") },
    width: isPrinted() ? PAPER : undefined, paper_bgcolor: colour("paper"), plot_bgcolor: colour("paper"), showlegend: false, margin: { l: 56, r: 16, t: 16, b: 48 }, hovermode: "closest",
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("rule"), font: { color: colour("ink") } },
    dragmode: narrow ? false : "zoom", ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, { responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
}

// `entries` are [sign or dash, colour, text].
function legend(section, entries) {
  $(".legend", section).replaceChildren(...entries.map(([sign, shade, text]) => h("li", {},
    DASHES[sign] ? h("i", { style: `border-top: 3px ${DASHES[sign]} ${shade}` }) : h("b", { style: `color:${shade}` }, sign), text)));
}

const redraw = () => charts.forEach((figure, element) => draw(element, figure));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function cost(section) {
  const state = { score: usual(data.scores, "cider_d"), cost: usual(data.costs, "latency_ms", "parameters") };
  const decoders = unique(systems.map((system) => system.decoder)), encoders = unique(systems.map((system) => system.encoder));

  const symbol = (encoder) => nth(Object.keys(SYMBOLS), encoders.indexOf(encoder));

  function figure() {
    const there = ours.filter((row) => state.score in row.values && state.cost in row.values);
    const [x, y] = [(row) => row.values[state.cost], (row) => row.values[state.score]];
    const front = [];
    for (const row of [...there].sort((a, b) => x(a) - x(b) || y(b) - y(a))) {
      if (!front.length || y(row) > y(front.at(-1))) front.push(row);
    }
    const points = decoders.map((decoder, place) => {
      const those = there.filter((row) => row.values.decoder === decoder);
      const range = (row, end) => Math.abs(row.intervals[state.score][end] - y(row));
      return {
        mode: "markers", x: those.map(x), y: those.map(y), text: those.map((row) => plain(row.values.system)),
        marker: { size: 11, color: nth(PALETTE, place), symbol: those.map((row) => symbol(row.values.encoder)) },
        error_y: { type: "data", array: those.map((row) => range(row, 1)), arrayminus: those.map((row) => range(row, 0)), thickness: 1, width: 3 },
        hovertemplate: "%{text}<br>%{y:.4f} at %{x:.4g}<extra></extra>",
      };
    });
    const line = { mode: "lines", x: front.map(x), y: front.map(y), line: { color: colour("quiet"), shape: "hv", dash: "dot", width: 1.5 }, hoverinfo: "skip" };
    $(".count", section).textContent = `On the front, the cheapest first: ${front.map((row) => row.values.system).join("; ")}.`;
    const costs = there.map(x), wide = Math.min(...costs) > 0 && Math.max(...costs) > 20 * Math.min(...costs);
    return {
      traces: [line, ...points],
      layout: { xaxis: { title: { text: titles[state.cost] }, type: wide ? "log" : "linear" }, yaxis: { title: { text: titles[state.score] } } },
    };
  }

  const update = () => draw($(".chart", section), figure);
  legend(section, [["dot", "var(--quiet)", "Pareto front"], ...decoders.map((name, place) => ["●", nth(PALETTE, place), name]),
    ...(encoders.length > 1 ? encoders.map((name) => [SYMBOLS[symbol(name)], "var(--quiet)", name]) : [])]);
  $(".controls", section).append(choose("Score", state, "score", data.scores, update), choose("Cost", state, "cost", data.costs, update));
  update();
}

function curves(section) {
  const along = ["epoch", "step", "seconds"];
  $(".count", section).textContent = runs.filter((run) => run.unread).map((run) => `${run.name}: ${run.unread}.`).join(" ");
  const metrics = unique(runs.flatMap((run) => Object.keys(run.metrics))).filter((name) => !along.includes(name));
  const state = { metric: usual(metrics, "val/bleu4", "val/loss"), along: "epoch", system: "" };

  function figure() {
    const traces = runs.filter((run) => state.metric in run.metrics).map((run) => {
      const quiet = state.system !== "" && String(run.system) !== state.system;
      return {
        x: run.metrics[state.along], y: run.metrics[state.metric], mode: "lines+markers", marker: { size: 4 }, opacity: quiet ? 0.15 : 1,
        line: { width: 2, color: lineColour(run.system), dash: lineDash(run.system) },
        text: plain(runLabel(run)), hovertemplate: "%{text}<br>%{y:.4f} at %{x}<extra></extra>",
      };
    });
    const few = state.along === "epoch" && traces.every((trace) => trace.x.length <= 12);
    return { traces, layout: { xaxis: { title: { text: state.along }, dtick: few ? 1 : undefined }, yaxis: { title: { text: state.metric } } } };
  }

  const update = () => draw($(".chart", section), figure);
  legend(section, systems.map((system, place) => [lineDash(place), lineColour(place), system.name]));
  $(".controls", section).append(choose("Metric", state, "metric", metrics, update), choose("Along", state, "along", along, update),
    choose("Highlight", state, "system", [["", "all systems"], ...systems.map((system, place) => [place, system.name])], update, "wide"));
  update();
}

// ---- the settings of a sweep

const DECADES = Array.from({ length: 17 }, (_, place) => place - 10).flatMap((power) => [1, 2, 5].map((value) => value * 10 ** power));

function sweep(section) {
  const { importance } = data;
  const scored = Object.keys(importance);
  const state = { score: usual(scored, "cider_d") };
  const label = (name) => name.replace(/^model\./, "");
  const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

  function axis(name) {
    const found = runs.map((run) => run.settings[name] ?? null);
    const numbers = found.every(isNumber);
    const levels = unique(found.map((value) => JSON.stringify(value)));
    if (!numbers) {
      const names = levels.map((level) => plain(cut(String(JSON.parse(level) ?? "none"), 30)));
      return { label: plain(label(name)), values: found.map((value) => levels.indexOf(JSON.stringify(value))), tickvals: levels.map((_, place) => place), ticktext: names, range: [-0.2, levels.length - 0.8] };
    }
    const wide = Math.min(...found) > 0 && Math.max(...found) >= 20 * Math.min(...found);
    const scale = wide ? Math.log10 : Number;
    const ticks = unique(found).length <= 8 ? unique(found) : wide ? DECADES.filter((value) => value >= Math.min(...found) && value <= Math.max(...found)) : null;
    return { label: plain(label(name)), values: found.map(scale), ...(ticks ? { tickvals: ticks.map(scale), ticktext: ticks.map((value) => String(+value.toPrecision(4))) } : {}) };
  }

  function figure() {
    const scoresOf = runs.map((run) => run.scores[state.score]);
    const shown = importance[state.score].map((each) => each.settings[0]).slice(0, 8);
    const axes = shown.map(axis);
    const left = 30 + 7 * Math.max(8, ...(axes[0]?.ticktext ?? []).map((text) => text.length));
    const wide = 60 + 7 * Math.max(10, ...axes.flatMap((each) => each.ticktext ?? []).map((text) => text.length));
    const line = { color: scoresOf, colorscale: [[0, "#E69F00"], [0.5, colour("quiet")], [1, colour("accent")]] };
    return {
      traces: [{
        type: "parcoords", line, labelfont: { size: 12 }, tickfont: { size: 11 }, rangefont: { size: 10, color: "rgba(0,0,0,0)" },
        unselected: { line: { color: colour("rule"), opacity: 0.5 } },
        dimensions: [...axes, { label: titles[state.score], values: scoresOf }],
      }],
      layout: { margin: { l: left, r: 60, t: 48, b: 24 }, width: isPrinted() ? PAPER : Math.max($(".scroll", section).clientWidth, left + 60 + wide * shown.length) },
    };
  }

  function update() {
    draw($(".chart", section), figure);
    const lines = importance[state.score].map(({ settings, share }) => ({
      label: settings.slice(0, 3).map(label).join(", ") + (settings.length > 3 ? ` and ${settings.length - 3} more, always together` : settings.length > 1 ? " (always together)" : ""),
      value: share ?? 0, text: share === null ? "cannot be said" : `${Math.round(100 * share)} %`,
    }));
    $(".panels", section).replaceChildren(bars(`What settings explain of ${titles[state.score]}`, lines, 1));
  }

  $(".controls", section).append(choose("Score", state, "score", scored, update));
  update();
}

// ---- captions

const pictures = (() => { let all; return () => (all ??= JSON.parse($("#pictures").textContent)); })();
const words = (text) => text.toLowerCase().match(/[\p{L}\p{N}']+/gu) ?? [];

function captions(section) {
  const { images, references, without } = data.gallery;
  const told = runs.filter((run) => run.told);
  const shownSystems = unique(told.map((run) => run.system));
  const names = Object.keys(told[0].told.scores).filter((name) => told.every((run) => name in run.told.scores));
  const pairs = shownSystems.map((system) => [system, systems[system].name]);
  const base = shownSystems.find((system) => systems[system].name === data.baseline && system !== shownSystems[0]);
  const state = { score: usual(names, "cider_d"), one: shownSystems[0], other: base ?? shownSystems[1] ?? shownSystems[0], order: shownSystems.length > 1 ? "apart" : "worst", text: "", all: false, count: 0 };
  const ORDERS = [["apart", "differ most"], ["one", "first is ahead"], ["other", "second is ahead"], ["worst", "worst first"], ["best", "best first"], ["name", "by name"]];
  const text = images.map((image, place) => [image, ...references[place], ...told.map((run) => run.told.captions[place])].join("\n").toLowerCase());
  let found = [];

  const score = (system, place) => mean(told.filter((run) => run.system === Number(system)).map((run) => run.told.scores[state.score][place]));
  const shownRuns = () => told.filter((run) => state.all || [Number(state.one), Number(state.other)].includes(run.system));

  function search() {
    const ahead = images.map((_, place) => score(state.one, place) - score(state.other, place));
    const level = images.map((_, place) => mean(shownRuns().map((run) => run.told.scores[state.score][place])));
    const by = {
      apart: (place) => Math.abs(ahead[place]), one: (place) => ahead[place], other: (place) => -ahead[place],
      worst: (place) => -level[place], best: (place) => level[place], name: (place) => -place,
    }[state.order];
    const differs = ["apart", "one", "other"].includes(state.order);
    found = images.map((_, place) => place).filter((place) => text[place].includes(state.text) && (!differs || by(place) > 0)).sort((a, b) => by(b) - by(a));
    state.count = 0;
    $(".cards", section).replaceChildren();
    more();
  }

  function more() {
    const next = found.slice(state.count, state.count + 10).map(card);
    state.count += next.length;
    $(".cards", section).append(...next);
    $(".more", section).hidden = state.count >= found.length;
    $(".count", section).textContent = `${state.count} of ${plural(found.length, "image")}`;
    return next;
  }

  function card(place) {
    const known = new Set(references[place].flatMap(words)), picture = pictures()[images[place]];
    const lines = shownRuns().map((run) => ({ run, value: run.told.scores[state.score][place], caption: run.told.captions[place] }));
    const [least, most] = [Math.min, Math.max].map((end) => end(...lines.map((line) => line.value)));
    const shown = picture ? h("div", {}, h("img", { src: picture, alt: "", decoding: "async" }), h("h3", {}, images[place])) : null;
    return h("article", { class: picture ? "card" : "card bare", tabindex: "-1" }, shown,
      h("div", {}, picture ? null : h("h3", {}, images[place]),
        h("ul", { class: "references", "aria-label": "References" }, ...references[place].map((reference) => h("li", {}, reference)))),
      h("ul", { class: "told", "aria-label": "Captions" }, ...lines.map(({ run, value, caption }) => h("li", { class: value === most && most > least ? "most" : null },
        h("span", { class: "number" }, value.toFixed(2)), marked(caption, known), h("span", { class: "who" }, runLabel(run))))));
  }

  function marked(caption, known) {
    if (!caption) return h("span", { class: "quiet" }, "(no words)");
    return h("span", {}, ...caption.split(/(\s+)/).map((word) =>
      (words(word).length && !words(word).some((each) => known.has(each)) ? h("span", { class: "alone" }, word) : word)));
  }

  const two = shownSystems.length > 1;
  $(".controls", section).append(write("Search", state, "text", search), choose("Score", state, "score", names, search));
  if (two) $(".controls", section).append(choose("First", state, "one", pairs, search, "wide"), choose("Second", state, "other", pairs, search, "wide"));
  $(".controls", section).append(choose("Order", state, "order", two ? ORDERS : ORDERS.slice(3), search));
  if (two) $(".controls", section).append(tick("all systems", state, "all", search));
  $(".more", section).addEventListener("click", () => more()[0]?.focus());
  const notes = [];
  if (images.length < data.images) notes.push(`These are ${images.length} of ${plural(data.images, "image")}, drawn by a seed.`);
  if (told.length < runs.length) notes.push(`These are the ${told.length} runs with the best CIDEr-D, of ${runs.length}.`);
  if (without) notes.push(`Pictures are not shown: ${without}`);
  $("#missing").textContent = notes.join(" ");
  search();
}

// ---- attention

const looked = (() => { let all; return () => (all ??= JSON.parse($("#looked").textContent)); })();

function attention(section) {
  const byName = Object.fromEntries(runs.map((run) => [run.name, run]));
  const state = { image: "" };
  const images = unique(looked().map((each) => each.image));

  function update() {
    $(".cards", section).replaceChildren(...looked().filter((each) => !state.image || each.image === state.image).map((each) =>
      h("article", { class: "card" }, h("h3", {}, `${each.image}: ${runLabel(byName[each.run])}`),
        each.words.length ? null : h("p", { class: "quiet" }, "(no words)"),
        h("ul", { class: "words" }, ...each.words.map(([word, picture]) => h("li", {}, h("img", { src: picture, alt: "", decoding: "async" }), word))))));
  }

  if (!images.length) {
    $(".cards", section).append(h("p", {}, "There is none: it takes a run with a checkpoint whose decoder attends, and the pictures."));
    return;
  }
  $(".controls", section).append(choose("Image", state, "image", [["", "all"], ...images.map((image) => [image, image])], update));
  update();
}

// ---- two runs' settings

function settings(section) {
  const state = { one: 0, other: runs.findIndex((run) => run.system !== runs[0].system) };
  if (state.other < 0) state.other = 1;
  const named = runs.map((run, place) => [place, run.name]);
  const show = (value) => (value === undefined ? "–" : value === null ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value));

  function update() {
    const [one, other] = [runs[state.one].settings, runs[state.other].settings];
    const names = unique([...Object.keys(one), ...Object.keys(other)]).filter((name) => show(one[name]) !== show(other[name])).sort();
    const lines = names.map((name) => h("tr", {}, h("th", { scope: "row" }, ...soft(name)), h("td", {}, ...soft(show(one[name]))), h("td", {}, ...soft(show(other[name])))));
    $("table", section).replaceChildren(
      h("thead", {}, h("tr", {}, ...["setting", runs[state.one].name, runs[state.other].name].map((text) => h("th", { scope: "col" }, ...soft(text))))),
      h("tbody", {}, ...(lines.length ? lines : [h("tr", {}, h("td", { colspan: "3" }, "Nothing differs."))])));
  }

  $(".controls", section).append(choose("One run", state, "one", named, update, "wide"), choose("Other run", state, "other", named, update, "wide"));
  update();
}

function apart(section) {
  $("dl", section).append(...Object.entries(data.apart).flatMap(([path, reason]) => [h("dt", {}, path), h("dd", {}, reason)]));
}

// ---- the page

const SECTIONS = {
  table: [table, true],
  scores: [scores, true],
  grid: [grid, systems.length > 1],
  cost: [cost, data.costs.length > 0],
  curves: [curves, runs.some((run) => Object.keys(run.metrics).length)],
  sweep: [sweep, Object.values(data.importance).some((found) => found.length)],
  captions: [captions, runs.some((run) => run.told)],
  attention: [attention, data.attends],
  settings: [settings, runs.length > 1],
  apart: [apart, Object.keys(data.apart).length > 0],
};

function build(section) {
  if (section.dataset.built) return;
  section.dataset.built = "yes";
  SECTIONS[section.id][0](section);
}

function lead() {
  const name = usual(data.scores, "cider_d"), first = [...ours].sort((a, b) => (b.values[name] ?? -1) - (a.values[name] ?? -1))[0];
  const [low, high] = first.intervals[name];
  const left = Object.keys(data.apart).length;
  return `${plural(systems.length, "system")}, ${plural(runs.length, "run")}, ${plural(data.images, "image")}. Highest ${titles[name]}: ${first.values.system}, `
    + `${fixed(first.values[name])} [${fixed(low)}, ${fixed(high)}].` + (left ? ` ${plural(left, "run")} not compared: the reasons are at the end.` : "");
}

$("#lead").textContent = lead();
$("#made").textContent = `Made by capbench ${data.version}. All of the page is in this file.`;
const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
  near.unobserve(entry.target);
  build(entry.target);
}), { rootMargin: "400px" });
for (const [id, [, has]] of Object.entries(SECTIONS)) {
  const section = document.getElementById(id);
  section.hidden = !has;
  if (!has) continue;
  $("#contents").append(h("li", {}, h("a", { href: `#${id}` }, section.dataset.title)));
  if (id === "table") build(section); // first, since what is near the screen depends on its height
  else near.observe(section);
}
addEventListener("beforeprint", () => {
  document.documentElement.dataset.printed = "";
  document.querySelectorAll("main > section:not([hidden])").forEach(build);
  redraw();
});
addEventListener("afterprint", () => { delete document.documentElement.dataset.printed; redraw(); });
