// What was audited, the newest first: filtered by verdict, page after page.

import { api, complaint, button, el, modelNamed, named, percent, reason, session, t, when } from "./common.js";

const PAGE = 50;
const VERDICTS = ["", "match", "mismatch", "unsure"];

export default { id: "history", role: "review", show };

function show(place, query) {
  const verdict = VERDICTS.includes(query.get("verdict")) ? query.get("verdict") : "";
  const stop = new AbortController();
  const body = el("tbody");
  const below = el("p", { class: "row" });
  place.append(
    filters(verdict, stop.signal),
    el(
      "div",
      { class: "wide", tabindex: "0", role: "region", "aria-label": t("history.title") },
      el(
        "table",
        { class: "stack" },
        el("thead", {}, el("tr", {}, HEADS.map((head) => el("th", { scope: "col" }, t(head))))),
        body,
      ),
    ),
    below,
  );
  more(body, below, verdict, null, stop.signal);
  return () => stop.abort();
}

const HEADS = ["history.when", "history.file", "history.declared", "history.verdict", "history.seen", "history.decision"];

function filters(verdict, signal) {
  const links = VERDICTS.map((one) =>
    el(
      "a",
      {
        class: "pill",
        href: one ? `#history?verdict=${one}` : "#history",
        "aria-current": one === verdict ? "true" : null,
      },
      el("span", {}, t(one ? `verdict.${one}` : "history.all")),
      " ",
      el("span", { class: "soft", "data-count": one }),
    ),
  );
  api("/v1/audits/counts", { signal }).then((counts) => {
    counts[""] = counts.match + counts.mismatch + counts.unsure;
    for (const link of links) {
      const told = link.querySelector("[data-count]");
      told.textContent = counts[told.dataset.count].toLocaleString(session.language);
    }
  }, () => {});
  return el("nav", { class: "row", "aria-label": t("history.filter") }, links);
}

async function more(body, below, verdict, last, signal) {
  const asked = new URLSearchParams({ n: PAGE });
  if (verdict) asked.set("verdict", verdict);
  if (last) asked.set("after", last);
  below.replaceChildren(el("span", { class: "soft" }, t("page.loading")));
  let found;
  try {
    found = await api(`/v1/audits?${asked}`, { signal });
  } catch (error) {
    const again = () => more(body, below, verdict, last, signal);
    if (!signal.aborted) below.replaceChildren(complaint(error), button(t("page.again"), again));
    return;
  }
  const rows = found.map(row);
  body.append(...rows);
  if (last && rows.length) rows[0].querySelector("th").focus();
  const end = body.rows.length ? t("history.end", { n: body.rows.length }) : t("history.none");
  const next = () => more(body, below, verdict, found.at(-1).id, signal);
  below.replaceChildren(
    found.length === PAGE ? button(t("history.more"), next) : el("span", { class: "soft" }, end),
  );
}

function row(record) {
  const model = modelNamed(record.model);
  const cell = (head, ...children) => el("td", { "data-head": t(head) }, children);
  const seen = record.label
    ? [named(record.label, model), " ", el("span", { class: "soft" }, percent(record.confidence))]
    : ["–"];
  const decided = record.decided_at === null
    ? "–"
    : record.decision === null ? t("review.none_of_these") : named(record.decision, model);
  const by = record.decided_at && t("history.by", { name: record.decided_by, when: when(record.decided_at) });
  return el(
    "tr",
    {},
    el("th", { scope: "row", tabindex: "-1", "data-head": t("history.when") }, when(record.at)),
    cell("history.file", record.file_name ?? "–", el("span", { class: "soft block" }, record.model)),
    cell("history.declared", named(record.declared, model)),
    cell(
      "history.verdict",
      el("span", { class: `verdict ${record.verdict}` }, t(`verdict.${record.verdict}`)),
      el("span", { class: "soft block" }, reason(record.reason)),
    ),
    cell("history.seen", seen),
    cell("history.decision", decided, by ? el("span", { class: "soft block" }, by) : null),
  );
}
