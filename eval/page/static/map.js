// Two dimensions of the embeddings of queries and targets.

// Shape and colour both say the kind; queries are filled, targets hollow.
const KINDS = {
  text: ["circle", "--text-kind"],
  image: ["square", "--image-kind"],
  "image+text": ["diamond", "--both-kind"],
  video: ["triangle", "--video-kind"],
  other: ["cross", "--ink"],
};
const shownKind = (kind) => (kind in KINDS ? kind : kind.includes("video") ? "video" : "other");

function showMap() {
  const { points, places, methods } = data.map;
  if (!points.length) {
    byId("map-note").textContent = "No model has a sample of embeddings beside its predictions.";
    document.querySelector(".map-frame").hidden = true;
    return;
  }
  const kinds = points.map((point) => shownKind(data.items[point[2]].kind));
  const present = Object.keys(KINDS).filter((kind) => kinds.includes(kind));
  const counts = places.map((packed) => unpacked(packed).filter((number) => !Number.isNaN(number)).length);
  const state = { model: counts.lastIndexOf(Math.max(...counts)), task: "", kinds: new Set(present), roles: new Set(["0", "1"]), active: -1, kinds_of: kinds };
  const change = (key, value) => { state[key] = value; state.active = -1; draw(); };
  const draw = () => {
    state.places = unpacked(places[state.model]);
    byId("map-note").textContent =
      `${points.length} queries and targets in two dimensions (${methods[state.model]}): what a model holds for alike lies together. `
      + "Distances between groups mean little. A line leads from a query to its right target.";
    const words = data.map.collapsed[state.model];
    byId("map-warning").hidden = !words;
    byId("map-warning").textContent = words
      ? `⚠ ${data.models[state.model].name} has ${words}. A map is drawn as large as it can be: what looks like groups here is next to nothing, enlarged.` : "";
    drawMap(state);
    readMap(state);
  };
  const tasks = [...new Set(points.map((point) => point[0]))];
  byId("map-controls").append(
    select("Model", modelOptions(), state.model, (value) => change("model", Number(value))),
    select("Task", [["", "all"], ...taskOptions(tasks)], "", (value) => change("task", value)),
    ticks("Kind", Object.fromEntries(present.map((kind) => [kind, [kind, kindMark(kind)]])), (value) => change("kinds", value)),
    ticks("Side", { 0: ["queries (filled)", null], 1: ["targets (hollow)", null] }, (value) => change("roles", value)));
  listenMap(state);
  draw();
  onTheme.push(() => drawMap(state));
  new ResizeObserver(() => drawMap(state)).observe(byId("map-canvas"));
}

const CORNERS = {
  square: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
  diamond: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
  triangle: [[0, -1.3], [1.2, 0.9], [-1.2, 0.9]],
  cross: [[-1, -1], [1, 1], [0, 0], [1, -1], [-1, 1], [0, 0]],
};

function outline(shape, x, y, r) {
  const path = new Path2D();
  if (shape === "circle") path.arc(x, y, r, 0, 2 * Math.PI);
  else CORNERS[shape].forEach(([right, down]) => path.lineTo(x + right * r, y + down * r));
  path.closePath();
  return path;
}

function kindMark(kind) {
  const [shape, name] = KINDS[kind];
  const style = `fill: var(${name}); stroke: var(${name})`;
  const picture = svg("svg", { viewBox: "-8 -8 16 16", class: "mark", "aria-hidden": "true" });
  const points = CORNERS[shape]?.map(([right, down]) => [5.5 * right, 5.5 * down]).join(" ");
  picture.append(points ? svg("polygon", { points, style }) : svg("circle", { r: 5.5, style }));
  return picture;
}

const isShown = (state, number) => {
  const [task, role] = data.map.points[number];
  return state.kinds.has(state.kinds_of[number]) && state.roles.has(String(role))
    && (state.task === "" || String(task) === state.task) && !Number.isNaN(state.places[2 * number]);
};

