// The cosines of a task's first queries with their targets, a matrix for each model.

function showMatrices() {
  const known = data.matrices.flatMap((matrix, place) => (matrix.models.some(Boolean) ? [place] : []));
  if (!known.length) {
    byId("matrix-figures").append(h("p", { class: "muted" }, "No model has a sample of embeddings."));
    return;
  }
  const state = { task: known[0], scale: "shared", row: 0, column: 0, views: [] };
  const draw = () => drawMatrices(state);
  byId("matrix-controls").append(
    select("Task", taskOptions(known), state.task, (value) => {
      Object.assign(state, { task: Number(value), row: 0, column: 0 });
      draw();
    }),
    select("Colours", [["shared", "one scale for all models"], ["own", "a scale for each model"]], "shared",
      (value) => { state.scale = value; draw(); }));
  draw();
  onTheme.push(draw);
}

function drawMatrices(state) {
  const { models, size } = data.matrices[state.task];
  const there = models.filter(Boolean);
  const shared = [Math.min(...there.map((one) => one.range[0])), Math.max(...there.map((one) => one.range[1]))];
  state.views = [];
  byId("matrix-figures").replaceChildren(...models.flatMap((one, place) => {
    if (!one) return []; // the model has no embeddings of this task
    const caption = h("figcaption", {}, h("h3", {}, data.models[place].name));
    const range = state.scale === "shared" ? shared : one.range;
    const cells = unpacked(one.cells);
    const rest = one.off_diagonal === null ? [] : [` · elsewhere `, h("b", {}, cosine(one.off_diagonal))];
    caption.append(h("span", { class: "muted" }, "diagonal ", h("b", {}, cosine(one.diagonal)), ...rest));
    const canvas = h("canvas", { width: size, height: size, tabindex: 0, role: "application",
      "aria-label": `Cosines of ${size} queries and targets, ${data.models[place].name}; the arrow keys move`,
      "aria-describedby": "matrix-readout" });
    paintMatrix(canvas, cells, range);
    const frame = h("div", { class: "cell", hidden: true });
    state.views.push({ place, cells, frame, canvas });
    listen(canvas, state, size);
    return h("figure", {}, caption, h("div", { class: "matrix" }, canvas, frame), legendOf(range));
  }));
  const copies = Math.max(...there.map((one) => one.copies));
  const note = copies ? `${copies} cells off the diagonal hold a copy of the query's right target, and are rightly high.` : "";
  byId("matrix-readout").replaceChildren(h("p", { class: "muted" },
    "Point at a cell, or focus a matrix and press the arrow keys. ", note));
}

// From the ground over the accent to the ink: higher is further from the ground, in even steps.
function ramp() {
  const [ground, accent, ink] = [colour("--raised"), colour("--accent"), colour("--ink")];
  const stops = [ground, ground.map((value, channel) => (value + accent[channel]) / 2), accent, ink];
  return (share) => {
    const place = Math.min(2.999, Math.max(0, 3 * share));
    const [from, to, part] = [stops[Math.floor(place)], stops[Math.floor(place) + 1], place % 1];
    return from.map((value, channel) => value + part * (to[channel] - value));
  };
}

function paintMatrix(canvas, cells, [low, high]) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const shade = ramp();
  cells.forEach((value, place) => {
    image.data.set([...shade((value - low) / (high - low || 1)), 255], 4 * place);
  });
  context.putImageData(image, 0, 0);
}

function legendOf([low, high]) {
  const bar = h("canvas", { width: 128, height: 1, "aria-hidden": "true" });
  paintMatrix(bar, Float64Array.from({ length: 128 }, (_, place) => place / 127), [0, 1]);
  return h("div", { class: "scale" }, cosine(low), bar, cosine(high));
}

function listen(canvas, state, size) {
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (offset, length) => Math.min(size - 1, Math.max(0, Math.floor((size * offset) / length)));
    Object.assign(state, { column: at(event.clientX - box.left, box.width), row: at(event.clientY - box.top, box.height) });
    readMatrix(state, size);
  };
  canvas.addEventListener("pointermove", place);
  canvas.addEventListener("pointerdown", place);
  canvas.addEventListener("focus", () => readMatrix(state, size));
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -size], End: [0, size] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    state.row = Math.min(size - 1, Math.max(0, state.row + step[0]));
    state.column = Math.min(size - 1, Math.max(0, state.column + step[1]));
    readMatrix(state, size);
  });
}

// The same cell of every model, framed in each matrix, and what stands there.
function readMatrix({ task, row, column, views }, size) {
  for (const { frame } of views) {
    frame.hidden = false;
    const share = 100 / size;
    frame.style.cssText = `left: ${column * share}%; top: ${row * share}%; width: ${share}%; height: ${share}%`;
  }
  const { labels } = data.matrices[task];
  const values = views.flatMap(({ place, cells }, number) => [
    number ? " · " : "", `${data.models[place].name} `, h("b", { "data-model": place }, cosine(cells[row * size + column]))]);
  const line = (name, number, text) => h("p", {}, h("span", { class: "muted" }, `${name} ${number}: `), text || "");
  byId("matrix-readout").replaceChildren(
    h("p", {}, values, row === column ? h("span", { class: "muted" }, " (the right target)") : ""),
    line("query", row, labels[row]?.[0]),
    line("target", column, labels[column]?.[1]));
}
