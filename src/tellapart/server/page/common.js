// What the views share: texts, elements, requests to the API, keys, and what is remembered.
// No text of anybody ever becomes markup: elements are made one by one, and the browser is told
// to refuse everything else (trusted types in the page's policy).

export const LANGUAGES = { en: "English", zh: "简体中文" };
export const ROLES = ["predict", "review", "admin"];

// me: the answer of /v1/me. models: those of /v1/models. model: the chosen one of them.
export const session = { language: "en", me: null, models: [], model: null };

let texts = {};
let plurals = new Intl.PluralRules("en");

export async function speak(language) {
  const asked = await Promise.all(["en", language].map((name) => fetch(`page/${name}.json`)));
  const [english, chosen] = await Promise.all(asked.map((answer) => answer.json()));
  texts = { ...english, ...chosen };
  plurals = new Intl.PluralRules(language);
  session.language = language;
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
}

// The text of a key, its {names} filled in; with `n`, the key's own ".one" or ".other" goes first.
export function t(key, values = {}) {
  const counted = "n" in values ? texts[`${key}.${plurals.select(values.n)}`] : undefined;
  const text = counted ?? texts[key] ?? texts[`${key}.other`] ?? key;
  return text.replace(/\{(\w+)\}/g, (all, name) => {
    const value = values[name] ?? all;
    return typeof value === "number" ? value.toLocaleString(session.language) : String(value);
  });
}

export function known(key) {
  return key in texts;
}

// An element: properties that are functions listen ("click"), others are attributes; null and
// false are left out. Children are elements and texts.
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (name === "value") made.value = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

export function button(text, click, properties = {}) {
  return el("button", { type: "button", click, ...properties }, text);
}

export function percent(share) {
  return share.toLocaleString(session.language, {
    style: "percent",
    minimumFractionDigits: 1,
    maximumFractionDigits: 1,
  });
}

// Dates as the visitor's country writes them, if the page speaks one of their languages.
export function locale() {
  return navigator.languages.find((one) => one.slice(0, 2) === session.language) ?? session.language;
}

export function when(time) {
  return new Date(time).toLocaleString(locale(), { dateStyle: "medium", timeStyle: "short" });
}

// A text of the server: in the language of the page if it is one of those below, else in English.
export function foreign(text) {
  const said = reason(text);
  return el("span", { lang: session.language === "en" || said !== text ? null : "en" }, said);
}

// What people call a class of a model.
export function named(label, model = session.model) {
  return (model && model.names[label]) || label;
}

export function modelNamed(name) {
  return session.models.find((model) => model.name === name) ?? null;
}

export function may(role) {
  return session.me !== null && ROLES.indexOf(session.me.role) >= ROLES.indexOf(role);
}

// Say something to those who hear the page.
export function announce(text) {
  const live = document.getElementById("live");
  live.textContent = "";
  setTimeout(() => (live.textContent = text), 50);
}

export function recall(name, otherwise = null) {
  try {
    return localStorage.getItem(`tellapart.${name}`) ?? otherwise;
  } catch {
    return otherwise; // Storage may be forbidden; the page works without.
  }
}

export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`tellapart.${name}`);
    else localStorage.setItem(`tellapart.${name}`, value);
  } catch {
    // As above.
  }
}

// The token lives as long as the tab, and never in an address.
export const token = {
  get: () => sessionStorage.getItem("tellapart.token"),
  set: (value) => sessionStorage.setItem("tellapart.token", value),
  forget: () => sessionStorage.removeItem("tellapart.token"),
};

// Why there is no answer. wait_s: when to ask again, as the server says.
export class Refusal extends Error {
  constructor(status, code, message, wait_s = null) {
    const said = reason(message);
    super(session.language !== "en" && said === message && known(`error.${code}`) ? t(`error.${code}`) : said);
    Object.assign(this, { status, code, wait_s });
  }
}