function toScreen(state, number) {
  const { width, height } = state.size;
  return [width * (0.5 + 0.47 * state.places[2 * number]), height * (0.5 + 0.47 * state.places[2 * number + 1])];
}

function drawMap(state) {
  const canvas = byId("map-canvas");
  const ratio = window.devicePixelRatio || 1;
  state.size = { width: canvas.clientWidth, height: canvas.clientHeight };
  canvas.width = Math.round(state.size.width * ratio);
  canvas.height = Math.round(state.size.height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const paint = Object.fromEntries(Object.entries(KINDS).map(([kind, [, name]]) => [kind, `rgb(${colour(name).join(" ")})`]));
  const [paper, ink] = [`rgb(${colour("--raised").join(" ")})`, `rgb(${colour("--ink").join(" ")})`];
  state.visible = data.map.points.flatMap((_, number) => (isShown(state, number) ? [number] : []));
  canvas.dataset.points = state.visible.length;
  const radius = state.visible.length > 400 ? 3.5 : 4.5;
  const point = (number, r) => {
    const kind = state.kinds_of[number];
    const path = outline(KINDS[kind][0], ...toScreen(state, number), r);
    const hollow = data.map.points[number][1] === 1;
    context.lineWidth = 1.5;
    context.fillStyle = hollow ? paper : paint[kind];
    context.strokeStyle = paint[kind];
    context.fill(path);
    context.stroke(path);
  };
  for (const number of state.visible) point(number, radius);
  if (data.map.collapsed[state.model]) {
    context.font = "600 15px system-ui, sans-serif";
    context.fillStyle = `rgb(${colour("--miss").join(" ")})`;
    context.fillText("⚠ collapsed: these groups are next to nothing, enlarged", 12, 24);
  }
  if (state.active < 0) return;
  for (const pair of data.map.pairs.filter((found) => found.includes(state.active))) {
    context.beginPath();
    context.moveTo(...toScreen(state, pair[0]));
    context.lineTo(...toScreen(state, pair[1]));
    context.lineWidth = 1.5;
    context.strokeStyle = ink;
    context.stroke();
    pair.forEach((number) => point(number, radius + 1));
  }
  point(state.active, radius + 2.5);
  context.strokeStyle = ink;
  context.stroke(outline("circle", ...toScreen(state, state.active), radius + 6));
}

function listenMap(state) {
  const canvas = byId("map-canvas");
  const activate = (number) => {
    if (number === state.active) return;
    state.active = number;
    drawMap(state);
    readMap(state);
  };
  const nearest = (x, y, cost) => {
    let [best, least] = [-1, Infinity];
    for (const number of state.visible) {
      const [right, down] = toScreen(state, number);
      const found = cost(right - x, down - y);
      if (found < least) [best, least] = [number, found];
    }
    return best;
  };
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const found = nearest(event.clientX - box.left, event.clientY - box.top, (x, y) => (Math.hypot(x, y) < 30 ? Math.hypot(x, y) : Infinity));
    if (found >= 0) activate(found);
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!way || !state.visible.length) return;
    event.preventDefault();
    if (state.active < 0) return activate(nearest(0, 0, Math.hypot));
    const along = (x, y) => x * way[0] + y * way[1];
    const found = nearest(...toScreen(state, state.active), (x, y) =>
      // what lies in the direction of the key, rather straight ahead than near
      (along(x, y) > 0.5 ? Math.hypot(x, y) + 2 * (Math.hypot(x, y) - along(x, y)) : Infinity));
    if (found >= 0) activate(found);
  });
}

function readMap(state) {
  const readout = byId("map-readout");
  if (state.active < 0) {
    readout.replaceChildren(h("p", { class: "muted" }, `${state.visible.length} points. Point at one, or focus the map and press the arrow keys.`));
    return;
  }
  const [task, role, item] = data.map.points[state.active];
  readout.replaceChildren(
    h("p", {}, h("b", {}, role ? "Target" : "Query"), h("span", { class: "muted" }, ` of ${data.tasks[task].name}, ${data.items[item].kind}`)),
    itemElement(item));
}
