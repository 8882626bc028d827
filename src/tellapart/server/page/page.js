// Starts the page. A view is a module with a default export
//
//   { id, role, keys, show(place, query) }
//
// and one line in VIEWS below. id: its address is #id, its tab the text "id.tab", its heading the
// text "id.title" (texts in en.json and zh.json). role: who may see it (predict, review, admin).
// keys (optional): [["j", "id.key.next"], …], listed in the help for shortcuts; `keys` of common.js
// listens to them. show: fills the empty section `place`, below its heading; query is what stands
// behind ? in the address (URLSearchParams). It is called whenever the view is entered, and again
// after another language, model or token, so what shall outlive that is kept in the module. It may
// return a function, which is called when the view is left. `session` of common.js says who asks
// and which model is chosen; `api` there asks the server.

import * as common from "./common.js";
import building from "./building.js";
import history from "./history.js";
import learning from "./learning.js";
import reviewing from "./reviewing.js";
import trying from "./trying.js";
import watching from "./watching.js";

const { announce, button, el, recall, remember, session, t, token } = common;

const VIEWS = [trying, reviewing, history, watching, learning, building];

let leave = null;
let shown = null;

function here() {
  const [id, query] = location.hash.slice(1).split("?");
  return { id: id || VIEWS[0].id, query: new URLSearchParams(query) };
}

