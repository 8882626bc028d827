// Build a classifier: name classes, give them pictures, train, try, fetch. All of it is kept by the
// server; which build is open stands in the address, so it outlives a reload.

import { announce, api, button, complaint, el, foreign, patiently, pause, percent, reason, Refusal, session, t, when } from "./common.js";
import { chosen, dropped } from "./asking.js";
import { bars, picture } from "./looking.js";

const SHOWN = 24; // pictures of a class, unless all are asked for
const TOLD = 5; // files that were left out

export default { id: "build", role: "admin", show };

// What is held for as long as the view is shown. sending: class -> how far. whole: classes of which
// all pictures are shown. fields: elements that stay when the rest is drawn anew.
function show(place, query) {
  const { builds, builds_days: days } = session.me;
  if (!builds) {
    place.append(el("p", { class: "note" }, t("build.not_offered")));
    return;
  }
  const stop = new AbortController();
  const view = {
    body: el("div"), signal: stop.signal, days, camera: null, build: null, following: false,
    sending: new Map(), small: new Map(), whole: new Set(), fields: fields(),
  };
  place.append(view.body);
  const id = query.get("id");
  if (id) open(view, id);
  else list(view);
  return () => {
    endCamera(view);
    stop.abort();
    for (const found of view.small.values()) found.then((url) => url && URL.revokeObjectURL(url));
  };
}

function fields() {
  return {
    label: el("input", { type: "text", id: "class-name", maxlength: "100", autocomplete: "off", "data-focus": "label" }),
    quality: el("select", { id: "build-quality", "data-focus": "quality" }, ["fast", "balanced", "best"].map((one) => el("option", { value: one }, t(`build.quality.${one}`)))),
    answers: el("div", { role: "status", class: "answers" }),
  };
}

// Say what is wrong, where the eye is: an error, or an element that tells more.
function say(view, error, near = view.body) {
  if (view.signal.aborted) return;
  unsay(view);
  const box = error instanceof Error ? complaint(error) : error;
  box.dataset.said = "";
  near.append(box);
  box.scrollIntoView({ block: "nearest" });
}

function unsay(view) {
  view.body.querySelectorAll("[data-said]").forEach((one) => one.remove());
}

const attempt = (view, work, near) => work().catch((error) => say(view, error, near?.isConnected ? near : view.body));

const address = (build, ...more) => ["/v1/builds", build.id, ...more].join("/");
const cardOf = (view, label) => view.body.querySelector(`[data-label="${CSS.escape(label)}"]`) ?? view.body;

async function list(view) {
  await entering(view, () => list(view), async () => {
    const builds = await api("/v1/builds", { signal: view.signal });
    builds.sort((a, b) => Date.parse(b.made) - Date.parse(a.made));
    const field = el("input", { type: "text", id: "build-name", maxlength: "100", autocomplete: "off" });
    const form = el(
      "form",
      {
        class: "card",
        submit: (event) => {
          event.preventDefault();
          if (!field.value.trim()) return field.focus();
          attempt(view, async () => {
            const { id } = await api("/v1/builds", { json: { name: field.value.trim() } });
            location.hash = `build?id=${id}`;
          }, form);
        },
      },
      el("label", { class: "block", for: field.id }, t("build.name")),
      el("div", { class: "row" }, field, el("button", { class: "main" }, t("build.make"))),
      el("p", { class: "soft" }, t("build.what", { n: view.days })),
    );
    view.body.replaceChildren(form, ...builds.map((one) => listed(view, one)));
  });
}

function listed(view, build) {
  const n = build.classes.reduce((sum, one) => sum + one.pictures.length, 0);
  const facts = t("build.facts", { classes: build.classes.length, n, when: when(build.made) });
  const card = el(
    "div",
    { class: "card" },
    el("h2", {}, build.name),
    el("p", { class: "soft" }, facts, build.has_file ? ` ${t("build.trained")}` : null),
    el(
      "div",
      { class: "row" },
      el("a", { class: "button", href: `#build?id=${build.id}`, "aria-label": `${t("build.open")}: ${build.name}` }, t("build.open")),
      twice(t("build.delete"), t("build.delete_really"), () =>
        attempt(view, async () => {
          await api(address(build), { method: "DELETE", as: "blob" }); // An answer without a body.
          await list(view);
        }, card),
      ),
    ),
  );
  return card;
}

// A button that asks before it does something for good.
function twice(text, really, act, properties = {}) {
  const made = button(text, () => {
    if (made.dataset.asked) return act();
    made.dataset.asked = "yes";
    made.textContent = really;
  }, properties);
  made.addEventListener("blur", () => {
    delete made.dataset.asked;
    made.textContent = text;
  });
  return made;
}

