// Try a classifier: pictures in, answers out; with a declared class, verdicts. One picture is shown
// large; of many there is a list. All of it outlives a change of view, and the answers a reload.

import { announce, api, button, complaint, download, el, keys, modelNamed, named, patiently, percent, reason, session, t } from "./common.js";
import { askAll, chosen, csv, dropped, fail, newItem, outcome, plain } from "./asking.js";
import { classChooser, exact } from "./choosing.js";
import { bars, explainable, picture } from "./looking.js";

const PAGE = 100;
const KEPT = "tellapart.tried";
const OUTCOMES = ["match", "mismatch", "unsure", "answered", "failed", "waiting"];

// items: in the order they came. open: the one shown large. running: what cancels.
const state = {
  items: [], open: null, declared: "", byFolder: false, running: null,
  filter: "", text: "", sort: null, down: false, shown: PAGE, note: "",
};
let parts = null; // of the view, while it is shown

export default {
  id: "try",
  role: "predict",
  keys: [["o", "try.key.choose"], ["d", "try.key.declare"], ["w", "try.key.why"], ["j ↓", "try.key.next"], ["k ↑", "try.key.previous"]],
  show,
};

function show(place) {
  const stop = new AbortController();
  if (!state.items.length) restore();
  // Another classifier was chosen: what was declared may be none of its classes.
  if (state.declared && !session.model.classes.includes(state.declared)) state.declared = "";
  parts = { stop, detail: el("div"), list: el("div"), frame: null };
  const { name, classes } = session.model;
  place.append(el("p", { class: "soft lead" }, t("try.model", { name, n: classes.length })), intake(), parts.detail, parts.list);
  drawDetail();
  drawList();
  const { signal } = stop;
  document.addEventListener("paste", pasted, { signal });
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, dragged, { signal });
  const still = keys({
    o: () => parts.files.click(),
    d: () => (parts.detail.querySelector(".chooser input") ?? parts.declared.field).focus(),
    w: () => parts.why?.toggle(),
    j: () => step(1), ArrowDown: () => step(1),
    k: () => step(-1), ArrowUp: () => step(-1),
  });
  return () => {
    still();
    stop.abort();
    parts = null;
  };
}

function intake() {
  const field = (properties) =>
    el("input", { type: "file", class: "unseen", tabindex: "-1", "aria-hidden": "true", change: (event) => add(chosen(event.target)), ...properties });
  parts.files = field({ accept: "image/*", multiple: true, id: "files" });
  const folder = field({ webkitdirectory: true, multiple: true, id: "folder" });
  // Phones can only choose pictures one by one.
  const noFolders = matchMedia("(hover: none)").matches;
  const camera = field({ accept: "image/*", capture: "environment", id: "camera" });
  parts.declared = classChooser({
    label: t("try.declared"), model: session.model, value: state.declared,
    picked: (label) => (state.declared = label),
  });
  const byFolder = el("input", { type: "checkbox", id: "by-folder", change: () => (state.byFolder = byFolder.checked) });
  byFolder.checked = state.byFolder;
  parts.note = el("p", { class: "soft" });
  parts.zone = el(
    "div",
    { class: "zone" },
    noFolders ? null : el("p", { class: "big" }, t("try.drop")),
    el(
      "div",
      { class: "row" },
      button(t("try.choose"), () => parts.files.click(), { class: "main" }),
      navigator.maxTouchPoints ? button(t("try.photograph"), () => camera.click()) : null,
      noFolders ? null : button(t("try.folder"), () => folder.click()),
    ),
    parts.files, folder, camera,
    parts.note,
  );
  return el(
    "div",
    { class: "card intake" },
    parts.zone,
    el(
      "div",
      { class: "declare" },
      parts.declared,
      noFolders ? null : el("label", { class: "soft" }, byFolder, " ", t("try.by_folder")),
      el("p", { class: "soft" }, t("try.recorded")),
    ),
  );
}

function dragged(event) {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  parts.zone.classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") dropped(event.dataTransfer).then(add, (error) => note(error.message));
}

function pasted(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) add(files.map(plain));
}

// Take pictures up and ask about them. A single one takes the place of what was there.
function add(found) {
  if (!found.length) return note(t("try.no_picture"));
  note("");
  if (found.length === 1 && !state.running && state.items.length <= 1) clear();
  const added = found.map(({ file, path }) => {
    const item = newItem(file, path, state.declared || null);
    item.url = URL.createObjectURL(file);
    if (state.byFolder && path.includes("/")) {
      const name = path.split("/").at(-2);
      item.declared = exact(name, session.model) || null;
      if (!item.declared) fail(item, t("try.folder_unknown", { name }));
    }
    return item;
  });
  state.items.push(...added);
  state.open = state.items.length === 1 ? added[0] : null;
  drawDetail();
  drawList();
  if (!state.open) parts.list.scrollIntoView({ block: "nearest" });
  run();
}

