// What arrived in the last day, and whether it still looks like what was learned. The charts are
// small SVG drawings; each says its numbers in words too, and the table below holds all of them.

import { api, complaint, el, locale, named, percent, session, t, when } from "./common.js";

const BARS = 24;
const STEP_MS = 600_000;
const AGAIN_MS = 15_000;
const WIDTH = 320;
const HEIGHT = 96;
const CLASSES = 12;
const VERDICTS = ["match", "unsure", "mismatch"];

export default { id: "watch", role: "review", show };

function show(place) {
  const stop = new AbortController();
  const told = el("div", { class: "watch" }, el("p", { class: "soft" }, t("page.loading")));
  place.append(el("p", {}, t("watch.what")), told);
  const ask = async () => {
    try {
      const all = await api("/v1/watch", { signal: stop.signal });
      const model = all.find((one) => one.model === session.model.name);
      const open = told.querySelector("details")?.open ?? false;
      told.replaceChildren(...drawn(model, open));
    } catch (error) {
      if (!stop.signal.aborted) told.replaceChildren(complaint(error));
    }
  };
  ask();
  const timer = setInterval(ask, AGAIN_MS);
  return () => {
    clearInterval(timer);
    stop.abort();
  };
}

function drawn(model, open) {
  const bars = gathered(model.steps);
  const n = sum(bars, (bar) => bar.n);
  return [
    model.warnings.length ? warned(model.warnings) : state(model),
    n || sum(bars, (bar) => bar.unreadable)
      ? el(
          "div",
          { class: "charts" },
          ["unsure", "strange", "far"].map((kind) => shares(kind, bars, model.usual[kind])),
          verdicts(bars),
        )
      : el("p", { class: "soft" }, t("watch.nothing")),
    n ? classes(model, bars) : null,
    n ? table(bars, open) : null,
  ].filter(Boolean);
}

function state(model) {
  if (model.held_out === 0) return el("p", { class: "note" }, t("watch.untested"));
  const values = { n: model.counted, every: model.look_every };
  if (model.counted === 0) return null;
  const early = model.counted < model.look_every;
  return el("p", { class: "note" }, t(early ? "watch.early" : "watch.as_learned", values));
}

function warned(warnings) {
  const line = (one) =>
    t(`watch.warning.${one.kind}`, {
      share: percent(one.share),
      usual: percent(one.usual),
      n: one.n,
      name: one.label ? named(one.label) : "",
    });
  return el(
    "div",
    { class: "complaint", role: "alert" },
    el("strong", {}, t("watch.changed")),
    el("ul", {}, warnings.map((one) => el("li", {}, line(one)))),
    t("watch.advice"),
  );
}

// Steps of ten minutes as at most BARS bars of the same length.
function gathered(steps) {
  if (!steps.length) return [];
  const first = Date.parse(steps[0].at);
  const span = Math.max(0, Date.now() - first);
  const length = Math.max(1, Math.ceil((span + 1) / STEP_MS / BARS)) * STEP_MS;
  // The last bar is now.
  const before = BARS - 1 - Math.floor(span / length);
  const bars = [];
  for (const step of steps) {
    const place = before + Math.floor((Date.parse(step.at) - first) / length);
    bars[place] ??= {
      at: first + (place - before) * length,
      length,
      n: 0, unsure: 0, strange: 0, far: 0, n_placed: 0, unreadable: 0,
      labels: {}, verdicts: {},
    };
    const bar = bars[place];
    for (const key of ["n", "unsure", "strange", "far", "n_placed", "unreadable"]) bar[key] += step[key];
    for (const key of ["labels", "verdicts"])
      for (const [name, count] of Object.entries(step[key]))
        bar[key][name] = (bar[key][name] ?? 0) + count;
  }
  bars.from = first - before * length;
  return bars; // With holes where nothing arrived.
}

function sum(bars, value) {
  return bars.reduce((total, bar) => total + value(bar), 0);
}

function svg(tag, properties = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  made.append(...children.flat());
  return made;
}

