// Elements, controls and the theme, of the report's page and of the app's (unime/app). Texts are only
// ever put into text nodes and attributes, never parsed as HTML.

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

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

const cosine = (number) => number.toFixed(3).replace("-", "−");

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