function clear() {
  state.running?.abort();
  state.items.forEach((item) => item.url && URL.revokeObjectURL(item.url));
  Object.assign(state, { items: [], open: null, filter: "", text: "", sort: null, shown: PAGE, note: "" });
  keep();
}

async function run() {
  if (state.running) return; // It takes up what was added.
  const running = new AbortController();
  state.running = running;
  window.addEventListener("beforeunload", warn);
  try {
    await askAll(state.items, {
      signal: running.signal,
      changed: (items) => {
        if (items.includes(state.open)) drawDetail();
        drawSoon();
      },
      waiting: (seconds) => note(t("try.busy", { n: Math.ceil(seconds) })),
    });
  } finally {
    window.removeEventListener("beforeunload", warn);
    state.running = null;
    if (!running.signal.aborted) note("");
    keep();
    drawDetail();
    drawList();
    tell();
  }
  // Added in the moment when the last answers came.
  if (!running.signal.aborted && state.items.some((item) => item.state === "waiting")) run();
}

function warn(event) {
  event.preventDefault();
}

function tell() {
  const [only] = state.items;
  if (state.items.length === 1) announce(spoken(only));
  else if (state.items.length) announce(t("try.done", { n: count("done") + count("failed"), all: state.items.length }));
}

function count(wanted) {
  return state.items.filter((item) => item.state === wanted).length;
}

function spoken(item) {
  const { answer } = item;
  if (item.state !== "done") return item.error ?? t(`try.state.${item.state}`);
  if (!answer.label) return reason(answer.why) || answer.error;
  const said = `${named(answer.label, modelNamed(item.model))} ${percent(answer.confidence)}`;
  return answer.verdict ? `${t(`verdict.${answer.verdict}`)}: ${reason(answer.why)}` : said;
}

function note(text) {
  state.note = text;
  if (text) announce(text);
  drawProgress();
}

// The picture that is open, its answer, and what can be declared of it.
function drawDetail() {
  if (!parts) return;
  parts.why = null;
  const item = state.open;
  if (!item) return parts.detail.replaceChildren();
  const model = modelNamed(item.model) ?? session.model;
  const several = state.items.length > 1;
  const close = several ? button("✕", () => look(null), { class: "plain", "aria-label": t("page.close") }) : null;
  let shown = null;
  if (item.answer?.top?.length && item.file) {
    parts.why = explainable(item, model, parts.stop.signal);
    shown = parts.why;
  } else if (item.url) shown = el("figure", {}, el("div", { class: "frame" }, picture(item.url, item.path)));
  else shown = el("p", { class: "note" }, t("try.not_kept"));
  parts.detail.replaceChildren(
    el(
      "article",
      { class: "card detail", "aria-label": item.path },
      shown,
      el(
        "div",
        { class: "said" },
        el("div", { class: "row head" }, el("h2", {}, item.path), close),
        told(item, model),
        item.state === "done" && item.answer.label && item.file ? declaring(item, model) : null,
      ),
    ),
  );
}

function told(item, model) {
  if (item.state === "failed") return [el("p", { class: "complaint", role: "alert" }, item.error)];
  if (item.state !== "done") return [el("p", { class: "soft busy" }, t(`try.state.${item.state}`))];
  const { answer } = item;
  const parts = [];
  if (answer.verdict)
    parts.push(
      el(
        "p",
        { class: `answer ${answer.verdict}` },
        el("span", { class: `verdict ${answer.verdict}` }, t(`verdict.${answer.verdict}`)),
        el("span", {}, t("try.was_declared", { name: named(answer.declared, model) })),
        el("span", { class: "soft block" }, reason(answer.why)),
      ),
    );
  if (answer.error) parts.push(answer.verdict ? null : el("p", { class: "complaint" }, t("try.unreadable", { why: reason(answer.error) })));
  else if (!answer.verdict && answer.unsure)
    parts.push(el("p", { class: "answer unsure" }, el("span", { class: "verdict unsure" }, t("verdict.unsure")), el("span", { class: "soft block" }, reason(answer.reason))));
  if (answer.top.length) parts.push(bars(answer.top, model));
  if (answer.unsure && answer.candidates.length > 1 && answer.candidates.length <= 12)
    parts.push(el("p", { class: "soft" }, t("try.candidates", { names: answer.candidates.map((label) => named(label, model)).join(", ") })));
  return parts;
}

