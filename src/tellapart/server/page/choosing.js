// A field to search among the classes of a model, as WAI-ARIA describes a combobox with a list.

import { announce, el, named, t } from "./common.js";

const SHOWN = 60;
let made = 0;

// Returns an element with `field` (the input), `value` (a label, "" for none) and `pick(label)`.
// fresh: a text that is no class may be picked as well, as a new one. picked(label): called when
// something is.
export function classChooser({ label, model, value = "", fresh = false, picked = () => {} }) {
  const id = `classes-${++made}`;
  const list = el("ul", { id, role: "listbox", hidden: true, "aria-label": label });
  const field = el("input", {
    type: "text",
    role: "combobox",
    id: `${id}-field`,
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
    maxlength: "255",
    placeholder: t(fresh ? "class.search_or_new" : "class.search"),
    "aria-expanded": "false",
    "aria-controls": id,
    "aria-autocomplete": "list",
  });
  const box = el("div", { class: "chooser" }, el("label", { for: field.id }, label), field, list);
  let options = [];
  let active = -1;

  const open = (yes) => {
    list.hidden = !yes;
    field.setAttribute("aria-expanded", String(yes));
    if (!yes) mark(-1);
  };
  const mark = (number) => {
    list.children[active]?.removeAttribute("aria-selected");
    active = number;
    const now = list.children[active];
    now?.setAttribute("aria-selected", "true");
    now?.scrollIntoView({ block: "nearest" });
    if (now) field.setAttribute("aria-activedescendant", now.id);
    else field.removeAttribute("aria-activedescendant");
  };
  const pick = (one, told = true) => {
    box.value = one;
    field.value = one ? named(one, model) : "";
    open(false);
    if (told) picked(one);
  };
  const draw = () => {
    const text = field.value.trim();
    options = matching(text, model);
    const n = options.length;
    const more = n > SHOWN;
    options = options.slice(0, SHOWN);
    if (fresh && text && !exact(text, model)) options.push(text);
    list.replaceChildren(
      ...options.map((one, number) =>
        el(
          "li",
          {
            id: `${id}-${number}`,
            role: "option",
            mousedown: (event) => event.preventDefault(), // The field keeps the focus.
            click: () => pick(one),
          },
          model?.classes.includes(one) || !fresh ? shown(one, model) : t("class.new", { name: one }),
        ),
      ),
    );
    if (more) list.append(el("li", { class: "soft", role: "presentation" }, t("class.more", { n: n - SHOWN })));
    if (!options.length) list.append(el("li", { class: "soft", role: "presentation" }, t("class.none")));
    open(true);
    mark(text && options.length ? 0 : -1);
    announce(t("class.found", { n: options.length }));
  };
  const move = (by) => {
    if (list.hidden) return draw();
    if (options.length) mark((active + by + options.length) % options.length);
  };
  field.addEventListener("input", draw);
  field.addEventListener("click", () => list.hidden && draw());
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown") move(1);
    else if (event.key === "ArrowUp") move(active < 0 ? 0 : -1);
    else if (event.key === "Enter" && !list.hidden && options[active]) pick(options[active]);
    else if (event.key === "Escape" && !list.hidden) open(false);
    else if (event.key === "Escape") field.blur();
    else return;
    event.preventDefault();
  });
  field.addEventListener("blur", () => {
    const text = field.value.trim();
    const one = exact(text, model);
    open(false);
    if (!text && box.value) pick("");
    else if (one && one !== box.value) pick(one);
    else if (!one || one === box.value) pick(box.value, false);
  });
  Object.assign(box, { field, pick });
  pick(value, false);
  return box;
}

// The label of a class that is called so, by label or by name; "" for none.
export function exact(text, model) {
  if (!model) return "";
  if (model.classes.includes(text)) return text;
  const lower = text.toLowerCase();
  const called = model.classes.filter((one) => named(one, model).toLowerCase() === lower);
  return called.length === 1 ? called[0] : "";
}

function matching(text, model) {
  const wanted = text.toLowerCase();
  const rank = (one) => {
    const name = named(one, model).toLowerCase();
    if (name.startsWith(wanted) || one.toLowerCase() === wanted) return 0;
    return name.split(/[\s_-]/).some((word) => word.startsWith(wanted)) ? 1 : 2;
  };
  const collator = new Intl.Collator(undefined, { numeric: true });
  return (model?.classes ?? [])
    .filter((one) => `${named(one, model)} ${one}`.toLowerCase().includes(wanted))
    .sort((a, b) => rank(a) - rank(b) || collator.compare(named(a, model), named(b, model)));
}

function shown(one, model) {
  const name = named(one, model);
  return name === one ? [name] : [name, " ", el("span", { class: "soft" }, one)];
}
