// Let a classifier learn from what reviewers decided: a button, how it stands, and what it gave.

import { announce, api, button, complaint, el, foreign, named, pause, percent, Refusal, session, t, when } from "./common.js";

const SHOWN = 60; // classes

export default { id: "learn", role: "admin", show };

function show(place) {
  if (!session.me.learns) {
    place.append(el("p", { class: "note" }, t("learn.not_offered")));
    return;
  }
  const stop = new AbortController();
  const path = `/v1/models/${encodeURIComponent(session.model.name)}/learn`;
  const view = { path, body: el("div"), said: el("div"), signal: stop.signal };
  place.append(el("p", { class: "soft lead" }, t("learn.what")), view.said, view.body);
  follow(view);
  return () => stop.abort();
}

// Show how learning stands, as long as it goes on and until the new classifier answers. Times
// without an answer are waited through. started: the version that answered when it began.
async function follow(view, started = null) {
  for (let before = started; ; ) {
    try {
      const told = await api(view.path, { signal: view.signal });
      view.said.replaceChildren();
      const running = told.work?.state === "running";
      if (running) before ??= told.version;
      // While it runs nothing changes, and a button drawn anew would lose a click.
      if (!running || !view.body.querySelector("#learn-stop")) draw(view, told);
      const switched = before !== null && told.version !== before;
      if (!running && (switched || before === null || !due(told.work))) {
        if (before !== null) await ended(told, switched);
        return;
      }
      await pause(0.7, view.signal);
    } catch (error) {
      if (view.signal.aborted) return;
      if (!view.said.hasChildNodes()) view.said.append(complaint(error));
      if (!(error instanceof Refusal) || error.wait_s === null) return;
      await pause(error.wait_s, view.signal).catch(() => {});
    }
  }
}

// Whether a new classifier has been written that does not answer yet.
function due(work) {
  const written = work?.result?.written || work?.result?.written === undefined;
  return work?.state === "done" && written && Date.now() - Date.parse(work.ended) < 20_000;
}

async function ended(told, switched) {
  announce(t(switched ? "learn.switched" : `learn.state.${told.work.state}`));
  if (!switched) return;
  // Its classes may be others now.
  session.models = await api("/v1/models");
  session.model = session.models.find((one) => one.name === told.model) ?? session.model;
}

function draw(view, told) {
  const running = told.work?.state === "running";
  // What is ticked, and where the focus is, stays while this is drawn again and again.
  const ticked = (id) => view.body.querySelector(`#${id}`)?.checked ?? false;
  const focused = view.body.contains(document.activeElement) ? document.activeElement.id : null;
  const box = (id, text) => {
    const field = el("input", { type: "checkbox", id, disabled: running });
    field.checked = ticked(id);
    return [field, el("label", { class: "check" }, field, el("span", {}, text))];
  };
  const [relabel, relabelLine] = box("learn-relabel", t("learn.relabel"));
  const [worse, worseLine] = box("learn-worse", t("learn.worse"));
  const go = async (json) => {
    try {
      const { version } = await api(view.path, { json, signal: view.signal });
      await follow(view, version);
    } catch (error) {
      if (!view.signal.aborted) view.said.replaceChildren(complaint(error));
    }
  };
  const start = () => go({ relabel: relabel.checked, even_if_worse: worse.checked });
  const stopIt = () => api(view.path, { method: "DELETE", signal: view.signal }).catch(() => {});
  const n = Object.values(told.reviews).reduce((sum, one) => sum + one, 0);
  view.body.replaceChildren(
    el(
      "div",
      { class: "card" },
      el("h2", {}, t("learn.reviews", { n })),
      counts(told.reviews),
      relabelLine,
      worseLine,
      el(
        "div",
        { class: "row" },
        running
          ? button(t("learn.stop"), stopIt, { id: "learn-stop" })
          : button(t("learn.button", { name: told.model }), start, { class: "main", id: "learn-go", disabled: !n }),
        told.can_go_back && !running ? button(t("learn.undo"), () => go({ undo: true }), { id: "learn-undo" }) : null,
      ),
      running ? el("p", { role: "status" }, t("learn.running"), " ", el("progress", { "aria-label": t("learn.running") })) : null,
    ),
    told.work && !running ? outcome(told.work) : "",
  );
  if (focused) view.body.querySelector(`#${focused}:not(:disabled)`)?.focus({ preventScroll: true });
}

function counts(reviews) {
  const rows = Object.entries(reviews).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  if (!rows.length) return el("p", { class: "soft" }, t("learn.none"), " ", el("a", { href: "#review" }, t("learn.to_queue")));
  return el(
    "p",
    { class: "row" },
    rows.slice(0, SHOWN).map(([label, n]) => el("span", { class: "pill" }, `${named(label)} `, el("span", { class: "soft" }, n.toLocaleString(session.language)))),
    rows.length > SHOWN ? el("span", { class: "soft" }, t("learn.more", { n: rows.length - SHOWN })) : null,
  );
}

function outcome(work) {
  const found = work.result;
  const card = el("div", { class: "card" }, el("h2", {}, t(`learn.state.${work.state}`), " ", el("span", { class: "soft" }, when(work.ended))));
  if (work.error && !found?.reason) {
    card.append(el("p", { class: "complaint" }, foreign(work.error)));
    if (work.error.includes("--relabel")) card.append(el("p", {}, t("learn.relabel_hint", { option: t("learn.relabel") })));
  }
  if (!found?.reason) return card;
  const held = found.held_out;
  card.append(el("p", { class: found.taken ? "note" : "complaint" }, foreign(found.reason)));
  if (found.new_classes.length) card.append(el("p", {}, t("learn.new", { names: found.new_classes.map((one) => named(one)).join(", ") })));
  if (held) {
    card.append(
      el("p", {}, t("learn.held_out", { n: held.n, before: percent(held.before.value), after: percent(held.after.value) })),
      el("p", { class: "soft" }, t("learn.interval", { low: points(held.difference.low), high: points(held.difference.high), gained: held.difference.only_second, lost: held.difference.only_first })),
    );
  }
  const own = found.corrections;
  if (own.n) card.append(el("p", {}, t("learn.corrections", { n: own.n, before: own.before, after: own.after })), el("p", { class: "soft" }, t("learn.flatters")));
  if (found.left.length) card.append(el("p", { class: "soft" }, t("learn.left", { n: found.left.length })));
  return card;
}

function points(share) {
  return (100 * share).toLocaleString(session.language, { signDisplay: "always", minimumFractionDigits: 1, maximumFractionDigits: 1 });
}
