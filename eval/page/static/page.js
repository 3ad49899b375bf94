// What every part of the page uses: the data, elements, controls, the theme. Texts of the data are
// only ever put into text nodes and attributes, never parsed as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function start() {
  showTheme();
  showHeader();
  showAverages();
  showTasks();
  showSizes();
  showDrawn();
  showMatrices();
  showMap();
  showGallery();
  showProvenance();
  markSection();
  hintScrolling();
}

// h("button", {class: "x", onclick: f}, "text", child, …)
function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function select(label, options, chosen, onchange) {
  // options: [value, text] or [value, text, group]
  const field = h("select", { onchange: () => onchange(field.value) });
  const groups = new Map([[undefined, field]]);
  for (const [value, text, group] of options) {
    if (!groups.has(group)) {
      groups.set(group, h("optgroup", { label: group }));
      field.append(groups.get(group));
    }
    groups.get(group).append(h("option", { value, selected: String(value) === String(chosen) }, text));
  }
  return h("label", {}, h("span", {}, label), field);
}

function segments(options, chosen, onchoose) {
  const buttons = options.map(([value, text]) =>
    h("button", { type: "button", "data-value": value, onclick: () => choose(value) }, text));
  const press = (value) => buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.value === value));
  const choose = (value) => {
    press(value);
    onchoose(value);
  };
  press(chosen);
  return buttons;
}

function ticks(legend, options, onchange) {
  // options: {value: [text, mark]}; calls onchange with the Set of what is ticked
  const boxes = Object.keys(options).map((value) => h("input", { type: "checkbox", value, checked: true }));
  const changed = () => onchange(new Set(boxes.filter((box) => box.checked).map((box) => box.value)));
  const labels = boxes.map((box) => h("label", {}, box, options[box.value][1], h("span", {}, options[box.value][0])));
  return h("fieldset", { onchange: changed }, h("legend", {}, legend), h("div", { class: "ticks" }, labels));
}

const modelOptions = () => data.models.map((model, place) => [place, model.name]);
const taskOptions = (places) => places.map((place) => [place, data.tasks[place].name, data.tasks[place].meta_task]);
const percent = (number) => (100 * number).toFixed(1);
const cosine = (number) => number.toFixed(3).replace("-", "−");
const interval = (cell) => `${percent(cell[1])}–${percent(cell[2])}`;
const signed = (number) => (number < 0 ? "−" : "+") + percent(Math.abs(number));

// The baseline is grey, the last model has the accent, and those between have hues of their own,
// which stay the model's when the baseline changes.
const HUES = 6; // --model-1 … of the style sheet
function modelColour(place, baseline) {
  if (place === baseline) return "var(--edge)";
  return place === data.models.length - 1 ? "var(--accent)" : `var(--model-${(place % HUES) + 1})`;
}

// A text that breaks between its words only: not at the hyphen of "micro-36".
const unbroken = (text) => text.split(/( )/).map((word) =>
  (word.includes("-") && word.length < 16 ? h("span", { class: "whole" }, word) : word));

// What has more to the right fades there.
function hintScrolling() {
  const mark = (box) => box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 4);
  const sized = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target.closest(".scroll"))));
  for (const box of document.querySelectorAll(".scroll")) {
    box.addEventListener("scroll", () => mark(box), { passive: true });
    for (const part of [box, ...box.children]) sized.observe(part);
  }
}

// What a colour of the style sheet is now: [red, green, blue] of 255.
function colour(name) {
  const context = h("canvas", { width: 1, height: 1 }).getContext("2d");
  const probe = h("span", { style: `color: var(${name})` });
  document.body.append(probe);
  context.fillStyle = getComputedStyle(probe).color;
  probe.remove();
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

// Numbers between -1 and 1 that eval.page.maps.packed wrote; NaN where there is none.
function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 2 }, (_, place) => {
    const steps = view.getInt16(2 * place, true);
    return steps === -32768 ? NaN : steps / 32767;
  });
}

const onTheme = []; // what draws anew when the colours change

function showTheme() {
  const kept = (value) => {
    try {
      if (value === undefined) return sessionStorage.getItem("theme") || "auto";
      sessionStorage.setItem("theme", value);
    } catch { /* a browser may refuse storage to files */ }
    return value || "auto";
  };
  const apply = (value) => {
    if (value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = value;
    for (const draw of onTheme) draw();
  };
  const names = [["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]];
  byId("theme").append(...segments(names, kept(), (value) => apply(kept(value))));
  apply(kept());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => onTheme.forEach((draw) => draw()));
}

function showHeader() {
  const names = data.models.map((model) => model.name);
  document.title = `${names.join(", ")} on ${data.suite}`;
  byId("title").textContent = data.suite;
  const commits = [...new Set(data.models.map((model) => model.facts.commit))].join(", ");
  const limit = data.limit === null ? "all queries" : `only the first ${data.limit} queries of each task`;
  byId("facts").textContent = [
    `${data.tasks.length} ${data.tasks.length === 1 ? "task" : "tasks"}`, limit, `commit ${commits}`, data.written,
  ].join(" · ");
  const main = data.overall;
  const best = Math.max(...main.cells.map((cell) => (cell ? cell[0] : 0)));
  byId("figures").append(...main.cells.map((cell, place) =>
    h("li", { class: cell && cell[0] === best ? "best" : null },
      h("span", { class: "name" }, names[place]),
      h("span", { class: "number" }, cell ? percent(cell[0]) : "—"),
      h("span", { class: "small" }, cell ? `${main.label}, 95 % interval ${interval(cell)}` : "no average"),
      data.models[place].warnings.length ? h("a", { class: "small", href: "#warnings" }, "⚠ see the warning below") : null)));
  byId("warnings").append(...data.models.filter((model) => model.warnings.length).map(({ name, warnings }) =>
    h("div", { class: "warning", role: "note" }, h("p", {}, h("b", {}, `⚠ Warning: ${name}`)),
      h("ul", {}, warnings.map((words) => h("li", {}, words))))));
}

function markSection() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((found) => found.isIntersecting)) {
      for (const [id, link] of links) link.toggleAttribute("aria-current", id === entry.target.id);
    }
  }, { rootMargin: "-30% 0px -65% 0px" });
  for (const id of links.keys()) observer.observe(byId(id));
}
