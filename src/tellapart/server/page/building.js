// Build a classifier: name classes, give them pictures, train, try, fetch. All of it is kept by the
// server; this module only remembers which build is open, and small pictures of what was added.

import { announce, api, button, complaint, el, named, pause, percent, session, t, when } from "./common.js";
import { chosen, dropped } from "./asking.js";

export default { id: "build", role: "admin", show };

const state = { open: null, small: new Map() };

function show(place) {
  if (!session.me.builds) {
    place.append(el("p", { class: "note" }, t("build.not_offered")));
    return;
  }
  const stop = new AbortController();
  const body = el("div");
  place.append(body);
  const view = { body, signal: stop.signal, camera: null };
  if (state.open) openBuild(view, state.open);
  else list(view);
  return () => {
    stop.abort();
    endCamera(view);
  };
}

function say(view, error) {
  if (view.signal.aborted) return;
  view.body.querySelector(".complaint")?.remove();
  view.body.append(complaint(error));
}

const attempt = (view, work) => work().catch((error) => say(view, error));

async function list(view) {
  state.open = null;
  await attempt(view, async () => {
    const builds = await api("/v1/builds", { signal: view.signal });
    const field = el("input", { type: "text", id: "build-name", maxlength: "100", required: true });
    const make = (event) => {
      event.preventDefault();
      if (!field.value.trim()) return field.focus();
      attempt(view, async () => openBuild(view, (await api("/v1/builds", { json: { name: field.value.trim() } })).id));
    };
    view.body.replaceChildren(
      el(
        "form",
        { class: "card", submit: make },
        el("label", { for: field.id }, t("build.name")),
        el("div", { class: "row" }, field, el("button", { class: "main" }, t("build.make"))),
        el("p", { class: "soft" }, t("build.what")),
      ),
      ...builds.map((one) =>
        el(
          "div",
          { class: "card" },
          el("h2", {}, one.name),
          el("p", { class: "soft" }, t("build.facts", { classes: one.classes.length, n: pictures(one), when: when(one.made) })),
          el("div", { class: "row" }, button(t("build.open"), () => openBuild(view, one.id), { "aria-label": `${t("build.open")}: ${one.name}` }), erase(view, one)),
        ),
      ),
    );
  });
}

function erase(view, build) {
  return twice(t("build.delete"), t("build.delete_really"), () =>
    attempt(view, async () => {
      await gone(`/v1/builds/${build.id}`);
      await list(view);
    }),
  );
}

// A button that asks before it does something for good.
function twice(text, really, act) {
  const made = button(text, () => {
    if (made.dataset.asked) return act();
    made.dataset.asked = "yes";
    made.textContent = really;
  });
  made.addEventListener("blur", () => {
    delete made.dataset.asked;
    made.textContent = text;
  });
  return made;
}

// An answer without a body is none that `api` reads.
async function gone(path) {
  await api(path, { method: "DELETE", as: "blob" });
}

const pictures = (build) => build.classes.reduce((sum, one) => sum + one.pictures.length, 0);

async function openBuild(view, id) {
  state.open = id;
  await attempt(view, async () => {
    try {
      await follow(view, await api(`/v1/builds/${id}`, { signal: view.signal }));
    } catch (error) {
      if (error.status !== 404) throw error;
      await list(view);
    }
  });
}

// Draw a build, again and again as long as it is being trained.
async function follow(view, build) {
  draw(view, build);
  while (build.work?.state === "running" && !view.signal.aborted) {
    await pause(1, view.signal);
    build = await api(`/v1/builds/${build.id}`, { signal: view.signal });
    if (build.work.state === "running") {
      const line = view.body.querySelector("#build-line");
      if (line) line.textContent = build.work.lines.at(-1) ?? "";
      continue;
    }
    draw(view, build);
    announce(t(`build.state.${build.work.state}`));
  }
}