// Declare what the open picture is to be, and have that audited.
function declaring(item, model) {
  const chooser = classChooser({ label: t(item.declared ? "try.declare_again" : "try.declare"), model, value: item.declared ?? "" });
  const said = el("div");
  const check = async (event) => {
    event.preventDefault();
    if (!chooser.value) return chooser.field.focus();
    const body = new FormData();
    body.append("file", item.file, item.path);
    body.append("declared", chooser.value);
    go.disabled = true;
    try {
      const found = await patiently(() => api(`/v1/audit?model=${encodeURIComponent(model.name)}`, { body }));
      Object.assign(item, { answer: found.pictures[0], declared: found.pictures[0].declared, model: model.name });
      keep();
      drawDetail();
      drawList();
      announce(spoken(item));
      parts?.detail.querySelector("form button")?.focus();
    } catch (error) {
      said.replaceChildren(complaint(error));
      go.disabled = false;
    }
  };
  const go = el("button", { class: "main" }, t("try.check"));
  return el("form", { class: "declaring", submit: check }, chooser, go, said);
}

function look(item) {
  state.open = item;
  drawDetail();
  for (const row of parts.list.querySelectorAll("tr[data-number]"))
    row.toggleAttribute("data-open", state.items[row.dataset.number] === item);
  if (item) parts.detail.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const found = visible();
  if (found.length < 2) return;
  const at = found.indexOf(state.open);
  const next = found[Math.max(0, Math.min(found.length - 1, at + by))];
  look(next);
  announce(`${next.path}. ${spoken(next)}`);
}

// The list: how far it is, filters, and a table that can be sorted. Its frame stays while answers
// come, so that nobody loses their place in it, or the word that they are typing.
function drawList() {
  if (!parts) return;
  if (state.items.length < 2) {
    parts.frame = null;
    return parts.list.replaceChildren();
  }
  parts.frame ??= frame();
  const focused = parts.list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  const found = visible();
  parts.frame.pills.replaceChildren(...pills());
  parts.frame.table.replaceChildren(heads(), el("tbody", {}, found.slice(0, state.shown).map(row)));
  parts.frame.more.hidden = found.length <= state.shown;
  parts.frame.more.textContent = t("try.more", { n: found.length - state.shown });
  drawProgress();
  if (focused && !parts.list.contains(document.activeElement))
    parts.list.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function frame() {
  const text = el("input", {
    type: "search", value: state.text, placeholder: t("try.search"), "aria-label": t("try.search"),
    input: () => {
      Object.assign(state, { text: text.value, shown: PAGE });
      drawSoon();
    },
  });
  const more = button("", () => {
    state.shown += PAGE * 3;
    drawList();
  });
  const made = { progress: el("div", { class: "progress" }), pills: el("div", { class: "row" }), table: el("table", { class: "stack pictures" }), more };
  parts.list.replaceChildren(
    el(
      "section",
      { class: "card list", "aria-label": t("try.list") },
      made.progress,
      el("div", { class: "row", role: "group", "aria-label": t("history.filter") }, made.pills, text),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("try.list") }, made.table),
      more,
    ),
  );
  return made;
}

let drawing = 0;
function drawSoon() {
  if (!drawing) drawing = setTimeout(() => ((drawing = 0), drawList()), 150);
}

function drawProgress() {
  if (!parts) return;
  parts.note.textContent = state.items.length < 2 ? state.note : "";
  if (!parts.frame) return;
  const n = count("done") + count("failed");
  const all = state.items.length;
  const said = t("try.progress", { done: n, all });
  const line = parts.frame.progress.querySelector("[data-running]");
  if (state.running && line) {
    // A button that is drawn anew while somebody presses it loses the click.
    line.querySelector("strong").textContent = said;
    line.querySelector("span").textContent = state.note;
    const bar = parts.frame.progress.querySelector("progress");
    Object.assign(bar, { max: all, value: n, ariaLabel: said });
    return;
  }
  const again = state.items.filter((item) => item.state === "failed" && item.file && item.url);
  const focused = parts.frame.progress.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  parts.frame.progress.replaceChildren(
    el("div", { class: "row", "data-running": Boolean(state.running) },
      el("strong", {}, said),
      el("span", { class: "soft" }, state.note),
      el("span", { class: "grow" }),
      state.running ? button(t("try.cancel"), cancel, { "data-focus": "cancel" }) : null,
      !state.running && n < all ? button(t("try.go_on"), run, { class: "main", "data-focus": "go" }) : null,
      !state.running && again.length ? button(t("try.retry"), () => {
        again.forEach((item) => Object.assign(item, { state: "waiting", error: null }));
        run();
      }, { "data-focus": "retry" }) : null,
      button(t("try.csv"), () => download("tellapart.csv", csv(state.items), "text/csv;charset=utf-8"), { "data-focus": "csv" }),
      button(t("try.clear"), () => {
        clear();
        drawDetail();
        drawList();
        parts.files.parentElement.querySelector("button").focus();
      }, { class: "plain", "data-focus": "clear" }),
    ),
    el("progress", { max: all, value: n, "aria-label": said }),
  );
  if (focused) (parts.frame.progress.querySelector(`[data-focus="${focused}"]`) ?? parts.frame.progress.querySelector("button")).focus();
}

