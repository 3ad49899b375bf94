// Queries as cards, with what a model found for them.

const CARDS = 12; // of a page: pictures of other pages are not decoded

function showGallery() {
  const counts = data.models.map((_, place) => data.gallery.filter((card) => card.answers[place]).length);
  const last = counts.lastIndexOf(Math.max(...counts)); // of those with most to show
  const state = { model: last, task: "", outcome: "all", words: "", page: 0, found: data.gallery };
  const change = (key, value) => {
    Object.assign(state, { [key]: value, page: 0 });
    drawGallery(state);
  };
  const tasks = [...new Set(data.gallery.map((card) => card.task))];
  const search = h("input", { type: "search", id: "search", autocomplete: "off", oninput: () => change("words", search.value) });
  const outcomes = [["all", "All"], ["hit", "Hits"], ["miss", "Misses"]];
  byId("gallery-controls").append(
    select("Model", modelOptions(), last, (value) => change("model", Number(value))),
    select("Task", [["", "all"], ...taskOptions(tasks)], "", (value) => change("task", value)),
    h("fieldset", {}, h("legend", {}, "Outcome"),
      h("div", { class: "segments", id: "outcome" }, segments(outcomes, "all", (value) => change("outcome", value)))),
    h("label", { class: "grow" }, h("span", {}, "Search in queries and answers"), search));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea, dialog");
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing) return;
    event.preventDefault();
    search.focus();
  });
  drawGallery(state);
}

function matches(card, { model, task, outcome, words }) {
  if (task !== "" && String(card.task) !== task) return false;
  const answer = card.answers[model];
  if (!answer) return false;
  if (outcome !== "all" && answer.hit !== (outcome === "hit")) return false;
  if (!words.trim()) return true;
  const places = [card.query, ...card.gold, ...answer.top.map(([item]) => item)];
  const text = places.map((place) => data.items[place].text || "").join("\n").toLowerCase();
  return words.toLowerCase().trim().split(/\s+/).every((word) => text.includes(word));
}

function drawGallery(state) {
  state.found = data.gallery.filter((card) => matches(card, state));
  const pages = Math.max(1, Math.ceil(state.found.length / CARDS));
  const turn = (step) => {
    state.page = Math.min(pages - 1, Math.max(0, state.page + step));
    drawGallery(state);
    byId("gallery-controls").scrollIntoView({ block: "start" });
    byId("cards").querySelector("button")?.focus({ preventScroll: true });
  };
  const hits = state.found.filter((card) => card.answers[state.model].hit).length;
  byId("gallery-count").textContent =
    `${state.found.length} of ${data.gallery.length} examples: ${hits} ${hits === 1 ? "hit" : "hits"}, `
    + `${state.found.length - hits} ${state.found.length - hits === 1 ? "miss" : "misses"}`;
  const from = state.page * CARDS;
  const none = data.gallery.some((card) => card.answers[state.model]) ? "" : "There are no predictions of this model.";
  if (!state.found.length) byId("gallery-count").append(` ${none}`);
  byId("cards").replaceChildren(...state.found.slice(from, from + CARDS).map((card, place) => cardElement(state, card, from + place)));
  byId("pager").replaceChildren(...(pages === 1 ? [] : [
    h("button", { type: "button", disabled: state.page === 0, onclick: () => turn(-1) }, "← Previous"),
    h("span", {}, `Page ${state.page + 1} of ${pages}`),
    h("button", { type: "button", disabled: state.page === pages - 1, onclick: () => turn(1) }, "Next →"),
  ]));
}

function cardElement(state, card, place) {
  const answer = card.answers[state.model];
  const name = `${data.tasks[card.task].name} ${card.number}`;
  return h("article", { class: "card", "aria-label": `${name}, ${answer.tied ? "tie" : answer.hit ? "hit" : "miss"}` },
    h("header", {}, h("h3", {}, data.tasks[card.task].name, h("span", { class: "muted" }, ` #${card.number}`)), badge(answer)),
    part("Query", null, itemElement(card.query)),
    goldPart(card, cosine(answer.gold_score)),
    part("Found", null, foundList(answer)),
    h("button", { type: "button", "aria-haspopup": "dialog", onclick: () => openCard(state, place) },
      data.models.length > 1 ? "Compare models" : "Open", h("span", { class: "hidden-text" }, ` on ${name}`)));
}