async function open(view, id) {
  await entering(view, () => open(view, id), async () => update(view, await api(address({ id }), { signal: view.signal })));
}

// What the view begins with; without it, there is a way back and one to try again.
async function entering(view, again, work) {
  try {
    await work();
  } catch (error) {
    view.body.replaceChildren(el("p", { class: "row" }, back(), button(t("page.again"), again)));
    say(view, error);
  }
}

const back = () => el("a", { href: "#build" }, t("build.back"));

function update(view, build) {
  view.build = build;
  draw(view);
  if (build.work?.state === "running" && !view.following) follow(view);
}

// Ask how a training stands until it has ended, through times without an answer as well.
async function follow(view) {
  view.following = true;
  let lost = false;
  while (view.build.work?.state === "running") {
    try {
      await pause(1, view.signal);
      view.build = await api(address(view.build), { signal: view.signal });
      if (lost) draw(view);
      lost = false;
      tellLine(view);
    } catch (error) {
      if (view.signal.aborted) return;
      if (!lost) say(view, error, view.body.querySelector("#build-training"));
      lost = true;
      if (!(error instanceof Refusal) || error.wait_s === null) break;
    }
  }
  view.following = false;
  if (lost) return;
  draw(view);
  announce(view.build.work ? t(`build.state.${view.build.work.state}`) : "");
}

function tellLine(view) {
  const line = view.body.querySelector("#build-line");
  if (line) line.textContent = view.build.work?.lines.at(-1) ?? "";
}

// Draw the build that is open; the focus, the camera and what is half typed stay.
function draw(view) {
  if (view.signal.aborted) return;
  const { build } = view;
  const focused = view.body.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  const running = build.work?.state === "running";
  view.body.replaceChildren(
    el("p", { class: "row" }, back()),
    el("h2", { class: "big" }, build.name),
    naming(view),
    el("div", { class: "kinds" }, build.classes.map((one) => classCard(view, one, running))),
    training(view, running),
    build.has_file && !running ? trying(view) : "",
  );
  if (view.camera) {
    cardOf(view, view.camera.label).append(view.camera.box);
    view.camera.video.play().catch(() => {});
  }
  if (focused) view.body.querySelector(`[data-focus="${CSS.escape(focused)}"]:not(:disabled)`)?.focus({ preventScroll: true });
}

function naming(view) {
  const { label: field } = view.fields;
  const form = el(
    "form",
    {
      class: "card",
      submit: (event) => {
        event.preventDefault();
        const label = field.value.trim();
        if (!label) return field.focus();
        attempt(view, async () => {
          const path = `${address(view.build, "classes")}?${new URLSearchParams({ label })}`;
          const build = await api(path, { method: "POST" });
          field.value = "";
          update(view, build);
          announce(t("build.class_added", { label }));
        }, form);
      },
    },
    el("label", { class: "block", for: field.id }, t("build.class")),
    el("div", { class: "row" }, field, el("button", {}, t("build.add_class"))),
    el("p", { class: "soft" }, t("build.advice")),
  );
  return form;
}

// A place for pictures: they are chosen by a button or dropped on it.
function zone(properties, id, take, view, ...children) {
  const field = el("input", { type: "file", class: "unseen", tabindex: "-1", "aria-hidden": "true", accept: "image/*", multiple: true, ...id, change: (event) => take(chosen(event.target)) });
  const made = el(
    "div",
    {
      ...properties,
      dragover: (event) => (event.preventDefault(), made.classList.add("over")),
      dragleave: () => made.classList.remove("over"),
      drop: (event) => {
        event.preventDefault();
        made.classList.remove("over");
        dropped(event.dataTransfer).then(take, (error) => say(view, error, made));
      },
    },
    children,
    field,
  );
  made.choose = () => field.click();
  return made;
}

// Phones cannot drop anything.
const dropHint = () => (matchMedia("(hover: none)").matches ? null : el("p", { class: "soft" }, t("build.drop")));

function classCard(view, { label, pictures }, running) {
  const going = view.sending.get(label);
  const off = running || Boolean(going);
  const act = (key, click, text = t(key)) => button(text, click, { disabled: off, "aria-label": `${t(key)}: ${label}`, "data-focus": `${key} ${label}` });
  const take = (found) => (off ? say(view, new Error(t(running ? "build.running" : "build.wait")), made) : send(view, label, found));
  const shown = view.whole.has(label) ? pictures : pictures.slice(0, SHOWN);
  const more = () => {
    view.whole.add(label);
    draw(view);
  };
  const made = zone(
    { class: "card zone", "data-label": label },
    { "data-files": label },
    take,
    view,
    el("h2", {}, label, " ", el("span", { class: "soft whole" }, t("build.pictures", { n: pictures.length }))),
    shown.length ? el("div", { class: "thumbs" }, shown.map((hash, row) => thumbnail(view, hash, `${label} ${row + 1}`, off))) : null,
    shown.length < pictures.length ? button(t("build.all", { n: pictures.length }), more, { class: "plain" }) : null,
    going ? el("div", { class: "wide-line" }, el("span", { class: "soft" }, t("build.sending", going)), el("progress", { max: going.all, value: going.done, "aria-label": label })) : null,
    dropHint(),
    el(
      "div",
      { class: "row" },
      act("build.choose", () => made.choose()),
      navigator.mediaDevices ? act("build.camera", () => startCamera(view, label)) : null,
      twice(t("build.drop_class"), t("build.drop_really"), () => dropClass(view, label), { disabled: off }),
    ),
  );
  return made;
}

