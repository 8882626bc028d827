// Looking closer: the pictures of a cell, and every figure as CSV, JSON and PNG. The page is whole
// without this; its hash stands in the content security policy, and nothing is ever fetched.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const title = document.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "") || "report";

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  // --- The pictures of a cell -------------------------------------------------------------
  const panel = document.getElementById("cell");
  const most = 60;
  let opener = null;

  function open(cell) {
    opener = cell.matches("td") ? cell.querySelector("button") : cell;
    for (const other of document.querySelectorAll("[data-cell][aria-current]")) {
      other.removeAttribute("aria-current");
    }
    cell.setAttribute("aria-current", "true");
    const cards = [...document.querySelectorAll(`.card[data-of="${cell.dataset.cell}"]`)];
    const n = Number(cell.dataset.n);
    const heading = make("h3", { id: "cell-head", tabIndex: -1 });
    heading.textContent = cell.dataset.words;
    const close = make("button", { type: "button", textContent: "Close" });
    close.addEventListener("click", shut);
    panel.replaceChildren(make("div", { className: "cellbar" }, heading, close));
    const shown = cards.slice(0, most);
    if (shown.length < n) {
      const some = shown.length ? `${shown.length} of them are shown here.` : "The page has no room for them.";
      panel.append(make("p", { className: "soft", textContent: some }));
    }
    const list = make("ul", { className: "grid" });
    for (const card of shown) {
      const copy = card.cloneNode(true);
      copy.querySelector("p").append(make("small", { textContent: card.querySelector("img").alt }));
      list.append(copy);
    }
    panel.append(list);
    panel.hidden = false;
    heading.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
  }

  function shut() {
    panel.hidden = true;
    document.querySelector("[data-cell][aria-current]")?.removeAttribute("aria-current");
    opener?.focus();
  }

  // One stop of the tab key for all cells; arrows move between them.
  const stops = [];
  for (const cell of document.querySelectorAll("[data-cell]")) {
    const [row, column] = cell.dataset.cell.split("-").map(Number);
    let stop = cell;
    if (cell.matches("td")) {
      stop = make("button", { type: "button" });
      stop.append(...cell.childNodes);
      cell.append(stop);
    } else {
      cell.setAttribute("role", "button");
    }
    stop.setAttribute("aria-label", cell.dataset.words);
    stop.setAttribute("tabindex", stops.length ? -1 : 0);
    stop.addEventListener("click", () => open(cell));
    stop.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
      if (down || right) {
        event.preventDefault();
        move(row, column, down, right, stop);
      } else if (!cell.matches("td") && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        open(cell);
      }
    });
    stops.push({ row, column, stop });
  }

  function move(row, column, down, right, from) {
    const ahead = stops.filter((one) =>
      down ? Math.sign(one.row - row) === down : one.row === row && Math.sign(one.column - column) === right);
    const distance = (one) => Math.abs(one.row - row) * 1e6 + Math.abs(one.column - column);
    const next = ahead.sort((a, b) => distance(a) - distance(b))[0];
    if (next) {
      from.setAttribute("tabindex", -1);
      next.stop.setAttribute("tabindex", 0);
      next.stop.focus();
    }
  }

  for (const link of document.querySelectorAll("button[data-open]")) {
    link.addEventListener("click", () => open(document.querySelector(`[data-cell="${link.dataset.open}"]`)));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel && !panel.hidden) shut();
  });

  // --- Figures as files -------------------------------------------------------------------
  function save(name, address) {
    make("a", { download: `${title}-${name}`, href: address }).click();
  }

  function saveText(name, text, kind) {
    const address = URL.createObjectURL(new Blob([text], { type: kind }));
    save(name, address);
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  function csv({ columns, rows }) {
    const quoted = (value) => {
      const text = value === null ? "" : String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
  }

  function objects({ columns, rows }) {
    return rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
  }

  // The figure as it stands, drawn by the browser itself from a copy that carries its style.
  async function png(figure) {
    const copy = figure.cloneNode(true);
    copy.querySelectorAll(".files, details.more").forEach((part) => part.remove());
    const width = Math.max(figure.scrollWidth, ...[...figure.querySelectorAll("table")].map((t) => t.scrollWidth)) + 48;
    const caption = make("p", { textContent: `${document.title}: ${figure.dataset.title}` });
    const root = make("div", { className: "picture" }, caption, copy);
    root.setAttribute("style", `width:${width}px`);
    document.body.append(root);
    const height = Math.ceil(root.getBoundingClientRect().height);
    root.remove();
    const rules = document.querySelector("style").textContent;
    const holder = make("div", {}, make("style", { textContent: rules }), root);
    const scale = Math.min(2, 16000 / height, 16000 / width);
    const page = new XMLSerializer().serializeToString(holder);
    const drawing = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><foreignObject width="100%" height="100%">${page}</foreignObject></svg>`;
    const image = new Image();
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(drawing);
    await image.decode();
    const canvas = make("canvas", { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.drawImage(image, 0, 0);
    return canvas.toDataURL("image/png");
  }

  for (const figure of document.querySelectorAll("[data-figure]")) {
    const name = figure.dataset.figure;
    const bar = make("p", { className: "files" }, "Save as ");
    const add = (kind, action) => {
      const button = make("button", { type: "button", textContent: kind });
      button.setAttribute("aria-label", `Save ${figure.dataset.title} as ${kind}`);
      button.addEventListener("click", action);
      bar.append(button, " ");
    };
    if (figures[name]) {
      add("CSV", () => saveText(`${name}.csv`, csv(figures[name]), "text/csv"));
      add("JSON", () => saveText(`${name}.json`, JSON.stringify(objects(figures[name]), null, 1), "application/json"));
    }
    add("PNG", async () => {
      try {
        save(`${name}.png`, await png(figure));
      } catch {
        bar.append(make("span", { role: "alert", textContent: "This browser cannot draw it; print the page instead." }));
      }
    });
    figure.append(bar);
  }
  document.documentElement.classList.add("live");
})();