function badge(answer) {
  if (answer.tied) {
    const others = `${answer.tied - 1} other${answer.tied > 2 ? "s" : ""}`;
    return h("span", { class: "badge miss" }, `≈ tied with ${others} (${percent(answer.value)})`);
  }
  const value = answer.value === undefined ? "" : ` (${percent(answer.value)})`;
  return h("span", { class: `badge ${answer.hit ? "hit" : "miss"}` }, `${answer.hit ? "✓ hit" : "✗ miss"}${value}`);
}

function part(name, note, ...children) {
  return h("div", { class: "part" }, h("h4", {}, name, note === null ? null : h("span", {}, note)), children);
}

function goldPart(card, note) {
  const more = card.num_gold - card.gold.length;
  return part(card.num_gold > 1 ? `Right answers (${card.num_gold})` : "Right answer", note,
    card.gold.map(itemElement), more > 0 ? h("p", { class: "muted small" }, `and ${more} more`) : null);
}

function foundList(answer) {
  return h("ol", { class: "found" }, answer.top.map(([item, score, right], place) =>
    h("li", {}, h("span", { class: "rank" }, `${place + 1}.`), itemElement(item),
      h("span", { class: "score" }, cosine(score), right ? h("span", { class: "right" }, h("br"), "✓ right") : null))));
}

// An item: its pictures or frames, instruction and text.
function itemElement(place) {
  const item = data.items[place];
  const pictures = [...(item.images || []), ...(item.frames || [])];
  const text = item.text || "";
  return h("div", { class: "item" },
    pictures.length ? h("div", { class: pictures.length > 1 ? "pictures many" : "pictures" }, pictures.map(pictureElement)) : null,
    item.num_frames ? h("div", { class: "muted small" }, `video of ${item.num_frames} ${item.num_frames === 1 ? "frame" : "frames"}`) : null,
    item.instruction ? h("div", { class: "clamp instruction" }, item.instruction) : null,
    text ? h("div", { class: "clamp" }, text + (item.length ? "…" : "")) : null,
    item.length ? h("div", { class: "muted small" }, `the first ${text.length} of ${item.length} characters`) : null);
}

function pictureElement(picture) {
  if (typeof picture === "string") return h("span", { class: "absent" }, picture);
  return h("img", { src: data.pictures[picture], alt: "picture" });
}

function openCard(state, place) {
  const dialog = byId("detail");
  const card = state.found[place];
  const opener = document.activeElement;
  const go = (step) => openCard(state, place + step);
  const button = (label, attributes) => h("button", { type: "button", ...attributes }, label);
  dialog.replaceChildren(
    h("div", { class: "dialog-head" },
      h("h2", { id: "detail-title" }, `${data.tasks[card.task].name} #${card.number}`),
      button("← Previous", { disabled: place === 0, onclick: () => go(-1) }),
      button("Next →", { disabled: place === state.found.length - 1, onclick: () => go(1) }),
      button("Close", { id: "close", onclick: () => dialog.close() })),
    h("div", { class: "dialog-body" },
      h("div", { class: "sides" }, part("Query", null, itemElement(card.query)), goldPart(card, null)),
      h("div", { class: "sides" }, card.answers.map((answer, model) =>
        h("section", { class: "answer" },
          h("header", {}, h("h3", {}, data.models[model].name), answer ? badge(answer) : null),
          answer ? part("Found", `right answer: ${cosine(answer.gold_score)}`, foundList(answer)) : h("p", { class: "muted" }, "not evaluated"))))));
  if (!dialog.open) {
    dialog.showModal();
    dialog.addEventListener("close", () => opener.isConnected && opener.focus(), { once: true });
  }
  byId("close").focus();
}
