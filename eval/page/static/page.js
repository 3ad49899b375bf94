// What every part of the page uses: the data, the header, models' colours.

const data = JSON.parse(document.getElementById("data").textContent);

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

const modelOptions = () => data.models.map((model, place) => [place, model.name]);
const taskOptions = (places) => places.map((place) => [place, data.tasks[place].name, data.tasks[place].meta_task]);
const percent = (number) => (100 * number).toFixed(1);
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