function render({ moved = false } = {}) {
  if (leave) leave();
  leave = null;
  drawTabs();
  drawSettings();
  const main = document.getElementById("main");
  main.replaceChildren();
  document.getElementById("skip").textContent = t("page.skip");
  if (session.me === null) return session.unreachable ? drawTrouble(main) : drawTokenBox(main);
  const { id, query } = here();
  const view = VIEWS.find((one) => one.id === id) ?? VIEWS[0];
  shown = view;
  const title = t(`${view.id}.title`);
  document.title = `${title} · tellapart`;
  const heading = el("h1", { tabindex: "-1" }, title);
  const place = el("section", { id: `view-${view.id}` });
  main.append(heading, place);
  if (common.may(view.role)) leave = view.show(place, query) ?? null;
  else place.append(el("p", { class: "note" }, t("page.needs_role", rolesOf(view))));
  if (moved) {
    heading.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
}

function rolesOf(view) {
  return { role: t(`role.${view.role}`), mine: t(`role.${session.me.role}`) };
}

function drawTabs() {
  const tabs = document.getElementById("tabs");
  tabs.setAttribute("aria-label", t("page.views"));
  const { id } = here();
  const open = session.me ? VIEWS.filter((view) => common.may(view.role)) : [];
  tabs.replaceChildren(
    ...open.map((view) =>
      el(
        "a",
        { href: `#${view.id}`, "aria-current": view.id === id ? "page" : null },
        t(`${view.id}.tab`),
      ),
    ),
  );
  tabs.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// A choice in the header: { value: text }.
function choice(label, options, value, changed) {
  const select = el(
    "select",
    { "aria-label": label, title: label, change: () => changed(select.value) },
    Object.entries(options).map(([one, text]) => el("option", { value: one }, text)),
  );
  select.value = value;
  return select;
}

// The classifier, where there are several; the rest in a menu, for there is little room on a phone.
function drawSettings() {
  const focused = document.activeElement?.dataset?.setting;
  const settings = document.getElementById("settings");
  const open = settings.querySelector("details")?.open && focused;
  const names = Object.fromEntries(session.models.map(({ name }) => [name, name]));
  const themes = Object.fromEntries(["auto", "light", "dark"].map((one) => [one, t(`theme.${one}`)]));
  const rows = [
    ["language", choice(t("page.language"), common.LANGUAGES, session.language, chooseLanguage)],
    ["theme", choice(t("page.theme"), themes, recall("theme", "auto"), chooseTheme)],
  ];
  if (session.me) rows.push(["help", button(t("page.help"), showHelp)]);
  if (session.me?.name) rows.push(["out", button(t("page.sign_out"), signOut)]);
  for (const [name, part] of rows) part.dataset.setting = name;
  const who = session.me?.name && { name: session.me.name, role: t(`role.${session.me.role}`) };
  const menu = el(
    "details",
    { class: "menu", open },
    el("summary", { class: "button" }, el("span", { "aria-hidden": "true" }, "⚙"), el("span", { class: "word" }, t("page.settings"))),
    el(
      "div",
      { class: "card" },
      who ? el("p", { class: "soft" }, t("page.signed_in", who)) : null,
      rows.map(([, part]) => part),
    ),
  );
  const several = session.models.length > 1;
  settings.replaceChildren(
    ...(several ? [choice(t("page.model"), names, session.model.name, chooseModel)] : []),
    menu,
  );
  if (focused) settings.querySelector(`[data-setting="${focused}"]`)?.focus();
}

async function chooseLanguage(language) {
  remember("language", language);
  await common.speak(language);
  render();
}

function chooseModel(name) {
  remember("model", name);
  session.model = common.modelNamed(name);
  render();
  announce(t("page.model_chosen", { name }));
}

function chooseTheme(theme) {
  remember("theme", theme === "auto" ? null : theme);
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function showHelp() {
  const listed = [...(shown?.keys ?? []), ["?", "page.key.help"]];
  const on = el("input", {
    type: "checkbox",
    change: () => remember("keys", on.checked ? null : "off"),
  });
  on.checked = recall("keys") !== "off";
  const dialog = el(
    "dialog",
    { "aria-labelledby": "help-title", close: () => dialog.remove() },
    el("h2", { id: "help-title" }, t("page.help")),
    el(
      "dl",
      { class: "keys" },
      listed.map(([key, text]) => [
        el("dt", {}, key.split(" ").map((one) => el("kbd", {}, one))),
        el("dd", {}, t(text)),
      ]).flat(),
    ),
    el("label", {}, on, " ", t("page.keys_on")),
    el("p", { class: "soft" }, t("page.version", { version: session.me.version })),
    button(t("page.close"), () => dialog.close(), { class: "main" }),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function drawTrouble(main) {
  const again = button(t("page.again"), enter, { class: "main" });
  main.append(el("h1", {}, t("page.trouble")), common.complaint(session.unreachable), again);
}

function drawTokenBox(main) {
  document.title = "tellapart";
  const field = el("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "token-why",
  });
  const form = el(
    "form",
    {
      class: "card narrow",
      submit: (event) => {
        event.preventDefault();
        token.set(field.value.trim());
        enter();
      },
    },
    el("h1", {}, t("token.title")),
    el("label", { for: "token" }, t("token.label")),
    field,
    el("p", { id: "token-why", class: "soft" }, t("token.why")),
    session.problem ? el("p", { class: "complaint", role: "alert" }, session.problem) : null,
    el("button", { class: "main" }, t("token.go")),
  );
  main.append(form);
  field.focus();
}

function signOut() {
  // What was tried stays with who tried it.
  sessionStorage.clear();
  location.reload();
}

// Ask who we are and what is served; without an answer, ask for a token or say what is wrong.
async function enter() {
  const sent = token.get();
  try {
    const [me, models] = await Promise.all([common.api("/v1/me"), common.api("/v1/models")]);
    Object.assign(session, { me, models, problem: null, unreachable: null });
    session.model = common.modelNamed(recall("model")) ?? models[0];
  } catch (error) {
    session.me = null;
    session.unreachable = error.status === 401 ? null : error;
    if (error.status === 401) {
      token.forget();
      session.problem = sent ? t("token.wrong") : null;
    }
  }
  render();
}

async function start() {
  chooseTheme(recall("theme", "auto"));
  const wanted = [recall("language"), ...navigator.languages.map((one) => one.slice(0, 2))];
  await common.speak(wanted.find((one) => one in common.LANGUAGES) ?? "en");
  window.addEventListener("hashchange", () => render({ moved: true }));
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // The address names the view.
    document.getElementById("main").focus();
  });
  // A file that misses its place must not take the place of the page.
  for (const kind of ["dragover", "drop"])
    document.addEventListener(kind, (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
  document.addEventListener("tokenneeded", () => {
    if (session.me === null) return;
    session.me = null;
    session.problem = t("token.wrong");
    token.forget();
    render();
  });
  document.addEventListener("click", (event) => {
    const menu = document.querySelector(".menu[open]");
    if (menu && !menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    const menu = document.querySelector(".menu[open]");
    if (event.key !== "Escape" || !menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  common.keys({ "?": () => session.me && showHelp() });
  await enter();
}

start();