function chart(title, said, bars, drawing) {
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${said}` },
    drawing,
  );
  const from = bars.length ? clock(bars.from) : "";
  return el(
    "figure",
    { class: "card" },
    el("figcaption", {}, el("h2", {}, title), el("p", { class: "soft" }, said)),
    picture,
    el("p", { class: "axis soft", "aria-hidden": "true" }, el("span", {}, from), el("span", {}, t("watch.now"))),
  );
}

function clock(time) {
  return new Date(time).toLocaleTimeString(locale(), { timeStyle: "short" });
}

function bar(place, bottom, share, kind, told) {
  const width = WIDTH / BARS;
  const height = share * HEIGHT;
  return svg(
    "rect",
    { class: kind, x: place * width + 1, y: HEIGHT - bottom * HEIGHT - height, width: width - 2, height },
    svg("title", {}, told),
  );
}

// The share of pictures that were so, over time, and a dashed line where it usually lies.
function shares(kind, bars, usual) {
  const of = kind === "far" ? "n_placed" : "n";
  const total = sum(bars, (one) => one[of]);
  const share = total ? sum(bars, (one) => one[kind]) / total : 0;
  const known = usual !== null && usual !== undefined;
  const values = { share: percent(share), usual: known ? percent(usual) : "", n: total };
  const drawing = [svg("rect", { class: "ground", x: 0, y: 0, width: WIDTH, height: HEIGHT })];
  bars.forEach((one, place) => {
    if (!one[of]) return;
    const part = one[kind] / one[of];
    const said = t("watch.bar", { when: when(one.at), share: percent(part), n: one[of] });
    drawing.push(bar(place, 0, part, kind, said));
  });
  if (known) {
    const y = HEIGHT - usual * HEIGHT;
    drawing.push(svg("line", { class: "usual", x1: 0, x2: WIDTH, y1: y, y2: y }));
  }
  const said = t(!total ? "watch.unknown" : known ? "watch.share" : "watch.share_alone", values);
  return chart(t(`watch.${kind}`), said, bars, drawing);
}

function verdicts(bars) {
  const of = (one) => VERDICTS.reduce((total, verdict) => total + (one.verdicts[verdict] ?? 0), 0);
  const total = sum(bars, of);
  const drawing = [svg("rect", { class: "ground", x: 0, y: 0, width: WIDTH, height: HEIGHT })];
  bars.forEach((one, place) => {
    let bottom = 0;
    const n = of(one);
    for (const verdict of VERDICTS) {
      const part = n ? (one.verdicts[verdict] ?? 0) / n : 0;
      const said = `${t(`verdict.${verdict}`)}: ${t("watch.bar", { when: when(one.at), share: percent(part), n })}`;
      if (part) drawing.push(bar(place, bottom, part, verdict, said));
      bottom += part;
    }
  });
  const parts = VERDICTS.map((verdict) => {
    const share = total ? sum(bars, (one) => one.verdicts[verdict] ?? 0) / total : 0;
    return `${t(`verdict.${verdict}`)} ${percent(share)}`;
  });
  return chart(t("watch.verdicts"), total ? parts.join(" · ") : t("watch.no_audits"), bars, drawing);
}

// What was answered beside what was learned from, the largest differences first.
function classes(model, bars) {
  const n = sum(bars, (one) => one.n);
  const rows = Object.entries(model.learned).map(([label, learned]) => {
    const arrived = sum(bars, (one) => one.labels[label] ?? 0) / n;
    return { label, learned, arrived };
  });
  rows.sort((a, b) => Math.abs(b.arrived - b.learned) - Math.abs(a.arrived - a.learned));
  const line = (kind, share) =>
    svg(
      "svg",
      { class: "share", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: kind, x: 0, y: 0, width: 100 * share, height: 8 }),
    );
  const cells = (row) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, named(row.label)),
      el("td", {}, line("arrived", row.arrived), percent(row.arrived)),
      el("td", {}, line("learned", row.learned), percent(row.learned)),
    );
  if (!rows.length) return null;
  const more = rows.length > CLASSES ? el("p", { class: "soft" }, t("watch.more", { n: rows.length - CLASSES })) : null;
  return el(
    "section",
    { class: "card" },
    el("h2", {}, t("watch.classes")),
    el(
      "table",
      { class: "classes" },
      el("thead", {}, el("tr", {}, ["watch.class", "watch.arrived", "watch.learned"].map((head) => el("th", { scope: "col" }, t(head))))),
      el("tbody", {}, rows.slice(0, CLASSES).map(cells)),
    ),
    more,
  );
}

function table(bars, open) {
  const heads = ["watch.from", "watch.pictures", "watch.unsure", "watch.strange", "watch.far", "watch.unreadable"];
  const row = (one) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, when(one.at)),
      [one.n, one.unsure, one.strange, one.far, one.unreadable].map((value) =>
        el("td", {}, value.toLocaleString(session.language)),
      ),
    );
  return el(
    "details",
    { class: "card", open },
    el("summary", {}, t("watch.numbers")),
    el(
      "div",
      { class: "wide", tabindex: "0", role: "region", "aria-label": t("watch.numbers") },
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, t(head))))),
        el("tbody", {}, bars.filter(Boolean).map(row)),
      ),
    ),
  );
}