// A small picture; pressed twice it is taken out.
function thumbnail(view, hash, name, off) {
  const image = el("img", { alt: "", width: "64", height: "64" });
  const made = button(image, () => {
    if (!made.dataset.asked) {
      made.dataset.asked = "yes";
      made.setAttribute("aria-label", `${name}: ${t("build.take_out_really")}`);
      made.title = t("build.take_out_really");
      return;
    }
    attempt(view, async () => update(view, await api(address(view.build, "pictures", hash), { method: "DELETE" })), made.closest(".card"));
  }, { class: "plain thumb", disabled: off, title: t("build.take_out"), "aria-label": `${name}: ${t("build.take_out")}` });
  made.addEventListener("blur", () => {
    delete made.dataset.asked;
    made.title = t("build.take_out");
    made.setAttribute("aria-label", `${name}: ${t("build.take_out")}`);
  });
  small(view, hash).then((url) => url && (image.src = url));
  return made;
}

// The address of a small picture in this tab; asked for once, one after the other.
function small(view, hash) {
  if (!view.small.has(hash)) {
    const ask = () => patiently(() => api(address(view.build, "pictures", hash), { as: "blob", signal: view.signal }), { signal: view.signal });
    view.queue = (view.queue ?? Promise.resolve()).then(ask).then((blob) => URL.createObjectURL(blob), () => null);
    view.small.set(hash, view.queue);
  }
  return view.small.get(hash);
}

function dropClass(view, label) {
  const path = `${address(view.build, "classes")}?${new URLSearchParams({ label })}`;
  return attempt(view, async () => update(view, await api(path, { method: "DELETE" })), cardOf(view, label));
}

// Send pictures in requests that the server takes, and tell of those that it does not.
async function send(view, label, found) {
  if (!found.length) return say(view, new Error(t("try.no_picture")), cardOf(view, label));
  const large = ({ file }) => file.size > session.me.picture_mb * 1e6;
  const left = found.filter(large).map(({ path }) => ({ file: path, why: t("try.too_large", { mb: session.me.picture_mb }) }));
  const fits = found.filter((one) => !large(one));
  const going = { done: 0, all: fits.length };
  let failed = null;
  view.sending.set(label, going);
  unsay(view);
  try {
    while (going.done < fits.length) {
      draw(view);
      const some = nextOf(fits, going.done);
      const form = new FormData();
      some.forEach(({ file, path }) => form.append("file", file, path));
      const path = `${address(view.build, "pictures")}?${new URLSearchParams({ label })}`;
      const told = await patiently(() => api(path, { body: form }));
      left.push(...told.left_out.map((one) => ({ file: one.file, why: reason(one.reason) })));
      going.done += some.length;
      view.build = told.build;
    }
  } catch (error) {
    failed = error;
  }
  view.sending.delete(label);
  update(view, view.build);
  if (failed) say(view, failed, cardOf(view, label));
  else if (left.length) say(view, leftOut(left), cardOf(view, label));
  announce(t("build.added", { n: going.done, label }));
}

function nextOf(files, start) {
  const { pictures: most, request_mb } = session.me;
  let size = 0;
  let end = start;
  while (end < files.length && end - start < most && (end === start || size + files[end].file.size < request_mb * 9e5)) size += files[end++].file.size;
  return files.slice(start, end);
}

function leftOut(left) {
  const more = left.length - TOLD;
  return el(
    "div",
    { class: "complaint", role: "alert" },
    el("strong", {}, t("build.left_out", { n: left.length })),
    el("ul", {}, left.slice(0, TOLD).map(({ file, why }) => el("li", {}, `${file}: ${why}`))),
    more > 0 ? el("p", {}, t("build.left_more", { n: more })) : null,
  );
}