function cancel() {
  state.running?.abort();
  note(t("try.cancelled"));
}

function pills() {
  const counts = {};
  for (const item of state.items) {
    const what = outcome(item) === "asking" ? "waiting" : outcome(item);
    counts[what] = (counts[what] ?? 0) + 1;
  }
  const pill = (what, n) =>
    button(
      [t(what ? `try.outcome.${what}` : "history.all"), " ", el("span", { class: "soft" }, n.toLocaleString(session.language))],
      () => {
        Object.assign(state, { filter: what, shown: PAGE });
        drawList();
      },
      { class: "pill", "aria-pressed": String(state.filter === what), "data-focus": `filter-${what}` },
    );
  const there = OUTCOMES.filter((what) => counts[what] || state.filter === what);
  return [pill("", state.items.length), ...there.map((what) => pill(what, counts[what] ?? 0))];
}

const SORTS = {
  path: (item) => item.path,
  declared: (item) => (item.declared ? named(item.declared, modelNamed(item.model)) : ""),
  outcome: (item) => OUTCOMES.indexOf(outcome(item)),
  answer: (item) => (item.answer?.label ? named(item.answer.label, modelNamed(item.model)) : ""),
  confidence: (item) => item.answer?.confidence ?? -1,
};

function heads() {
  const sorted = (one) => {
    Object.assign(state, { down: state.sort === one && !state.down, sort: one });
    drawList();
  };
  return el("thead", {}, el("tr", {}, Object.keys(SORTS).map((one) => {
    const order = state.sort === one ? (state.down ? "descending" : "ascending") : null;
    const arrow = order ? el("span", { "aria-hidden": "true" }, state.down ? " ▾" : " ▴") : null;
    return el("th", { scope: "col", "aria-sort": order }, button([t(`try.column.${one}`), arrow], () => sorted(one), { class: "plain", "data-focus": `sort-${one}` }));
  })));
}

function visible() {
  const text = state.text.trim().toLowerCase();
  const fits = (item) => {
    const what = outcome(item) === "asking" ? "waiting" : outcome(item);
    if (state.filter && what !== state.filter) return false;
    return !text || [item.path, SORTS.declared(item), SORTS.answer(item)].some((one) => one.toLowerCase().includes(text));
  };
  const found = state.items.filter(fits);
  if (!state.sort) return found;
  const value = SORTS[state.sort];
  const collator = new Intl.Collator(session.language, { numeric: true });
  const order = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));
  return found.sort((a, b) => order(value(a), value(b)) * (state.down ? -1 : 1));
}

function row(item) {
  const what = outcome(item);
  const model = modelNamed(item.model);
  const number = state.items.indexOf(item);
  const small = item.url ? picture(item.url, "", { loading: "lazy", width: 48, height: 48 }) : el("span", { class: "nopicture" });
  const mark = ["match", "mismatch", "unsure"].includes(what) ? `verdict ${what}` : "soft";
  const why = item.state === "failed" ? item.error : reason(item.answer?.why ?? item.answer?.reason ?? "") || (item.answer?.error ?? "");
  const cell = (head, ...children) => el("td", { "data-head": t(`try.column.${head}`) }, children);
  return el(
    "tr",
    { "data-number": number, "data-open": item === state.open },
    el("th", { scope: "row" }, el("span", { class: "picture" }, small, button(item.path, () => look(item), { class: "plain", "data-focus": `item-${number}` }))),
    cell("declared", item.declared ? named(item.declared, model ?? session.model) : "–"),
    cell("outcome", el("span", { class: mark }, t(`try.outcome.${what}`)), why ? el("span", { class: "soft block" }, why) : null),
    cell("answer", item.answer?.label ? named(item.answer.label, model) : "–"),
    cell("confidence", item.answer?.label ? percent(item.answer.confidence) : "–"),
  );
}

// Answers outlive a reload of the page, as long as the tab; the pictures themselves do not.
function keep() {
  const kept = state.items.filter((item) => item.state === "done").slice(-2000).map(({ path, declared, answer, model }) => ({ path, declared, model, answer }));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(kept));
  } catch {
    sessionStorage.removeItem(KEPT); // More than a tab may keep.
  }
}

function restore() {
  let kept = [];
  try {
    kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  } catch {
    return; // Of another version of this page.
  }
  state.items = kept.map((one) => ({ ...newItem(null, one.path, one.declared), ...one, state: "done" }));
  if (state.items.length === 1) [state.open] = state.items;
}
