// One picture large, and why it is answered as it is: a map over it that can be switched on.

import { announce, api, complaint, el, named, patiently, percent, t } from "./common.js";

// As in the drawings of the command line; told apart by lightness as well.
const FOR = [208, 60, 0];
const AGAINST = [40, 96, 214];
const STRONGEST = 0.8;

// A picture that the browser may not be able to show.
export function picture(url, alt, properties = {}) {
  const image = el("img", { src: url, alt, decoding: "async", ...properties });
  image.addEventListener("error", () =>
    image.replaceWith(el("span", { class: "nopicture soft", role: "img", "aria-label": alt }, t("look.cannot_show"))),
  );
  return image;
}

// The bars of the most probable classes, as a list.
export function bars(top, model) {
  return el(
    "ol",
    { class: "bars", "aria-label": t("look.bars") },
    top.map(({ label, confidence }, number) => {
      const filled = el("span");
      filled.style.width = `${100 * confidence}%`;
      return el(
        "li",
        { class: number ? null : "first" },
        el("span", { class: "name" }, named(label, model)),
        el("span", { class: "share" }, percent(confidence)),
        el("span", { class: "bar", "aria-hidden": "true" }, filled),
      );
    }),
  );
}

// A picture with its switch for the map. Returns the element; `toggle()` switches.
export function explainable(item, model, signal) {
  const frame = el("div", { class: "frame" }, picture(item.url, item.path));
  const labels = [...new Set([...item.answer.top.map(({ label }) => label), item.declared].filter(Boolean))];
  const field = el("select", { "aria-label": t("look.why_for"), change: () => show() }, labels.map((label) => el("option", { value: label }, named(label, model))));
  const toggle = el("input", { type: "checkbox", role: "switch", change: () => show() });
  const legend = el("p", { class: "legend soft", hidden: true }, el("span", { class: "speaks" }, t("look.for")), " ", el("span", { class: "against" }, t("look.against")));
  const said = el("div");
  const found = new Map();

  const show = async () => {
    frame.querySelector("canvas")?.remove();
    frame.classList.remove("explained");
    legend.hidden = true;
    said.replaceChildren();
    if (!toggle.checked) return;
    const label = field.value;
    const asked = `/v1/explain?model=${encodeURIComponent(model.name)}&label=${encodeURIComponent(label)}`;
    try {
      if (!found.has(label)) {
        frame.classList.add("busy");
        const ask = () => api(asked, { body: form(item), signal });
        found.set(label, await patiently(ask, { signal }));
      }
      if (!toggle.checked || field.value !== label) return;
      frame.append(overlay(found.get(label), named(label, model)));
      frame.classList.add("explained");
      legend.hidden = false;
      announce(t("look.shown", { name: named(label, model) }));
    } catch (error) {
      if (!signal.aborted) said.replaceChildren(complaint(error));
      toggle.checked = false;
    } finally {
      frame.classList.remove("busy");
    }
  };
  const element = el(
    "figure",
    {},
    frame,
    el("figcaption", { class: "row" }, el("label", { class: "switch" }, toggle, " ", t("look.why")), field),
    legend,
    said,
  );
  element.toggle = () => {
    toggle.checked = !toggle.checked;
    show();
  };
  return element;
}

function form(item) {
  const body = new FormData();
  body.append("file", item.file, "picture");
  return body;
}

// The heat as a canvas of one pixel a place, which the browser makes larger smoothly.
function overlay({ heat, box }, name) {
  const [rows, columns] = [heat.length, heat[0].length];
  const canvas = el("canvas", { width: columns, height: rows, role: "img", "aria-label": t("look.shown", { name }) });
  const [left, top, right, bottom] = box;
  Object.assign(canvas.style, {
    left: `${100 * left}%`,
    top: `${100 * top}%`,
    width: `${100 * (right - left)}%`,
    height: `${100 * (bottom - top)}%`,
  });
  const strongest = Math.max(...heat.flat().map(Math.abs)) || 1;
  const pixels = new ImageData(columns, rows);
  heat.flat().forEach((value, place) => {
    const alpha = 255 * STRONGEST * (Math.abs(value) / strongest);
    pixels.data.set([...(value > 0 ? FOR : AGAINST), alpha], 4 * place);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
