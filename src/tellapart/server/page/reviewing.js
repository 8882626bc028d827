// The review queue: what did not match and was decided by nobody, the oldest first. A person says
// which class it is, with one key, and may take it back.

import { announce, api, button, complaint, el, keys, modelNamed, named, percent, reason, session, t, when } from "./common.js";
import { classChooser } from "./choosing.js";

const PAGE = 50;

// queue: records as far as they are loaded. at: which of them is shown. done: what was decided
// here, to be taken back.
const state = { model: null, queue: [], at: 0, ended: false, waiting: null, done: [] };
let parts = null;

export default {
  id: "review",
  role: "review",
  keys: [
    ["y", "review.key.declared"], ["a", "review.key.answer"], ["o", "review.key.other"], ["n", "review.key.none"],
    ["j →", "review.key.next"], ["k ←", "review.key.previous"], ["u", "review.key.undo"],
  ],
  show,
};

function show(place, query) {
  const model = modelNamed(query.get("model")) ? query.get("model") : null;
  parts = { stop: new AbortController(), pictures: new Map(), head: el("div"), card: el("div"), said: el("div") };
  place.append(parts.head, parts.said, parts.card);
  if (model !== state.model || state.at >= state.queue.length) Object.assign(state, { model, queue: [], at: 0, ended: false });
  const still = keys({
    y: () => act("declared"), a: () => act("answer"), n: () => act("none"), o: () => parts.chooser?.field.focus(),
    j: () => go(1), ArrowRight: () => go(1), k: () => go(-1), ArrowLeft: () => go(-1), u: undo,
  });
  refresh();
  return () => {
    still();
    parts.stop.abort();
    for (const found of parts.pictures.values()) found.then((url) => url && URL.revokeObjectURL(url));
    parts = null;
  };
}

async function refresh() {
  count();
  if (!state.queue.length) await load();
  else draw();
}

async function count() {
  try {
    state.waiting = (await api("/v1/audits/counts", { signal: parts.stop.signal })).waiting;
    drawHead();
  } catch {
    // The list itself says what is wrong.
  }
}

async function load(done = "") {
  const { signal } = parts.stop;
  const asked = new URLSearchParams({ verdict: "doubtful", decided: "false", oldest: "true", n: PAGE });
  if (state.model) asked.set("model", state.model);
  if (state.queue.length) asked.set("after", state.queue.at(-1).id);
  try {
    const found = await api(`/v1/audits?${asked}`, { signal });
    state.queue.push(...found);
    state.ended = found.length < PAGE;
  } catch (error) {
    if (!signal.aborted) parts.card.replaceChildren(complaint(error), again());
    return;
  }
  draw(done);
}

function again() {
  return button(t("page.again"), () => {
    Object.assign(state, { queue: [], at: 0, ended: false });
    refresh();
  }, { class: "main" });
}

// Forwards or back; forwards loads what comes next. done: what was done just before, in words.
async function go(by, done = "") {
  const to = state.at + by;
  if (to < 0) return announce(t("review.first"));
  state.at = Math.min(to, state.queue.length);
  if (state.at === state.queue.length && !state.ended) await load(done);
  else draw(done);
}

function draw(done = "") {
  if (!parts) return;
  parts.said.replaceChildren(el("p", { class: "done soft" }, done));
  drawHead();
  const focused = parts.card.contains(document.activeElement) && document.activeElement.dataset.focus;
  const record = state.queue[state.at];
  parts.chooser = null;
  parts.card.replaceChildren(record ? card(record) : end());
  if (focused) (parts.card.querySelector(`[data-focus="${focused}"]:not(:disabled)`) ?? parts.card.querySelector("h2")).focus();
  announce(`${done} ${record ? spoken(record) : t("review.empty")}`);
  for (const next of state.queue.slice(state.at + 1, state.at + 3)) small(next);
}