async function startCamera(view, label) {
  endCamera(view);
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return say(view, new Error(t("build.no_camera")), cardOf(view, label));
  }
  if (view.signal.aborted) return stream.getTracks().forEach((one) => one.stop());
  const video = el("video", { autoplay: true, playsinline: true, width: "320" });
  video.muted = true;
  video.srcObject = stream;
  const shots = [];
  const count = el("span", { class: "soft", role: "status" });
  const take = () => {
    const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      const name = `camera-${shots.length + 1}.jpg`;
      shots.push({ file: new File([blob], name, { type: "image/jpeg" }), path: name });
      count.textContent = t("build.shots", { n: shots.length });
    }, "image/jpeg", 0.92);
  };
  const row = el("div", { class: "row" }, button(t("build.take"), take, { class: "main" }), button(t("build.camera_done"), () => endCamera(view)), count);
  view.camera = { label, stream, video, shots, box: el("div", {}, video, row) };
  cardOf(view, label).append(view.camera.box);
  row.querySelector("button").focus();
}

// Whatever ends the camera, what it took is not lost.
function endCamera(view) {
  const { camera } = view;
  if (!camera) return;
  view.camera = null;
  camera.stream.getTracks().forEach((one) => one.stop());
  camera.box.remove();
  if (camera.shots.length) send(view, camera.label, camera.shots);
}

function training(view, running) {
  const { build, fields: { quality } } = view;
  const card = el("div", { class: "card", id: "build-training" });
  const go = () => attempt(view, async () => update(view, await api(address(build, "train"), { json: { quality: quality.value } })), card);
  const stop = () => attempt(view, async () => update(view, await api(address(build, "train"), { method: "DELETE" })), card);
  const few = build.classes.filter((one) => one.pictures.length < 2).map((one) => one.label);
  const ready = build.classes.length > 1 && !few.length;
  const { work } = build;
  card.append(
    el("h2", {}, t("build.training")),
    ...(running
      ? [
          el("p", { role: "status" }, t("build.running"), " ", el("progress", { "aria-label": t("build.running") }), el("span", { class: "soft block", id: "build-line", lang: "en" }, work.lines.at(-1) ?? "")),
          el("div", { class: "row" }, button(t("learn.stop"), stop, { "data-focus": "stop" })),
        ]
      : [el("div", { class: "row" }, el("label", { for: quality.id }, t("build.quality")), quality, button(t("build.train"), go, { class: "main", disabled: !ready, "data-focus": "train" }))]),
    ...(ready ? [] : [el("p", { class: "soft" }, few.length && build.classes.length > 1 ? t("build.too_few", { names: few.join(", ") }) : t("build.not_ready"))]),
    ...(running || !work ? [] : ended(work)),
  );
  return card;
}

function ended({ state, error, result }) {
  if (error) return [el("p", { class: state === "stopped" ? "note" : "complaint" }, el("strong", { class: "block" }, t(`build.state.${state}`)), foreign(error))];
  const right = result?.accuracy;
  if (!right) return [el("p", { class: "note" }, t("build.not_scored"))];
  return [el("p", { class: "note" }, t("build.accuracy", { value: percent(right.value), n: right.n, low: percent(right.low), high: percent(right.high) }))];
}

function trying(view) {
  const { build, fields: { answers } } = view;
  const ask = (found) =>
    attempt(view, async () => {
      if (!found.length) throw new Error(t("try.no_picture"));
      unsay(view);
      const { model } = await api(address(build, "try"), { method: "POST" });
      for (const { file, path } of found) {
        const form = new FormData();
        form.append("file", file, path);
        const asked = `/v1/predict?${new URLSearchParams({ model, top: 3 })}`;
        answers.prepend(await patiently(() => api(asked, { body: form, signal: view.signal }), { signal: view.signal }).then(
          (told) => answer(file, told.answers[0]),
          (error) => el("p", { class: "complaint" }, `${path}: ${error.message}`),
        ));
      }
    }, card);
  const card = zone(
    { class: "card" },
    { id: "build-try" },
    ask,
    view,
    el("h2", {}, t("build.trying")),
    dropHint(),
    el("div", { class: "row" }, button(t("build.try"), () => card.choose(), { class: "main", "data-focus": "try" }), button(t("build.download"), () => fetchFile(view, card), { "data-focus": "download" })),
    answers,
  );
  return card;
}

function answer(file, told) {
  const unsure = told.unsure ? el("p", { class: "answer unsure" }, el("span", { class: "verdict unsure" }, t("verdict.unsure")), el("span", { class: "soft block" }, reason(told.reason))) : null;
  return el("div", { class: "tried" }, picture(URL.createObjectURL(file), file.name, { width: "96" }), el("div", {}, bars(told.top, null), unsure));
}

async function fetchFile(view, card) {
  await attempt(view, async () => {
    const blob = await api(address(view.build, "file"), { as: "blob" });
    const url = URL.createObjectURL(blob);
    el("a", { href: url, download: `${view.build.name}.tellapart` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }, card);
}
