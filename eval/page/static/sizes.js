// The curve of scores over the number of dimensions that are kept.

function showSizes() {
  if (!data.sizes.length) {
    byId("sizes").remove();
    byId("sizes-link").remove();
    return;
  }
  const names = data.sizes.map(({ label }, place) => [place, label]);
  byId("sizes-controls").append(select("Score", names, 0, (value) => draw(data.sizes[Number(value)])));
  byId("sizes-legend").append(...data.models.map((model, place) => h("span", {},
    h("i", { style: `background: ${modelColour(place, data.baseline)}` }), model.name)));
  const draw = (curve) => {
    byId("sizes-figure").replaceChildren(sizesPicture(curve));
    const sizes = sizesOf(curve);
    const rows = data.models.map(({ name }, place) =>
      ({ name, cells: sizes.map((size) => curve.models[place].find((point) => point[0] === size)?.slice(1)) }));
    sortedTable(byId("sizes-table"), [nameColumn, ...sizes.map((size, column) => scoreColumn(String(size), column, rows))], rows);
  };
  draw(data.sizes[0]);
}

const sizesOf = ({ models }) =>
  [...new Set(models.flat().map(([size]) => size))].sort((a, b) => a - b);

// A line a model over the logarithm of the size, intervals as whiskers, chance dashed.
function sizesPicture({ label, chance, models }) {
  const [width, height, left, right, top, bottom] = [640, 260, 34, 14, 10, 24];
  const sizes = sizesOf({ models });
  const logs = sizes.map(Math.log);
  const span = logs.at(-1) - logs[0] || 1;
  const x = (size) => left + (width - left - right) * (sizes.length > 1 ? (Math.log(size) - logs[0]) / span : 0.5);
  const y = (score) => top + (height - top - bottom) * (1 - Math.min(1, Math.max(0, score)));
  const said = data.models.map(({ name }, place) =>
    `${name}: ${models[place].map(([size, score]) => `${percent(score)} at ${size}`).join(", ") || "not scored"}`);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", role: "img", "aria-label": `${label} by dimensions; ${said.join("; ")}` });
  const line = (from, to, style) =>
    picture.append(svg("line", { x1: from[0], y1: from[1], x2: to[0], y2: to[1], style }));
  const write = (words, at, anchor) => {
    const text = svg("text", { x: at[0], y: at[1], "text-anchor": anchor });
    text.textContent = words;
    picture.append(text);
  };
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    line([left, y(tick)], [width - right, y(tick)], "stroke: var(--line)");
    write(String(100 * tick), [left - 6, y(tick) + 4], "end");
  }
  for (const size of sizes) write(String(size), [x(size), height - 6], "middle");
  if (chance !== null) {
    line([left, y(chance)], [width - right, y(chance)], "stroke: var(--ink); stroke-dasharray: 2 3; opacity: .6");
  }
  models.forEach((points, place) => {
    const stroke = `stroke: ${modelColour(place, data.baseline)}`;
    const path = points.map(([size, score]) => `${x(size)},${y(score)}`).join(" ");
    picture.append(svg("polyline", { points: path, style: `${stroke}; fill: none; stroke-width: 2` }));
    for (const [size, score, low, high] of points) {
      line([x(size), y(low)], [x(size), y(high)], `${stroke}; opacity: .6`);
      picture.append(svg("circle", { cx: x(size), cy: y(score), r: 3.5, style: `fill: ${modelColour(place, data.baseline)}` }));
    }
  });
  return picture;
}
