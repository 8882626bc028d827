// Pictures of a visitor, and what the server says of them: a few requests at a time, a few
// pictures a request; "later" is honoured, what is cancelled can be gone on with.

import { api, patiently, Refusal, session, t } from "./common.js";

const TOGETHER = 8;
const AT_ONCE = 3;

// One picture. state: waiting, asking, done, failed. answer: as /v1/predict or /v1/audit gives it.
export function newItem(file, path, declared) {
  return { file, path, declared, state: "waiting", answer: null, error: null, url: null, model: null };
}

// Of an item that is done: its verdict, or else whether the answer is unsure.
export function outcome(item) {
  if (item.state !== "done") return item.state;
  if (item.answer.error) return item.answer.verdict ?? "failed";
  return item.answer.verdict ?? (item.answer.unsure ? "unsure" : "answered");
}

// Ask about all that wait. changed(items) is called for those that changed, waiting(seconds) when
// the server asks for patience. Resolves when nothing waits any more, or when it is cancelled.
export async function askAll(items, { signal, changed, waiting }) {
  const model = session.model.name;
  const work = async () => {
    for (let some = take(items); some.length && !signal.aborted; some = take(items)) {
      some.forEach((item) => Object.assign(item, { state: "asking", model }));
      changed(some);
      await askSome(some, model, { signal, waiting });
      changed(some);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

function take(items) {
  const most = Math.min(TOGETHER, session.me.pictures);
  const some = [];
  let bytes = 0;
  for (const item of items) {
    if (item.state !== "waiting") continue;
    const size = item.file.size;
    if (size > session.me.picture_mb * 1e6) {
      fail(item, t("try.too_large", { mb: session.me.picture_mb }));
      continue;
    }
    // What is declared and what is not goes to different routes.
    if (some.length && Boolean(item.declared) !== Boolean(some[0].declared)) break;
    if (some.length === most || (some.length && bytes + size > session.me.request_mb * 0.9e6)) break;
    some.push(item);
    bytes += size;
  }
  return some;
}

async function askSome(some, model, { signal, waiting }) {
  const audit = Boolean(some[0].declared);
  const body = new FormData();
  for (const item of some) {
    body.append("file", item.file, item.path);
    if (audit) body.append("declared", item.declared);
  }
  const path = `/v1/${audit ? "audit" : "predict"}?model=${encodeURIComponent(model)}`;
  try {
    const found = await patiently(() => api(path, { body, signal }), { signal, waiting });
    const answers = found.pictures ?? found.answers;
    some.forEach((item, number) => Object.assign(item, { state: "done", answer: answers[number] }));
  } catch (error) {
    if (signal.aborted) some.forEach((item) => (item.state = "waiting"));
    else if (!(error instanceof Refusal)) throw error;
    else if (some.length === 1 || [401, 403].includes(error.status))
      some.forEach((item) => fail(item, error.message));
    // One of them may have spoiled it for the others.
    else for (const item of some) await askSome([item], model, { signal, waiting });
  }
}

export function fail(item, error) {
  Object.assign(item, { state: "failed", error });
}

const SUFFIX = /\.(jpe?g|png|gif|webp|bmp|tiff?|heic|heif|avif|jfif)$/i;

function looksLikePicture(file) {
  return file.type.startsWith("image/") || SUFFIX.test(file.name);
}

// The files of a drop, folders opened: [{ file, path }].
export async function dropped(transfer) {
  // The entries have to be asked for at once: after the event they are gone.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files].map(plain);
  const found = [];
  const walk = async (entry, top) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (top || looksLikePicture(file)) found.push({ file, path: entry.fullPath.replace(/^\//, "") });
      return;
    }
    if (entry.name.startsWith(".")) return;
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const one of some) await walk(one, false);
    }
  };
  for (const entry of entries) await walk(entry, true);
  return found;
}

export function plain(file) {
  return { file, path: file.webkitRelativePath || file.name };
}

// The files that a field holds; of a folder, its pictures.
export function chosen(field) {
  const files = [...field.files].filter((file) => !file.webkitRelativePath || looksLikePicture(file));
  field.value = "";
  return files.map(plain);
}

const COLUMNS = ["file", "declared", "verdict", "label", "name", "confidence", "unsure", "candidates", "reason", "error", "model", "audit"];

// All items as CSV for spreadsheets: no cell may begin as a formula does.
export function csv(items) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const rows = items.map(({ path, declared, answer, error, model }) => {
    const said = answer ?? {};
    const why = said.why ?? said.reason;
    return [
      path, declared, said.verdict, said.label, said.name, said.confidence, said.unsure,
      said.candidates?.join(" | "), why, said.error ?? error, model, said.id,
    ];
  });
  const lines = [COLUMNS, ...rows].map((row) => row.map(cell).join(","));
  return `\ufeff${lines.join("\r\n")}\r\n`;
}