function draw(view, build) {
  endCamera(view);
  const running = build.work?.state === "running";
  const field = el("input", { type: "text", id: "class-name", maxlength: "100" });
  const add = (event) => {
    event.preventDefault();
    const label = field.value.trim();
    if (!label) return field.focus();
    if (!build.classes.some((one) => one.label === label)) build.classes.push({ label, pictures: [] });
    draw(view, build);
    view.body.querySelector(`[data-label="${CSS.escape(label)}"] button`)?.focus();
  };
  view.body.replaceChildren(
    el("p", { class: "row" }, button(t("build.back"), () => list(view), { class: "plain" })),
    el("h2", {}, build.name),
    el(
      "form",
      { class: "card", submit: add },
      el("label", { for: field.id }, t("build.class")),
      el("div", { class: "row" }, field, el("button", {}, t("build.add_class"))),
      el("p", { class: "soft" }, t("build.advice")),
    ),
    ...build.classes.map((one) => classCard(view, build, one, running)),
    training(view, build, running),
    build.has_file && !running ? trying(view, build) : "",
  );
}

function classCard(view, build, one, running) {
  const files = el("input", { type: "file", class: "unseen", tabindex: "-1", "aria-hidden": "true", accept: "image/*", multiple: true, "data-files": one.label, change: (event) => send(view, build, one.label, chosen(event.target)) });
  const zone = el(
    "div",
    {
      class: "card zone",
      "data-label": one.label,
      dragover: (event) => (event.preventDefault(), zone.classList.add("over")),
      dragleave: () => zone.classList.remove("over"),
      drop: (event) => {
        event.preventDefault();
        dropped(event.dataTransfer).then((found) => send(view, build, one.label, found), (error) => say(view, error));
      },
    },
    el("h2", {}, one.label, " ", el("span", { class: "soft" }, t("build.pictures", { n: one.pictures.length }))),
    el("p", { class: "row" }, one.pictures.slice(-40).map((hash) => thumbnail(view, build, hash))),
    el(
      "div",
      { class: "row" },
      button(t("build.choose"), () => files.click(), { disabled: running, "aria-label": `${t("build.choose")}: ${one.label}` }),
      navigator.mediaDevices ? button(t("build.camera"), () => startCamera(view, build, one.label, zone), { disabled: running, "aria-label": `${t("build.camera")}: ${one.label}` }) : null,
      twice(t("build.drop_class"), t("build.drop_really"), () => dropClass(view, build, one)),
    ),
    files,
  );
  return zone;
}

function thumbnail(view, build, hash) {
  const url = state.small.get(hash);
  const out = () =>
    attempt(view, async () => {
      draw(view, await api(`/v1/builds/${build.id}/pictures/${hash}`, { method: "DELETE" }));
    });
  if (!url) return null;
  return button([el("img", { src: url, alt: "", width: "56", height: "56" })], out, { class: "plain", title: t("build.take_out"), "aria-label": t("build.take_out") });
}

function dropClass(view, build, one) {
  return attempt(view, async () => {
    if (!one.pictures.length) build.classes.splice(build.classes.indexOf(one), 1);
    else build = await api(`/v1/builds/${build.id}/classes?${new URLSearchParams({ label: one.label })}`, { method: "DELETE" });
    draw(view, build);
  });
}

// Send pictures in requests that the server takes.
async function send(view, build, label, found) {
  const { pictures: most, request_mb } = session.me;
  const left = [];
  await attempt(view, async () => {
    for (let start = 0; start < found.length; ) {
      const form = new FormData();
      let size = 0;
      const sent = [];
      while (start < found.length && sent.length < most && (!sent.length || size + found[start].file.size < request_mb * 9e5)) {
        const { file } = found[start++];
        form.append("file", file, file.name);
        size += file.size;
        sent.push(file);
      }
      announce(t("build.sending", { n: found.length }));
      const told = await api(`/v1/builds/${build.id}/pictures?${new URLSearchParams({ label })}`, { body: form });
      left.push(...told.left_out);
      if (told.added.length === sent.length) told.added.forEach((hash, row) => state.small.set(hash, URL.createObjectURL(sent[row])));
      build = told.build;
    }
    draw(view, build);
    if (left.length) say(view, new Error(left.map((one) => `${one.file}: ${one.reason}`).join("; ")));
    announce(t("build.added", { n: found.length - left.length, label }));
  });
}