function drawHead() {
  const several = session.models.length > 1;
  const pill = (name) =>
    el("a", { class: "pill", href: name ? `#review?model=${encodeURIComponent(name)}` : "#review", "aria-current": name === state.model ? "true" : null }, name ?? t("review.all_models"));
  parts.head.replaceChildren(
    el(
      "div",
      { class: "row" },
      el("p", { class: "soft lead" }, state.waiting === null ? "" : t("review.waiting", { n: state.waiting })),
      several ? el("nav", { class: "row", "aria-label": t("page.model") }, [null, ...session.models.map(({ name }) => name)].map(pill)) : null,
    ),
  );
}

function end() {
  return el(
    "div",
    { class: "card center" },
    el("h2", { tabindex: "-1" }, t("review.empty")),
    el("p", { class: "soft" }, t("review.empty_more")),
    el("div", { class: "row" }, again(), state.done.length ? button(t("review.undo"), undo, { "data-focus": "undo" }) : null, el("a", { class: "button", href: "#history" }, t("history.title"))),
  );
}

function spoken(record) {
  const model = modelNamed(record.model);
  const seen = record.label ? t("review.seen", { name: named(record.label, model), share: percent(record.confidence) }) : "";
  return [
    t("review.place", { at: state.at + 1, n: state.queue.length }),
    `${t("history.declared")}: ${named(record.declared, model)}`,
    seen, t(`verdict.${record.verdict}`),
  ].filter(Boolean).join(". ");
}

function card(record) {
  const model = modelNamed(record.model);
  const several = session.models.length > 1;
  const place = state.ended ? t("review.place", { at: state.at + 1, n: state.queue.length }) : t("review.place_more", { at: state.at + 1 });
  return el(
    "article",
    { class: "card detail review" },
    el("figure", { class: "frame" }, pictureOf(record)),
    el(
      "div",
      { class: "said" },
      el("div", { class: "row head" },
        el("h2", { tabindex: "-1" }, record.file_name ?? record.picture),
        el("span", { class: "soft" }, place),
      ),
      el("p", { class: "soft" }, [when(record.at), record.asked_by, several ? record.model : null].filter(Boolean).join(" · ")),
      el("p", { class: `answer ${record.verdict}` },
        el("span", { class: `verdict ${record.verdict}` }, t(`verdict.${record.verdict}`)),
        el("span", { class: "soft block" }, reason(record.reason)),
      ),
      record.decided_at ? decided(record, model) : null,
      buttons(record, model),
    ),
  );
}

function decided(record, model) {
  const what = record.decision === null ? t("review.none_of_these") : named(record.decision, model);
  const by = t("history.by", { name: record.decided_by, when: when(record.decided_at) });
  return el("p", { class: "note" }, t("review.decided", { what }), " ", el("span", { class: "soft" }, by));
}

function choices(record, model) {
  const found = [["declared", "y", record.declared, t("review.declared")]];
  if (record.label && record.label !== record.declared) found.push(["answer", "a", record.label, t("review.answer", { share: percent(record.confidence) })]);
  return found.map(([what, key, label, text]) =>
    button(
      [el("kbd", { "aria-hidden": "true" }, key), el("span", { class: "grow" }, el("strong", {}, named(label, model)), el("span", { class: "soft block" }, text))],
      () => act(what),
      { class: "choice", "data-focus": what, "aria-keyshortcuts": key, "data-chosen": record.decided_at !== null && record.decision === label },
    ),
  );
}

