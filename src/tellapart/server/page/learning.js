// Let a classifier learn from what reviewers decided: a button, how it stands, and what it gave.

import { announce, api, button, complaint, el, pause, percent, session, t, when } from "./common.js";

export default { id: "learn", role: "admin", show };

function show(place) {
  if (!session.me.learns) {
    place.append(el("p", { class: "note" }, t("learn.not_offered")));
    return;
  }
  const stop = new AbortController();
  const path = `/v1/models/${encodeURIComponent(session.model.name)}/learn`;
  const body = el("div");
  place.append(el("p", { class: "soft lead" }, t("learn.what")), body);
  follow(path, body, stop.signal);
  return () => stop.abort();
}

// Show how learning stands, as long as it goes on and until the new classifier answers.
async function follow(path, body, signal, started = null) {
  let before = started;
  try {
    for (;;) {
      const told = await api(path, { signal });
      const running = told.work?.state === "running";
      before ??= told.version;
      const written = told.work?.result?.written || told.work?.result?.written === undefined;
      const due = started && !running && told.work?.state === "done" && written;
      draw(path, body, told, signal);
      if (!running && (!due || told.version !== before || Date.now() - Date.parse(told.work.ended) > 20000)) {
        if (started) ended(told, told.version !== before);
        return;
      }
      await pause(0.7, signal);
    }
  } catch (error) {
    if (!signal.aborted) body.append(complaint(error));
  }
}

async function ended(told, switched) {
  announce(t(switched ? "learn.switched" : `learn.state.${told.work.state}`));
  if (!switched) return;
  // Its classes may be others now.
  session.models = await api("/v1/models");
  session.model = session.models.find((one) => one.name === told.model) ?? session.model;
}

function draw(path, body, told, signal) {
  const n = Object.values(told.reviews).reduce((sum, one) => sum + one, 0);
  const running = told.work?.state === "running";
  const go = async (json) => {
    try {
      const now = await api(path, { json, signal });
      await follow(path, body, signal, now.version);
    } catch (error) {
      if (!signal.aborted) body.append(complaint(error));
    }
  };
  const relabel = el("input", { type: "checkbox", id: "learn-relabel" });
  const worse = el("input", { type: "checkbox", id: "learn-worse" });
  const start = () => go({ relabel: relabel.checked, even_if_worse: worse.checked });
  const stopIt = () => api(path, { method: "DELETE", signal }).catch(() => {});
  body.replaceChildren(
    el(
      "div",
      { class: "card" },
      el("h2", {}, t("learn.reviews", { n })),
      counts(told.reviews),
      el("p", {}, el("label", { class: "block" }, relabel, " ", t("learn.relabel")), el("label", { class: "block" }, worse, " ", t("learn.worse"))),
      el(
        "div",
        { class: "row" },
        running
          ? button(t("learn.stop"), stopIt)
          : button(t("learn.button", { name: told.model }), start, { class: "main", disabled: !n }),
        told.can_go_back && !running ? button(t("learn.undo"), () => go({ undo: true })) : null,
      ),
      running ? el("p", { role: "status" }, t("learn.running"), " ", el("progress")) : null,
    ),
    told.work && !running ? outcome(told.work) : "",
  );
}

function counts(reviews) {
  const rows = Object.entries(reviews).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  if (!rows.length) return el("p", { class: "soft" }, t("learn.none"));
  return el(
    "p",
    { class: "row" },
    rows.slice(0, 60).map(([name, n]) => el("span", { class: "pill" }, `${name} `, el("span", { class: "soft" }, n.toLocaleString(session.language)))),
    rows.length > 60 ? el("span", { class: "soft" }, t("learn.more", { n: rows.length - 60 })) : null,
  );
}

function outcome(work) {
  const card = el("div", { class: "card" }, el("h2", {}, t(`learn.state.${work.state}`), " ", el("span", { class: "soft" }, when(work.ended))));
  const found = work.result;
  if (work.error && !found?.reason) card.append(el("p", { class: "complaint" }, work.error));
  if (!found?.reason) return card;
  const held = found.held_out;
  card.append(el("p", { class: found.taken ? "note" : "complaint" }, found.reason));
  if (found.new_classes.length) card.append(el("p", {}, t("learn.new", { names: found.new_classes.join(", ") })));
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