async function startCamera(view, build, label, zone) {
  endCamera(view);
  await attempt(view, async () => {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (view.signal.aborted) return stream.getTracks().forEach((one) => one.stop());
    const video = el("video", { autoplay: true, playsinline: true, muted: true, width: "320" });
    video.srcObject = stream;
    const shots = [];
    const count = el("span", { class: "soft", role: "status" });
    const take = () => {
      const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((blob) => {
        shots.push({ file: new File([blob], `camera-${shots.length + 1}.jpg`, { type: "image/jpeg" }) });
        count.textContent = t("build.shots", { n: shots.length });
      }, "image/jpeg", 0.92);
    };
    const done = () => {
      endCamera(view);
      if (shots.length) send(view, build, label, shots);
    };
    view.camera = { stream, box: el("div", {}, video, el("div", { class: "row" }, button(t("build.take"), take, { class: "main" }), button(t("build.camera_done"), done), count)) };
    zone.append(view.camera.box);
  });
}

function endCamera(view) {
  view.camera?.stream.getTracks().forEach((one) => one.stop());
  view.camera?.box.remove();
  view.camera = null;
}

function training(view, build, running) {
  const quality = el("select", { id: "build-quality" }, ["fast", "balanced", "best"].map((one) => el("option", { value: one }, t(`build.quality.${one}`))));
  const go = () =>
    attempt(view, async () => follow(view, await api(`/v1/builds/${build.id}/train`, { json: { quality: quality.value } })));
  const ready = build.classes.filter((one) => one.pictures.length).length >= 2;
  const found = build.work?.result;
  return el(
    "div",
    { class: "card" },
    el("h2", {}, t("build.training")),
    running
      ? el("p", { role: "status" }, t("build.running"), " ", el("progress"), el("span", { class: "soft block", id: "build-line" }, build.work.lines.at(-1) ?? ""))
      : el("div", { class: "row" }, el("label", { for: quality.id }, t("build.quality")), quality, button(t("build.train"), go, { class: "main", disabled: !ready })),
    !ready ? el("p", { class: "soft" }, t("build.not_ready")) : null,
    build.work?.error ? el("p", { class: "complaint" }, build.work.error) : null,
    found?.accuracy ? el("p", {}, t("build.accuracy", { value: percent(found.accuracy.value), n: found.accuracy.n, low: percent(found.accuracy.low), high: percent(found.accuracy.high) })) : null,
    found && !found.accuracy ? el("p", {}, t("build.not_scored")) : null,
  );
}

function trying(view, build) {
  const out = el("div", { role: "status" });
  const ask = (found) =>
    attempt(view, async () => {
      const { model } = await api(`/v1/builds/${build.id}/try`, { method: "POST" });
      for (const { file } of found.slice(0, session.me.pictures)) {
        const form = new FormData();
        form.append("file", file, file.name);
        const told = await api(`/v1/predict?${new URLSearchParams({ model, top: 3 })}`, { body: form });
        out.prepend(answer(file, told.answers[0]));
      }
    });
  const files = el("input", { type: "file", class: "unseen", tabindex: "-1", "aria-hidden": "true", accept: "image/*", multiple: true, id: "build-try", change: (event) => ask(chosen(event.target)) });
  return el(
    "div",
    { class: "card" },
    el("h2", {}, t("build.trying")),
    el("div", { class: "row" }, button(t("build.try"), () => files.click()), button(t("build.download"), () => fetchFile(view, build))),
    files,
    out,
  );
}

function answer(file, told) {
  const said = told.error ?? told.top.map((one) => `${named(one.label, null)} ${percent(one.confidence)}`).join(", ");
  const unsure = told.unsure ? el("span", { class: "verdict unsure" }, t("verdict.unsure")) : null;
  return el("p", { class: "row" }, el("img", { src: URL.createObjectURL(file), alt: file.name, width: "72" }), el("strong", {}, told.label ?? ""), el("span", { class: "soft" }, said), unsure);
}

async function fetchFile(view, build) {
  await attempt(view, async () => {
    const blob = await api(`/v1/builds/${build.id}/file`, { as: "blob" });
    const address = URL.createObjectURL(blob);
    el("a", { href: address, download: `${build.name}.tellapart` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  });
}