// Ask the API: give `json` to send it, or `body` (FormData, Blob). Resolves to what was answered,
// as JSON or with `as: "blob"` as a Blob; throws Refusal, or AbortError by `signal`.
export async function api(path, { method, json, body, signal, as = "json" } = {}) {
  const headers = {};
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  }
  let answer;
  try {
    answer = await fetch(path.replace(/^\//, ""), {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body,
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal(0, "unreachable", t("error.unreachable"), 2);
  }
  if (answer.ok) return as === "blob" ? answer.blob() : answer.json();
  const told = await answer.json().catch(() => ({}));
  const after = answer.headers.get("Retry-After");
  const message = told.message ?? t("error.unforeseen");
  const wait_s = after === null ? null : Number(after) || 1;
  if (answer.status === 401) document.dispatchEvent(new Event("tokenneeded"));
  throw new Refusal(answer.status, told.error ?? "unforeseen", message, wait_s);
}

export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const given_up = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", given_up);
      resolve();
    }, seconds * 1000);
    if (signal?.aborted) given_up();
    else signal?.addEventListener("abort", given_up, { once: true });
  });
}

// Ask as often as the server says "later" (429 always, else five times); waiting(seconds) is told.
export async function patiently(ask, { signal, waiting = () => {} } = {}) {
  for (let tries = 1; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      const later = error instanceof Refusal && error.wait_s !== null;
      if (!later || (error.status !== 429 && tries >= 5)) throw error;
      waiting(error.wait_s);
      await pause(error.wait_s * (1 + Math.random() / 4), signal);
    }
  }
}

// Listen to single keys, { j: action }, while nobody types; returns what ends it.
export function keys(actions) {
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (recall("keys") === "off" || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, select, textarea, [contenteditable]")) return;
    const onControl = event.target.closest?.("button, a, summary");
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!(key in actions) || (onControl && ["Enter", " "].includes(key))) return;
    event.preventDefault();
    actions[key]();
  };
  document.addEventListener("keydown", pressed);
  return () => document.removeEventListener("keydown", pressed);
}

// An error in words, where one looks and for those who listen.
export function complaint(error) {
  return el("p", { class: "complaint", role: "alert" }, error.message);
}

// Offer a text as a file.
export function download(name, text, kind) {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  const link = el("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// The server's reasons have few forms; they are told in the language of the page.
const REASONS = [
  [/^it shows (?<name>.+) with (?<share>[\d.]+%), as declared$/, "reason.match"],
  [/^it shows (?<name>.+) with (?<share>[\d.]+%), but (?<other>.+) stays possible$/, "reason.possible"],
  [/^it shows (?<name>.+) with (?<share>[\d.]+%), not (?<other>.+)$/, "reason.mismatch"],
  [/^confidence (?<share>[\d.]+%) is below (?<limit>[\d.]+%), which keeps (?<right>[\d.]+%) of answers right$/, "reason.promised"],
  [/^confidence (?<share>[\d.]+%) is below (?<limit>[\d.]+%)$/, "reason.low"],
  [/^the picture could not be read: it (?<why>.+)$/, "reason.unreadable"],
  [/^None of the pictures could be read; the first (?<why>.+)\.$/, "reason.unreadable"],
  [/^is cut off or damaged \((?<why>.+)\)$/, "reason.damaged"],
  [/^holds nothing but (?<count>\d+) zero bytes$/, "reason.zeros"],
  [/^is (?<width>\d+) x (?<height>\d+) px, larger than (?<most>[\d.]+) megapixels$/, "reason.pixels"],
  [/^has more than (?<most>\d+) scans, which no camera writes$/, "reason.scans"],
  [/^is a HEIC picture, /, "reason.heic"],
  [/^It is not worse on (?<count>\d+) /, "reason.not_worse"],
  [/^It took more than (?<seconds>\d+) s, and was ended\.$/, "reason.late"],
  [/pip install 'tellapart\[train\]'/, "reason.no_train"],
  [/these classes have fewer than (?<count>\d+) different readable pictures to learn from: (?<names>.+?)\. Nothing/, "reason.few"],
];

export function reason(text) {
  if (!text || session.language === "en") return text ?? "";
  if (known(`reason.${text}`)) return t(`reason.${text}`);
  for (const [form, key] of REASONS) {
    const found = form.exec(text);
    if (found) return t(key, { ...found.groups, why: reason(found.groups?.why) });
  }
  return text;
}