function buttons(record, model) {
  const others = record.candidates.filter((label) => label !== record.declared && label !== record.label).slice(0, 6);
  parts.chooser = classChooser({ label: t("review.other"), model: model ?? { classes: [], names: {} }, fresh: true, picked: (label) => label && decide(label) });
  const small = (text, key, action, focus, off = false) =>
    button([el("kbd", { "aria-hidden": "true" }, key), " ", text], action, { "data-focus": focus, "aria-keyshortcuts": key, disabled: off });
  return [
    el("div", { class: "choices" }, choices(record, model)),
    others.length
      ? el("div", { class: "row" }, el("span", { class: "soft" }, t("review.possible")), others.map((label) => button(named(label, model), () => decide(label), { class: "pill", "data-focus": `other-${label}` })))
      : null,
    parts.chooser,
    el("div", { class: "row" },
      small(t("review.none_of_these"), "n", () => act("none"), "none"),
      small(t("review.undo"), "u", undo, "undo", !state.done.length && !record.decided_at),
      el("span", { class: "grow" }),
      small(t("review.previous"), "k", () => go(-1), "previous", state.at === 0),
      small(t("review.next"), "j", () => go(1), "next"),
    ),
  ];
}

function act(what) {
  const record = state.queue[state.at];
  if (!record) return;
  if (what === "declared") decide(record.declared);
  else if (what === "none") decide(null);
  else if (record.label) decide(record.label);
}

let busy = false;

// Write a decision down and go on. Who decides what looked undecided may come second.
async function decide(label) {
  const record = state.queue[state.at];
  if (busy || !record) return;
  const before = record.decided_at === null ? undefined : record.decision;
  await change(record, async (path) => {
    const first = before === undefined;
    replace(await api(path, { json: { decision: label, first } }));
    state.done.push({ id: record.id, before });
    if (first && state.waiting) state.waiting -= 1;
    const model = modelNamed(record.model);
    await go(1, t("review.decided", { what: label === null ? t("review.none_of_these") : named(label, model) }));
  });
}

// Take back the last decision of this visit, or else the one that stands on what is shown.
async function undo() {
  const last = state.done.at(-1) ?? (state.queue[state.at]?.decided_at ? { id: state.queue[state.at].id } : null);
  const at = last ? state.queue.findIndex((one) => one.id === last.id) : -1;
  if (busy || !last) return;
  await change(last, async (path) => {
    const back = last.before === undefined ? { method: "DELETE" } : { json: { decision: last.before } };
    const record = await api(path, back);
    if (state.done.at(-1) === last) state.done.pop();
    if (last.before === undefined && state.waiting !== null) state.waiting += 1;
    if (at < 0) state.queue.splice(state.at, 0, record);
    else state.at = at;
    replace(record);
    draw(t("review.undone"));
  });
}

async function change({ id }, how) {
  busy = true;
  parts.said.replaceChildren();
  try {
    await how(`/v1/audits/${id}/decision`);
  } catch (error) {
    if (!parts) return;
    if (error.code === "decided_already") {
      replace(await api(`/v1/audits/${id}`));
      draw();
      count();
    }
    parts.said.replaceChildren(complaint(error));
  } finally {
    busy = false;
  }
}

function replace(record) {
  const at = state.queue.findIndex((one) => one.id === record.id);
  if (at >= 0) state.queue[at] = record;
}

function pictureOf(record) {
  if (!record.thumbnail) {
    const text = session.me.thumbnails === "none" && !session.me.learns ? t("review.none_kept") : t("review.not_kept");
    return el("div", { class: "nopicture note" }, el("p", {}, text), el("p", { class: "soft" }, t("review.hash", { hash: record.picture })));
  }
  const image = el("img", { alt: t("review.picture", { name: record.file_name ?? "" }) });
  small(record).then((url) => {
    if (url) image.src = url;
    else image.replaceWith(el("p", { class: "note" }, t("review.not_kept")));
  });
  return image;
}

// The small picture of a record, as an address of this tab; asked for once.
function small(record) {
  if (!record.thumbnail) return Promise.resolve(null);
  const { pictures, stop } = parts;
  if (!pictures.has(record.id)) {
    const asked = api(`/v1/audits/${record.id}/thumbnail`, { as: "blob", signal: stop.signal });
    pictures.set(record.id, asked.then((blob) => URL.createObjectURL(blob), () => null));
  }
  return pictures.get(record.id);
}
